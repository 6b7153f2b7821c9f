"""Houses, blocks and towers with textured storeys, roofs and small projections.

A building stands on y = 0 with its street front on the plane x = 0, reaching into +x, along z from 0 to its width.
"""

from __future__ import annotations

import numpy as np

from iccld_cli.town.atlas import TILES, WINDOW_STYLES
from iccld_cli.town.fronts import QUIET, TRADE
from iccld_cli.town.mesh import Builder, Look, Mesh

BUILDING = 2
WALLS, ROOF, TRIM = range(3)
"""Palette slots."""

STOREY = 3.1
BAY = 3.2


def _storeys(
    b: Builder, y0: float, floors: int, depth: float, width: float, looks: tuple[Look, Look], x0: float
) -> None:
    """Four walls of ``floors`` storeys starting at height ``y0``; looks are (street front, other sides)."""
    y1 = y0 + floors * STOREY
    x1, centre = x0 + depth, (x0 + depth / 2, (y0 + y1) / 2, width / 2)
    bays, deep = max(round(width / BAY), 1), max(round(depth / BAY), 1)
    front, rest = looks
    b.faces([[(x0, y1, width), (x0, y1, 0), (x0, y0, 0), (x0, y0, width)]], front, centre, reps=(bays, floors))
    b.faces([[(x1, y1, 0), (x1, y1, width), (x1, y0, width), (x1, y0, 0)]], rest, centre, reps=(bays, floors))
    b.faces([[(x0, y1, 0), (x1, y1, 0), (x1, y0, 0), (x0, y0, 0)]], rest, centre, reps=(deep, floors))
    b.faces([[(x1, y1, width), (x0, y1, width), (x0, y0, width), (x1, y0, width)]], rest, centre, reps=(deep, floors))


def _flat_roof(b: Builder, rng: np.random.Generator, y: float, depth: float, width: float) -> None:
    stone = Look(BUILDING, (0.6, 0.58, 0.54), slot=TRIM, tile="concrete")
    b.box((depth / 2, y + 0.25, width / 2), (depth + 0.5, 0.5, width + 0.1), stone, skip="", metre=3.0)
    for _ in range(rng.integers(0, 4)):
        size = rng.uniform((1.0, 0.8, 1.0), (3.0, 2.4, 3.5))
        x, z = rng.uniform(1.5, depth - 1.5), rng.uniform(1.5, max(width - 1.5, 1.6))
        b.box((x, y + 0.5 + size[1] / 2, z), size, Look(BUILDING, (0.5, 0.5, 0.5), tile="metal"), metre=2.0)


def _pitched_roof(
    b: Builder, rng: np.random.Generator, y: float, depth: float, width: float, wall: Look, along: bool
) -> None:
    """Gable roof; the ridge runs along the street or, when ``along`` is false, away from it."""
    eave, high = 0.5, rng.uniform(0.28, 0.5)
    tiles = Look(BUILDING, slot=ROOF, tile="rooftile")
    span, run = (depth, width) if along else (width, depth)
    top = y + high * span

    def at(across: float, up: float, on: float) -> tuple[float, float, float]:
        return (across, up, on) if along else (on, up, across)

    drop = y - eave * 2 * high
    inside = (depth / 2, y, width / 2)
    for edge, ridge in ((-eave, span / 2), (span + eave, span / 2)):
        quad = [at(ridge, top, -0.3), at(ridge, top, run + 0.3), at(edge, drop, run + 0.3), at(edge, drop, -0.3)]
        b.faces([quad], tiles, inside, reps=(run / 2.5, span / 4))
    for on in (0.0, run):
        tri = [at(0, y, on), at(span / 2, top, on), at(span, y, on), at(span, y, on)]
        b.faces([tri], Look(BUILDING, slot=WALLS, tile="plaster"), inside)
    for _ in range(rng.integers(1, 3)):
        across, on = span * rng.uniform(0.35, 0.65), run * rng.uniform(0.15, 0.85)
        b.box(at(across, top, on), (0.6, 1.8, 0.6), Look(BUILDING, (0.42, 0.2, 0.14), tile="brick"), metre=1.2)


def building(rng: np.random.Generator, kind: str, width: float, depth: float, floors: int) -> Mesh:
    """Draws one building.

    Args:
        rng: Source of its details.
        kind: "house", "block" or "office".
        width: Extent along the street, metres.
        depth: Extent away from the street, metres.
        floors: Storeys, at least 1.

    Returns:
        Mesh labelled building; slots 0 walls, 1 roof, 2 trim.
    """
    b = Builder(TILES)
    style = "c" if kind == "office" else WINDOW_STYLES[rng.choice((0, 1, 3, 4))]
    upper = Look(BUILDING, slot=WALLS, tile=f"win_{style}0")
    other = upper if rng.uniform() < 0.6 else Look(BUILDING, slot=WALLS, tile="brick" if style == "b" else "plaster")
    shops = kind != "house" and rng.uniform() < 0.65
    ground = Look(BUILDING, slot=WALLS, tile=f"shop{rng.integers(5)}" if shops else upper.tile)
    _storeys(b, 0.0, 1, depth, width, (ground, other), 0.0)
    if floors > 1:
        _storeys(b, STOREY, floors - 1, depth, width, (upper, other), 0.0)
    top = floors * STOREY
    bays = max(round(width / BAY), 1)
    dealer = rng.spawn(1)[0]  # what is drawn from it moves nothing else
    if kind != "house":
        _ground_floor(b, dealer, bays, width, shops)
    if not shops:
        z = (rng.integers(bays) + 0.5) * width / bays
        name = "door" if rng.uniform() < 0.75 else "garage"
        half = min(1.6, width / bays / 2)
        quad = [(-0.02, STOREY, z + half), (-0.02, STOREY, z - half), (-0.02, 0, z - half), (-0.02, 0, z + half)]
        b.faces([quad], Look(BUILDING, slot=WALLS, tile=name), normals=np.array([[-1.0, 0, 0]]))
        b.box((-0.3, 0.08, z), (0.7, 0.16, 1.4), Look(BUILDING, (0.45, 0.44, 0.42), tile="concrete"))
    trim = Look(BUILDING, (0.9, 0.89, 0.86), slot=TRIM)
    if kind == "house" or (kind == "block" and rng.uniform() < 0.5):
        _pitched_roof(b, rng, top, depth, width, upper, kind != "house" or rng.uniform() < 0.5)
        b.box((-0.08, top - 0.12, width / 2), (0.2, 0.24, width), trim, skip="")
    else:
        _flat_roof(b, rng, top, depth, width)
    if kind == "block":
        b.box((-0.06, STOREY, width / 2), (0.16, 0.22, width), trim, skip="")
        _balconies(b, rng, floors, bays, width)
    if shops and rng.uniform() < 0.6:
        _awnings(b, rng, bays, width)
    return b.build()


def _ground_floor(b: Builder, rng: np.random.Generator, bays: int, width: float, shops: bool) -> None:
    """The street front's ground floor, dealt in units of one to three bays, each with a face of its own."""
    step, bay = width / bays, 0
    names = TRADE if shops else QUIET
    while bay < bays:
        unit = min(int(rng.integers(1, 4)), bays - bay)
        z0, z1 = bay * step, (bay + unit) * step
        bay += unit
        if rng.uniform() < (0.2 if shops else 0.5):
            continue  # as the storey was drawn
        look = Look(BUILDING, slot=WALLS, tile=names[rng.integers(len(names))])
        quad = [(-0.012, STOREY, z1), (-0.012, STOREY, z0), (-0.012, 0, z0), (-0.012, 0, z1)]
        b.faces([quad], look, normals=np.array([[-1.0, 0, 0]]), reps=(unit, 1))
        if shops and rng.uniform() < 0.5:  # a board that stands out
            board = Look(BUILDING, tuple(rng.uniform(0.05, 0.8, 3)))
            b.box((-0.12, rng.uniform(2.5, 2.9), (z0 + z1) / 2), (0.22, rng.uniform(0.3, 0.6), z1 - z0 - 0.1), board)
        if rng.uniform() < 0.5:  # a pier between two units
            pier = Look(BUILDING, slot=WALLS, tile=("stone", "plaster", "brick", "concrete")[rng.integers(4)])
            b.box((-0.1, STOREY / 2, z1), (0.2, STOREY, rng.uniform(0.2, 0.5)), pier, metre=1.5)


def _balconies(b: Builder, rng: np.random.Generator, floors: int, bays: int, width: float) -> None:
    if rng.uniform() < 0.5:
        return
    column = rng.integers(bays)
    z = (column + 0.5) * width / bays
    for f in range(1, floors):
        y = f * STOREY + 0.35
        b.box((-0.5, y, z), (1.0, 0.14, 2.4), Look(BUILDING, (0.6, 0.6, 0.58), tile="concrete"), skip="")
        rail = Look(BUILDING, (0.12, 0.12, 0.13), tile="fence_bars")
        b.faces([[(-1, y + 1, z + 1.2), (-1, y + 1, z - 1.2), (-1, y, z - 1.2), (-1, y, z + 1.2)]], rail, (0, y, z))
        for s in (-1.2, 1.2):
            quad = [(-1, y + 1, z + s), (0, y + 1, z + s), (0, y, z + s), (-1, y, z + s)]
            b.faces([quad], rail, (-0.5, y, z), reps=(0.5, 1))


def _awnings(b: Builder, rng: np.random.Generator, bays: int, width: float) -> None:
    color = ((0.5, 0.05, 0.06), (0.05, 0.22, 0.12), (0.75, 0.7, 0.6), (0.06, 0.12, 0.35))[rng.integers(4)]
    step = width / bays
    for k in range(bays):
        if rng.uniform() < 0.7:
            z0, z1 = k * step + 0.15, (k + 1) * step - 0.15
            top = [(0, 2.75, z1), (0, 2.75, z0), (-1.1, 2.3, z0), (-1.1, 2.3, z1)]
            b.faces([top], Look(BUILDING, color), (0, 0, (z0 + z1) / 2))
            drop = [(-1.1, 2.3, z1), (-1.1, 2.3, z0), (-1.1, 2.1, z0), (-1.1, 2.1, z1)]
            b.faces([drop], Look(BUILDING, color), (0, 2, (z0 + z1) / 2))
