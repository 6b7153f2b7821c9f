"""Trees and bushes: tapered trunks and crowns made of leafy cut-outs that face the viewer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from iccld_cli.town.atlas import TILES
from iccld_cli.town.mesh import Builder, Look, Mesh, vec

VEGETATION = 8
VARIANTS = 3
BARK = (0.16, 0.11, 0.075)


def _crown(rng: np.random.Generator, count: int, squash: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) filling a lumpy unit ball, and their outward directions."""
    lumps = rng.normal(size=(6, 3))
    lumps = 0.5 * lumps / np.linalg.norm(lumps, axis=1, keepdims=True) * (1, squash, 1)
    d = rng.normal(size=(count, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    points = lumps[rng.integers(6, size=count)] + 0.46 * d * rng.uniform(0.5, 1, (count, 1)) ** 0.5
    return points, points / (np.linalg.norm(points, axis=1, keepdims=True) + 1e-6)


def _shades(b: Builder, centres: np.ndarray, sizes: np.ndarray, normals: np.ndarray, tile: str, rng) -> None:
    """Adds leaf cut-outs in five depths of tone: dark low and inside, light on top."""
    tone = np.clip(0.5 + 0.38 * normals[:, 1] + rng.uniform(-0.18, 0.18, len(centres)), 0, 0.999)
    turns = rng.uniform(-0.7, 0.7, len(centres)) + np.where(rng.uniform(size=len(centres)) < 0.5, 0, np.pi)
    if tile == "twigs":
        turns = rng.uniform(-0.6, 0.6, len(centres))
    for k in range(5):
        pick = (tone * 5).astype(int) == k
        if pick.any():
            shade = 0.62 + 0.14 * k
            look = Look(VEGETATION, (shade, shade, shade), slot=0, tile=tile)
            b.sprites(centres[pick], sizes[pick], turns[pick], normals[pick], look)


@lru_cache(maxsize=64)
def tree(kind: str, variant: int, detail: int) -> Mesh:
    """A tree about 8 m tall; scale it when placing.

    Args:
        kind: "round", "tall", "conifer" or "bare".
        variant: 0..VARIANTS-1.
        detail: 2 near, 1 middle, 0 far.

    Returns:
        Mesh labelled vegetation, foliage colour in slot 0.
    """
    rng = np.random.default_rng([31, variant, ("round", "tall", "conifer", "bare").index(kind)])
    b = Builder(TILES)
    trunk = Look(VEGETATION, BARK, tile="bark")
    count, grow = ((26, 1.5), (56, 1.12), (110, 0.85))[detail]
    if kind == "conifer":
        b.tube((0, 0, 0), (0, 7.5, 0), 0.2, 0.05, trunk, 6)
        h = rng.uniform(0, 1, count) ** 1.35
        a = rng.uniform(0, 2 * np.pi, count)
        r = (1 - h) * 1.75 * rng.uniform(0.45, 1, count)
        centres = np.stack([r * np.cos(a), 1.2 + 6.6 * h, r * np.sin(a)], -1)
        normals = np.stack([np.cos(a), np.full(count, 0.4) + 0.5 * (r / 1.75), np.sin(a)], -1)
        _shades(
            b, centres, grow * (1.3 - 0.7 * h), normals / np.linalg.norm(normals, axis=1, keepdims=True), "needles", rng
        )
        return b.build()
    lean = rng.uniform(-0.25, 0.25, 2)
    fork = np.array([lean[0], 2.9, lean[1]])
    b.tube((0, 0, 0), fork, 0.21, 0.15, trunk, 7)
    squash, high = (1.5, 5.8) if kind == "tall" else (0.95, 5.3)
    for k in range(5):
        way = 2 * np.pi * k / 5 + rng.uniform(-0.4, 0.4)
        tip = fork + vec(1.3 * np.cos(way), rng.uniform(1.4, 2.8), 1.3 * np.sin(way))
        b.tube(fork, tip, 0.1, 0.04, trunk, 5)
        if kind == "bare":
            for _ in range(2):
                out = tip + rng.uniform(-0.9, 0.9, 3) + vec(0, 1.0, 0)
                b.tube(tip, out, 0.045, 0.02, trunk, 4)
    points, normals = _crown(rng, count // (2 if kind == "bare" else 1), squash)
    radius = 1.9 if kind == "tall" else 2.5
    if kind == "bare":
        centres = np.array([0, high - 0.2, 0]) + points * (2.3, 2.2, 2.3)
        _shades(b, centres, np.full(len(points), 1.9 * grow), normals, "twigs", rng)
    else:
        centres = np.array([0, high, 0]) + points * radius
        _shades(b, centres, grow * rng.uniform(1.25, 1.75, count), normals, f"leaf{variant}", rng)
    return b.build()


@lru_cache(maxsize=64)
def bush(variant: int, detail: int) -> Mesh:
    """A bush about 1.3 m tall."""
    rng = np.random.default_rng([37, variant])
    b = Builder(TILES)
    count, grow = ((8, 1.3), (16, 1.0), (34, 0.8))[detail]
    points, normals = _crown(rng, count, 0.8)
    centres = np.array([0, 0.6, 0]) + points * (0.85, 0.68, 0.85)
    centres[:, 1] = np.maximum(centres[:, 1], 0.2)
    _shades(b, centres, grow * rng.uniform(0.55, 0.8, count), normals, f"leaf{variant % 3}", rng)
    return b.build()


@lru_cache(maxsize=64)
def hedge(length: float, detail: int) -> Mesh:
    """A clipped hedge along z from 0 to ``length``: a dark core inside leafy cut-outs."""
    rng = np.random.default_rng([41, round(length * 10)])
    b = Builder(TILES)
    b.box(
        (0, 0.5, length / 2),
        (0.55, 0.95, length - 0.2),
        Look(VEGETATION, (0.5, 0.5, 0.5), slot=0, tile="grass"),
        metre=1,
    )
    count = round(length * (7, 12, 22)[detail])
    face = rng.integers(3, size=count)
    x = np.where(face == 0, rng.uniform(-0.3, 0.3, count), np.where(face == 1, -0.32, 0.32))
    y = np.where(face == 0, 1.0, rng.uniform(0.15, 1.0, count))
    centres = np.stack([x, y, rng.uniform(0.1, length - 0.1, count)], -1)
    normals = np.stack([np.where(face == 0, 0, np.sign(x)), np.where(face == 0, 1.0, 0.25), np.zeros(count)], -1)
    _shades(b, centres, (0.62, 0.5, 0.4)[detail] * rng.uniform(0.8, 1.2, count), normals, "leaf1", rng)
    return b.build()
