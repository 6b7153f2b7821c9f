"""Street furniture: lamps, traffic lights, signs, fences, walls and small things.

Everything faces -z, towards a driver who comes along +z, and stands on y = 0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from iccld_cli.town.atlas import TILES
from iccld_cli.town.facades import OUTLINES
from iccld_cli.town.mesh import Builder, Look, Mesh, vec

BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VOID = 2, 3, 4, 5, 6, 7, 255
STEEL = (0.3, 0.31, 0.32)
BULBS = ((0.95, 0.06, 0.03), (1.0, 0.6, 0.05), (0.08, 0.95, 0.35))


@lru_cache(maxsize=8)
def lamp(kind: int) -> Mesh:
    """A street lamp: 0 curved arm, 1 straight double arm, 2 short park lantern; arm towards -x (the road)."""
    b = Builder(TILES)
    pole, head = Look(POLE, STEEL, slot=0), Look(POLE, (0.95, 0.9, 0.75), glow=0.35)
    if kind == 2:
        b.tube((0, 0, 0), (0, 3.6, 0), 0.075, 0.055, pole, 8)
        b.tube((0, 3.6, 0), (0, 4.0, 0), 0.12, 0.22, head, 6)
        b.tube((0, 4.0, 0), (0, 4.15, 0), 0.27, 0.05, pole, 6, "z")
        return b.build()
    b.tube((0, 0, 0), (0, 0.9, 0), 0.13, 0.11, pole, 8)
    b.tube((0, 0.9, 0), (0, 7.6, 0), 0.095, 0.065, pole, 8)
    for side in (-1,) if kind == 0 else (-1, 1):
        b.tube((0, 7.5, 0), (side * 1.0, 8.1, 0), 0.06, 0.05, pole, 6)
        b.tube((side * 1.0, 8.1, 0), (side * 1.9, 8.2, 0), 0.05, 0.04, pole, 6)
        b.box((side * 2.1, 8.2, 0), (0.8, 0.14, 0.3), Look(POLE, STEEL, slot=0))
        b.box((side * 2.1, 8.12, 0), (0.6, 0.04, 0.24), head, skip="")
    return b.build()


def _signal(b: Builder, at: np.ndarray, state: int, side: float) -> None:
    """One signal head, its back plate facing -z; state 0 red, 1 amber, 2 green."""
    case = Look(LIGHT, (0.03, 0.035, 0.03))
    b.box(at, (0.34, 0.98, 0.26), case, skip="")
    b.box(at + vec(0, 0, 0.05), (0.5, 1.14, 0.02), case, skip="")
    for k in range(3):
        on = k == state
        color = np.array(BULBS[k]) * (1.0 if on else 0.1)
        y = at[1] + 0.31 - 0.31 * k
        angle = 2 * np.pi * np.arange(10) / 10
        ring = np.stack([at[0] + 0.12 * np.cos(angle), y + 0.12 * np.sin(angle), np.full(10, at[2] - 0.14)], -1)
        b.polygon(ring, Look(LIGHT, tuple(color), glow=1.6 if on else 0.0), at)
        b.box((at[0], y + 0.13, at[2] - 0.2), (0.28, 0.02, 0.16), case, skip="")


@lru_cache(maxsize=16)
def traffic_light(kind: int, state: int) -> Mesh:
    """Signals on a pole.

    Args:
        kind: 0 post at the kerb, 1 mast arm reaching over the road (towards -x).
        state: 0 red, 1 amber, 2 green.

    Returns:
        Mesh with the pole labelled pole and the heads traffic light.
    """
    b = Builder(TILES)
    pole = Look(POLE, STEEL, slot=0)
    if kind == 0:
        b.tube((0, 0, 0), (0, 3.4, 0), 0.075, 0.065, pole, 8)
        _signal(b, np.array([0, 2.95, -0.2]), state, 0)
        return b.build()
    b.tube((0, 0, 0), (0, 6.2, 0), 0.13, 0.1, pole, 8)
    b.tube((0, 5.8, 0), (-4.6, 6.1, 0), 0.08, 0.05, pole, 6, "z")
    _signal(b, np.array([0, 2.95, -0.26]), state, 0)
    for x in (-2.4, -4.4):
        _signal(b, np.array([x, 5.6, -0.12]), state, 0)
    return b.build()


def _plate(b: Builder, name: str, x: float, y: float, size: tuple[float, float], z: float = -0.07) -> None:
    """A printed plate facing -z with a grey back facing +z."""
    hx, hy = size[0] / 2, size[1] / 2
    front = [(x - hx, y + hy, z), (x + hx, y + hy, z), (x + hx, y - hy, z), (x - hx, y - hy, z)]
    b.faces([front], Look(SIGN, tile=f"sign_{name}"), normals=np.array([[0, 0, -1.0]]))
    rear = [
        (x + hx, y + hy, z + 0.01),
        (x - hx, y + hy, z + 0.01),
        (x - hx, y - hy, z + 0.01),
        (x + hx, y - hy, z + 0.01),
    ]
    grey = Look(SIGN, (0.45, 0.46, 0.47), tile=f"back_{OUTLINES.get(name, 'round')}")
    b.faces([rear], grey, normals=np.array([[0, 0, 1.0]]))


@lru_cache(maxsize=64)
def sign(name: str, second: str | None = None) -> Mesh:
    """A road sign on its pole, with an optional second plate below."""
    b = Builder(TILES)
    height = 3.0 if second else 2.6
    b.tube((0, 0, 0), (0, height, 0), 0.04, 0.04, Look(POLE, STEEL), 6, "z")
    _plate(b, name, 0, height - 0.32, (0.76, 0.76))
    if second:
        _plate(b, second, 0, height - 1.1, (0.7, 0.7))
    return b.build()


@lru_cache(maxsize=4)
def gantry(wide: float) -> Mesh:
    """A direction board on two posts, ``wide`` metres across."""
    b = Builder(TILES)
    for x in (-wide / 2 + 0.4, wide / 2 - 0.4):
        b.tube((x, 0, 0), (x, 3.6, 0), 0.07, 0.07, Look(POLE, STEEL), 6, "z")
    _plate(b, "guide", 0, 2.75, (wide, 1.7), -0.1)
    return b.build()


@lru_cache(maxsize=128)
def fence(kind: str, length: float, height: float) -> Mesh:
    """A see-through fence along z from 0 to ``length``; colour in slot 0."""
    b = Builder(TILES)
    n = max(round(length / (2.0 * height)), 1)
    for side in (-1.0, 1.0):
        x = side * 0.012
        quad = [(x, height, 0), (x, height, length), (x, 0.04, length), (x, 0.04, 0)]
        b.faces([quad], Look(FENCE, slot=0, tile=f"fence_{kind}"), normals=np.array([[side, 0, 0]]), reps=(n, 1))
    for k in range(n + 1):
        b.box((0, height / 2 + 0.03, k * length / n), (0.09, height + 0.06, 0.09), Look(FENCE, slot=0))
    return b.build()


@lru_cache(maxsize=128)
def wall(tile: str, length: float, height: float) -> Mesh:
    """A free-standing wall along z from 0 to ``length`` with a coping; colour in slot 0."""
    b = Builder(TILES)
    b.box((0, height / 2, length / 2), (0.3, height, length), Look(WALL, slot=0, tile=tile), metre=1.6)
    b.box(
        (0, height + 0.05, length / 2), (0.42, 0.1, length), Look(WALL, (0.5, 0.49, 0.46), tile="concrete"), metre=2.0
    )
    return b.build()


@lru_cache(maxsize=4)
def bollard() -> Mesh:
    """A knee-high post at the kerb."""
    b = Builder(TILES)
    b.tube((0, 0, 0), (0, 0.95, 0), 0.07, 0.06, Look(POLE, STEEL, slot=0), 8, "z")
    b.tube((0, 0.75, 0), (0, 0.87, 0), 0.072, 0.072, Look(POLE, (0.9, 0.9, 0.88)), 8)
    return b.build()


@lru_cache(maxsize=4)
def bin_(kind: int) -> Mesh:
    """A litter bin or a utility cabinet; neither belongs to a class."""
    b = Builder(TILES)
    if kind == 0:
        b.tube((0, 0.1, 0), (0, 0.95, 0), 0.24, 0.28, Look(VOID, (0.1, 0.25, 0.14)), 8, "z")
    else:
        b.box((0, 0.65, 0), (0.5, 1.3, 0.9), Look(VOID, (0.45, 0.47, 0.45), tile="plaster"))
    return b.build()


@lru_cache(maxsize=2)
def shelter() -> Mesh:
    """A bus stop: glass back wall, roof and posts, open towards -x; counted with the buildings."""
    b = Builder(TILES)
    for z in (-1.8, 1.8):
        for x in (-0.6, 0.6):
            b.tube((x, 0, z), (x, 2.4, z), 0.05, 0.05, Look(POLE, STEEL), 6)
    b.box((0, 2.48, 0), (1.7, 0.12, 4.2), Look(BUILDING, (0.2, 0.22, 0.24)), skip="")
    b.box(
        (0.6, 1.3, 0),
        (0.04, 1.9, 3.5),
        Look(BUILDING, tile="glass_screen", color=(0.3, 0.32, 0.33), gloss=0.2),
        skip="",
    )
    b.box((0.35, 0.5, 0), (0.4, 0.07, 2.6), Look(BUILDING, (0.3, 0.2, 0.12)))
    return b.build()


@lru_cache(maxsize=64)
def railed_wall(tile: str, length: float) -> Mesh:
    """A low wall along z from 0 to ``length`` that carries a railing; colour in slot 0."""
    b = Builder(TILES)
    b.box((0, 0.28, length / 2), (0.3, 0.56, length), Look(WALL, slot=0, tile=tile), metre=1.6)
    n = max(round(length / 1.6), 1)
    for side in (-1.0, 1.0):
        x = side * 0.012
        quad = [(x, 1.5, 0), (x, 1.5, length), (x, 0.58, length), (x, 0.58, 0)]
        look = Look(FENCE, (0.1, 0.1, 0.11), tile="fence_bars")
        b.faces([quad], look, normals=np.array([[side, 0, 0]]), reps=(n, 1))
    return b.build()


@lru_cache(maxsize=64)
def boards(length: float, height: float) -> Mesh:
    """A close-boarded fence along z from 0 to ``length``; colour in slot 0."""
    b = Builder(TILES)
    b.box((0, height / 2, length / 2), (0.08, height, length), Look(FENCE, slot=0, tile="planks"), metre=1.8)
    for k in range(round(length / 2) + 1):
        b.box((0, height / 2 + 0.05, min(2.0 * k, length)), (0.14, height + 0.1, 0.12), Look(FENCE, slot=0))
    return b.build()


@lru_cache(maxsize=16)
def guard_rail(length: float, double: bool = False) -> Mesh:
    """A steel safety barrier along z from 0 to ``length``, its beam towards -x (or both ways), 0.75 m tall.

    Crash barriers are a class of their own in Cityscapes, which its trainIds ignore.
    """
    b = Builder(TILES)
    steel = Look(VOID, (0.42, 0.43, 0.44), tile="metal", gloss=0.06)
    for side in (-1, 1) if double else (-1,):
        for y, x in ((0.68, 0.08), (0.6, 0.05), (0.52, 0.08)):
            b.box((side * x, y, length / 2), (0.06, 0.09, length), steel, skip="fb")
    for z in np.arange(length / 4, length, 2.0):
        b.box((0, 0.36, float(z)), (0.1, 0.72, 0.12), Look(VOID, (0.3, 0.31, 0.32)))
    return b.build()


@lru_cache(maxsize=4)
def crash_wall(length: float) -> Mesh:
    """A concrete safety barrier along z from 0 to ``length`` (the profile of New Jersey), ignored like `guard_rail`."""
    b = Builder(TILES)
    right = [(0.08, 0.85), (0.12, 0.33), (0.28, 0.08), (0.3, 0.0)]
    profile = np.array([(-x, y) for x, y in right[::-1]] + right)
    rings = np.stack([np.column_stack([profile, np.full(8, z)]) for z in (0.0, length)])
    b.loft(rings, Look(VOID, (0.5, 0.49, 0.46), tile="concrete"), reps=(1, length / 2))
    return b.build()


@lru_cache(maxsize=8)
def overhead(wide: float, boards_: int) -> Mesh:
    """A sign gantry across a carriageway, from x = 0 to -``wide``, its boards facing -z."""
    b = Builder(TILES)
    steel = Look(POLE, STEEL)
    for x in (0.0, -wide):
        b.box((x, 3.2, 0), (0.3, 6.4, 0.3), steel)
    for y in (5.9, 6.5):
        b.box((-wide / 2, y, 0), (wide, 0.16, 0.16), steel, skip="")
    for k in range(round(wide / 1.5)):
        x = -1.5 * k
        b.tube((x, 5.9, 0), (x - 0.75, 6.5, 0), 0.04, 0.04, steel, 4)
    for k in range(boards_):
        x = -wide * (k + 0.6) / (boards_ + 0.2)
        _plate(b, "guide", x, 6.3, (min(4.2, wide / boards_ - 0.6), 2.4), -0.2)
    return b.build()


@lru_cache(maxsize=2)
def marker() -> Mesh:
    """A white delineator post beside the road, 1 m tall, with its dark band."""
    b = Builder(TILES)
    b.box((0, 0.5, 0), (0.12, 1.0, 0.09), Look(POLE, (0.85, 0.85, 0.83)))
    b.box((0, 0.78, 0), (0.125, 0.22, 0.095), Look(POLE, (0.04, 0.04, 0.04)))
    b.box((0, 0.8, -0.05), (0.05, 0.16, 0.01), Look(POLE, (0.9, 0.6, 0.2), glow=0.25))
    return b.build()


@lru_cache(maxsize=2)
def line_pole() -> Mesh:
    """A wooden pole of a telephone line, with its crossbar."""
    b = Builder(TILES)
    b.tube((0, 0, 0), (0, 8.2, 0), 0.14, 0.1, Look(POLE, (0.2, 0.15, 0.11), tile="bark"), 7, "z")
    b.box((0, 7.6, 0), (1.7, 0.12, 0.12), Look(POLE, (0.2, 0.15, 0.11)), skip="")
    return b.build()
