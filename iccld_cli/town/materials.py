"""Procedural texture tiles: walls, windows, ground covers, foliage, vehicles' glass.

A tile is a square (SIZE, SIZE, 5) float32 array in 0..1: display-encoded RGB, a tint mask (1 where the face's own
colour multiplies the texture, 0 for glass, frames or signs that keep theirs) and a cut-out mask (1 solid).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZE = 128
"""Edge of a tile in texels."""

Painter = Callable[[np.random.Generator, bool], np.ndarray]


def noise(rng: np.random.Generator, cells: int, octaves: int = 4, size: int = SIZE, fade: float = 0.5) -> np.ndarray:
    """Tileable fractal noise (size, size) float32, about zero mean and within -1..1."""
    out = np.zeros((size, size), np.float32)
    weight, total = 1.0, 0.0
    for _ in range(octaves):
        if cells > size:
            break
        grid = np.pad(rng.uniform(-1, 1, (cells, cells)).astype(np.float32), 2, mode="wrap")
        step = size / cells
        at = (np.arange(size, dtype=np.float32) + 0.5) / step + 1.5
        mx, my = np.meshgrid(at, at)
        out += weight * cv2.remap(grid, mx, my, cv2.INTER_CUBIC)
        total += weight
        weight *= fade
        cells *= 2
    return out / total


def _blank(base: float = 0.85) -> np.ndarray:
    tile = np.ones((SIZE, SIZE, 5), np.float32)
    tile[..., :3] = base
    return tile


def _rect(tile: np.ndarray, x0: float, y0: float, x1: float, y1: float, rgb: tuple, mask: float | None = 0.0) -> None:
    """Paints a rectangle given in tile fractions."""
    a, b, c, d = (round(v * SIZE) for v in (y0, y1, x0, x1))
    tile[a:b, c:d, :3] = rgb
    if mask is not None:
        tile[a:b, c:d, 3] = mask


def plain(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Paint or cloth: almost uniform."""
    tile = _blank(0.97)
    tile[..., :3] += (0.03 if gritty else 0.015) * noise(rng, 4)[..., None]
    return tile


def plaster(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Rendered wall, with run-off stains when gritty."""
    tile = _blank(0.9)
    tile[..., :3] += 0.05 * noise(rng, 8, 4)[..., None]
    if gritty:
        streak = cv2.resize(noise(rng, 16, 3), None, fx=1, fy=1)
        streak = cv2.blur(streak, (1, 41), borderType=cv2.BORDER_REFLECT)
        tile[..., :3] += (0.12 * np.minimum(streak, 0) - 0.05 * np.abs(noise(rng, 3, 5)))[..., None]
    return tile


def brick(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Running-bond bricks with mortar."""
    rows, cols = (16, 5) if not gritty else (20, 6)
    tile = _blank(0.8)
    h, w = SIZE / rows, SIZE / cols
    tile[..., :3] = 0.92 if not gritty else 0.7
    for r in range(rows):
        for c in range(-1, cols + 1):
            x = (c + 0.5 * (r % 2)) * w
            tone = 0.78 + rng.uniform(-0.13, 0.1)
            if c == cols:
                continue
            x0, x1 = max(round(x + 1), 0), min(round(x + w - 1), SIZE)
            tile[round(r * h) + 1 : round((r + 1) * h), x0:x1, :3] = tone * np.array([1, 0.96, 0.93])
    tile[..., :3] += 0.06 * noise(rng, 16, 3)[..., None]
    return tile


def concrete(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Cast panels with joints."""
    tile = _blank(0.82)
    tile[..., :3] += (0.1 * noise(rng, 4, 6) + 0.03 * rng.normal(size=(SIZE, SIZE)))[..., None]
    for k in (0, SIZE // 2):
        tile[k : k + 2, :, :3] *= 0.72
        tile[:, k : k + 2, :3] *= 0.72
    return tile


def rooftile(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Rows of roof tiles, darker at each overlap."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    rows, cols = 8, 10
    r = np.floor(y * rows)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (x * cols + 0.5 * (r % 2)))
    tile = _blank()
    tile[..., :3] = (0.6 + 0.22 * ((y * rows) % 1) + 0.14 * wave + 0.1 * noise(rng, 16, 3))[..., None]
    return tile


def planks(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Horizontal boards with grain."""
    tile = _blank(0.82)
    grain = cv2.blur(rng.normal(size=(SIZE, SIZE * 2)).astype(np.float32), (31, 1))[:, 32 : 32 + SIZE]
    tile[..., :3] += (0.35 * grain)[..., None]
    for k in range(0, SIZE, 16):
        tile[k : k + 16, :, :3] += rng.uniform(-0.08, 0.06)
        tile[k : k + 2, :, :3] *= 0.55
    return tile


def metal(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Corrugated sheet."""
    x = np.arange(SIZE) / SIZE
    tile = _blank()
    tile[..., :3] = (0.82 + 0.13 * np.sin(2 * np.pi * 16 * x))[None, :, None]
    tile[..., :3] += 0.06 * noise(rng, 4, 4)[..., None] - (0.1 if gritty else 0) * np.abs(noise(rng, 5, 4))[..., None]
    return tile


def stone(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Irregular masonry: cells of the nearest of scattered points, dark joints."""
    n = 40 if not gritty else 60
    pts = rng.uniform(0, 1, (n, 2))
    tone = rng.uniform(0.72, 0.92, n)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    dx = np.abs(x[..., None] - pts[:, 0])
    dy = np.abs(y[..., None] - pts[:, 1])
    d = np.hypot(np.minimum(dx, 1 - dx), 1.5 * np.minimum(dy, 1 - dy))
    near = np.sort(d, -1)
    tile = _blank()
    tile[..., :3] = (tone[d.argmin(-1)] + 0.08 * noise(rng, 16, 3))[..., None]
    tile[near[..., 1] - near[..., 0] < 0.014] *= np.array([0.72, 0.72, 0.72, 1, 1], np.float32)
    return tile


def bark(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Vertical ridges."""
    tile = _blank(0.75)
    ridge = cv2.blur(rng.normal(size=(SIZE * 2, SIZE)).astype(np.float32), (3, 31))[32 : 32 + SIZE]
    tile[..., :3] += (0.9 * ridge)[..., None]
    return tile


def asphalt(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Road surface: fine grain, and cracks with patches when gritty."""
    tile = _blank(0.86)
    tile[..., :3] += ((0.045 if gritty else 0.03) * rng.normal(size=(SIZE, SIZE)) + 0.05 * noise(rng, 3, 4))[..., None]
    if gritty:
        crack = np.abs(noise(rng, 2, 5)) < 0.006
        tile[..., :3] *= np.where(crack, 0.74, 1.0)[..., None]
    return tile


def paver(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Sidewalk slabs."""
    n = 4 if not gritty else 6
    tile = _blank(0.86)
    step = SIZE // n
    for r in range(n):
        for c in range(n):
            tile[r * step : (r + 1) * step, c * step : (c + 1) * step, :3] += rng.uniform(-0.06, 0.05)
    for k in range(0, n * step, step):
        tile[k : k + 2, :, :3] *= 0.74
        tile[:, k : k + 2, :3] *= 0.74
    tile[..., :3] += (0.03 * rng.normal(size=(SIZE, SIZE)) + (0.08 if gritty else 0.03) * noise(rng, 3, 4))[..., None]
    return tile


def grass(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Lawn: short vertical strokes of several greens."""
    tile = _blank(0.74)
    blades = cv2.blur(rng.normal(size=(SIZE, SIZE)).astype(np.float32), (1, 5))
    tile[..., :3] += (0.28 * blades + 0.13 * noise(rng, 4, 4))[..., None]
    hue = noise(rng, 5, 3)
    tile[..., 0] += 0.12 * hue + (0.12 * np.abs(noise(rng, 7, 3)) if gritty else 0)
    return tile


def dirt(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Bare soil with pebbles."""
    tile = _blank(0.76)
    tile[..., :3] += (0.16 * noise(rng, 6, 5, fade=0.8) + 0.05 * rng.normal(size=(SIZE, SIZE)))[..., None]
    return tile


def stains(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Large-scale variation laid over every surface, centred on 0.5."""
    tile = _blank(0.5)
    tile[..., :3] += ((0.2 if gritty else 0.1) * noise(rng, 3, 6, fade=0.62))[..., None]
    return tile


def leaves(rng: np.random.Generator, gritty: bool, count: int = 150, long: float = 1.6) -> np.ndarray:
    """A ragged cluster of leaves, lighter towards its upper edge."""
    tile = _blank(0.3)
    tile[..., 4] = 0
    for k in range(count):
        r = 0.44 * np.sqrt(rng.uniform())
        a = rng.uniform(0, 2 * np.pi)
        x, y = 0.5 + r * np.cos(a), 0.5 + r * np.sin(a)
        size = rng.uniform(0.045, 0.085) * SIZE
        tone = 0.56 + 0.36 * k / count + rng.uniform(-0.12, 0.12) - 0.22 * (y - 0.5)
        rgb = tone * np.array([rng.uniform(0.85, 1.12), 1.0, rng.uniform(0.75, 1.0)])
        box = ((x * SIZE, y * SIZE), (size, size * long), rng.uniform(0, 180))
        layer = np.zeros((SIZE, SIZE), np.uint8)
        cv2.ellipse(layer, box, 255, -1)
        tile[layer > 0, :3] = rgb
        tile[layer > 0, 4] = 1
    # Leaf colour bleeds into the holes so that small mip levels do not darken.
    tile[tile[..., 4] == 0, :3] = tile[tile[..., 4] > 0, :3].mean(0)
    return tile


def needles(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A conifer twig cluster."""
    return leaves(rng, gritty, count=200, long=3.0)


def twigs(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Bare branches: a forking fan of thin lines."""
    tile = _blank(0.7)
    mask = np.zeros((SIZE, SIZE), np.uint8)

    def grow(x: float, y: float, angle: float, length: float, width: int) -> None:
        x1, y1 = x + length * np.cos(angle), y - length * np.sin(angle)
        cv2.line(mask, (round(x), round(y)), (round(x1), round(y1)), 255, width)
        if length > 5:
            for _ in range(3):
                grow(x1, y1, angle + rng.uniform(-0.75, 0.75), length * rng.uniform(0.6, 0.85), max(width - 1, 1))

    grow(SIZE / 2, SIZE - 4, np.pi / 2, 27, 4)
    tile[..., 4] = mask > 0
    return tile
