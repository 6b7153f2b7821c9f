"""Furnishes what lies outside towns: motorways and country roads."""

from __future__ import annotations

import numpy as np

from iccld_cli.town import buildings, nature, street
from iccld_cli.town.facades import SIGNS
from iccld_cli.town.mesh import Look, Mesh
from iccld_cli.town.plan import FARM, HEDGED, WOOD, rise, rng_of
from iccld_cli.town.yard import Yard

TERRAIN = 9
PIECE = 6.0
"""Length of one piece of rail, hedge or barrier, metres."""


def furnish_side(yard: Yard, lo: float, hi: float) -> None:
    """Furnishes one side of one chunk.

    Args:
        yard: The side.
        lo: Where the chunk begins, metres along the road.
        hi: Where it ends.
    """
    plan = yard.plan
    if plan.bank[yard.side]:
        _bank(yard, lo, hi)
    zone = plan.zone(yard.chunk, yard.side)
    if plan.is_crossing(yard.chunk):
        # A side road: nothing along it but the sign at its end.
        if yard.side:
            yard.put(street.sign("priority"), plan.half(1) + 0.9, lo + 1)
        return
    if plan.kind == "motorway":
        _barriers(yard, lo, hi)
        _motorway_edge(yard, lo, hi, zone)
    else:
        _country_edge(yard, lo, hi, zone)
    if zone == WOOD:
        _wood(yard, lo, hi)
    else:
        for _ in range(yard.rng.integers(0, 3)):
            _tree(yard, plan.front(yard.side) + _slope(yard, lo) + 2 + 50 * yard.rng.uniform() ** 1.5, lo, hi)


def _slope(yard: Yard, s: float) -> float:
    """Width of the embankment's slope at ``s``, one in two (RAS-Q: one in 1.5 and flatter)."""
    return 2.0 * rise(yard.plan, yard.side, s)


def _bank(yard: Yard, lo: float, hi: float) -> None:
    """The slope beside the road and the land on top of it, which hides what lies behind."""
    plan, foot = yard.plan, yard.plan.front(yard.side)

    def slope(s: float) -> np.ndarray:
        high = rise(plan, yard.side, s)
        return np.array([(foot, -0.02), (foot + high, 0.5 * high), (foot + 2 * high + 0.01, high)])

    def top(s: float) -> np.ndarray:
        high = rise(plan, yard.side, s)
        return np.array([(foot + 2 * high, high - 0.01), (foot + 2 * high + 30, high), (foot + 2 * high + 70, high)])

    if max(rise(plan, yard.side, s) for s in (lo, (lo + hi) / 2, hi)) < 0.05:
        return
    grass = yard.colors.grass(rng_of(*plan.seed, 9))
    yard.ribbon(slope, lo, hi, Look(TERRAIN, grass, tile="grass"), 3.0)
    yard.ribbon(top, lo, hi, Look(TERRAIN, grass, tile="grass"), 4.0)


def _top(yard: Yard, off: float, s: float) -> float:
    """Height of the land ``off`` metres from the centre line."""
    high, beyond = rise(yard.plan, yard.side, s), off - yard.plan.front(yard.side)
    return yard.plan.kerb + min(max(beyond / 2, 0.0), high)


def _tree(yard: Yard, off: float, lo: float, hi: float, small: float = 0.75, large: float = 1.4) -> None:
    s = float(yard.rng.uniform(lo, hi))
    yard.plant(off, s, small, large, _top(yard, off, s))


def _wood(yard: Yard, lo: float, hi: float) -> None:
    """A closed edge of trees and bushes, so dense that nothing behind it is visible."""
    front = yard.plan.front(yard.side) + 1.0 + 0.8 * _slope(yard, (lo + hi) / 2)
    for _ in range(round((hi - lo) / 3.0)):
        _tree(yard, front + 2.5 + 16 * yard.rng.uniform() ** 1.3, lo, hi, 0.9, 1.7)
    for _ in range(round((hi - lo) / 3.0)):
        s, off = float(yard.rng.uniform(lo, hi)), front + float(yard.rng.uniform(0.5, 4))
        yard.shrub(off, s, _top(yard, off, s))


def _along(yard: Yard, mesh: Mesh, off: float, lo: float, hi: float, paint: np.ndarray | None = None) -> None:
    """Repeats a piece of PIECE metres along the chunk."""
    for s in np.arange(lo, hi - 0.1, PIECE):
        # A little longer, so that no gap opens on the outside of a bend.
        y = _top(yard, off, s)
        yard.put(mesh, off, s if yard.side else s + PIECE, 0.0, y, np.array([1.0, 1.0, 1.03]), paint)


def _barriers(yard: Yard, lo: float, hi: float) -> None:
    """The barrier of the median, drawn with the right side, and the rail beyond the hard shoulder."""
    plan = yard.plan
    rng = rng_of(*plan.seed, 12)
    concrete, railed = rng.uniform() < 0.4 and plan.median < 1.2, rng.uniform(size=2) < 0.55
    if yard.side:
        if concrete:
            _along(yard, street.crash_wall(PIECE), 0.0, lo, hi)
        elif plan.median < 2:
            _along(yard, street.guard_rail(PIECE, True), 0.0, lo, hi)
        if not concrete and plan.median > 1.2 and rng.uniform() < 0.5:
            for _ in range(4):
                yard.shrub(yard.rng.uniform(-0.4, 0.4), yard.rng.uniform(lo, hi), 0.0)
    if not concrete and plan.median >= 2:
        _along(yard, street.guard_rail(PIECE), plan.median - 0.4, lo, hi)
    # Rails stand where there is something to keep cars from: here, in runs of four chunks.
    if railed[yard.side] or rng_of(*plan.seed, 14, yard.side, yard.chunk // 4).uniform() < 0.45:
        _along(yard, street.guard_rail(PIECE), plan.half(yard.side) + 0.5, lo, hi)


def _motorway_edge(yard: Yard, lo: float, hi: float, zone: int) -> None:
    plan, rng = yard.plan, yard.rng
    front = plan.front(yard.side)
    if zone == FARM:
        tile = ("concrete", "planks", "metal", "brick")[rng_of(*plan.seed, 15).integers(4)]
        height = float(rng_of(*plan.seed, 16).uniform(2.5, 5.0))
        paint = yard.colors.fence(rng_of(*plan.seed, 18), "high")
        _along(yard, street.wall(tile, PIECE, height), front - 0.4, lo, hi, paint)
    elif rng_of(*plan.seed, 21, yard.side).uniform() < 0.4:
        steel = np.full((1, 3), 0.16, np.float32)
        _along(yard, street.fence("mesh", PIECE, 1.8), front + _slope(yard, lo) + 3.0, lo, hi, steel)
    if zone == HEDGED:
        for _ in range(round((hi - lo) / 4)):
            s, off = float(rng.uniform(lo, hi)), front + float(rng.uniform(1.0, 5.0))
            yard.shrub(off, s, _top(yard, off, s))
    if yard.chunk % 2 == 0:
        yard.put(street.marker(), plan.half(yard.side) + 0.3, lo + 2)
    if rng.uniform() < 0.14:
        name = ("limit", "warn", "arrow")[rng.integers(3)]
        yard.put(street.sign(name), plan.half(yard.side) + 1.2, rng.uniform(lo, hi), scale=1.5)
    if rng.uniform() < 0.12:
        yard.put(street.gantry(3.6), plan.half(yard.side) + 2.8, rng.uniform(lo, hi), scale=1.35)
    if yard.chunk % 5 == rng_of(*plan.seed, 22).integers(5) and rng.uniform() < 0.3:
        wide = round(plan.half(yard.side) - plan.median + 1.2, 1)
        yard.put(street.overhead(wide, min(plan.lanes, 3)), plan.half(yard.side) + 0.8, lo + 8)
    if rng.uniform() < 0.05:
        mesh = buildings.building(rng, "office", float(rng.uniform(14, 24)), 14.0, int(rng.integers(2, 6)))
        off = front + _slope(yard, lo) + float(rng.uniform(14, 40))
        yard.lengthwise(mesh, off, lo, lo + 20, _top(yard, off, lo), yard.colors.building(rng))


def _country_edge(yard: Yard, lo: float, hi: float, zone: int) -> None:
    plan, rng = yard.plan, yard.rng
    front = plan.front(yard.side)
    side = rng_of(*plan.seed, 23, yard.side)
    if zone == FARM:
        _farm(yard, lo, hi)
    elif zone == HEDGED:
        paint = yard.colors.hedge(rng_of(*plan.seed, 25, yard.side))
        for s in np.arange(lo, hi - 0.1, PIECE):
            tall = np.array([1.3, rng.uniform(1.0, 1.9), 1.0])
            sign = s if yard.side else s + PIECE
            yard.put(nature.hedge(PIECE, yard.detail), front + 0.5, sign, 0.0, _top(yard, front + 0.5, s), tall, paint)
            if rng.uniform() < 0.25:
                _tree(yard, front + 0.9, s, s + PIECE, 0.7, 1.2)
    elif zone != WOOD and side.uniform() < 0.5:
        kind = ("mesh", "picket", "wall", "rail")[side.integers(4)]
        if kind == "wall":
            _along(yard, street.wall("stone", PIECE, 1.0), front + 0.4, lo, hi, np.full((1, 3), 0.3, np.float32))
        elif kind == "rail":
            _along(yard, street.boards(PIECE, 0.9), front + 0.4, lo, hi, np.full((1, 3), 0.2, np.float32))
        else:
            _along(yard, street.fence(kind, PIECE, 1.1), front + 0.4, lo, hi, np.full((1, 3), 0.16, np.float32))
    if rng_of(*plan.seed, 24, yard.side, yard.chunk // 3).uniform() < 0.12 and not plan.is_crossing(yard.chunk):
        _along(yard, street.guard_rail(PIECE), plan.half(yard.side) + 0.45, lo, hi)
    elif side.uniform() < 0.4:
        yard.put(street.marker(), plan.half(yard.side) + 0.4, lo + 3)
    if side.uniform() < 0.35 and yard.chunk % 2:
        yard.put(street.line_pole(), front + 1.4, lo + 5, y=_top(yard, front + 1.4, lo + 5))
    if rng.uniform() < 0.18:
        name = SIGNS[rng.integers(len(SIGNS))]
        yard.put(street.sign(name), plan.half(yard.side) + 0.9, rng.uniform(lo, hi), float(rng.normal(0, 0.08)))
    for _ in range(rng.integers(0, 4)):
        s, off = float(rng.uniform(lo, hi)), front + float(rng.uniform(0.2, 3.0))
        yard.shrub(off, s, _top(yard, off, s))
    if side.uniform() < 0.25:
        # An avenue: trees in a row, close to the road.
        for s in np.arange(lo + 3, hi, 10.0):
            yard.plant(plan.half(yard.side) + 1.8, s, 0.9, 1.3, _top(yard, plan.half(yard.side) + 1.8, s))


def _farm(yard: Yard, lo: float, hi: float) -> None:
    """A house or a barn by the road, behind a wall, a hedge or nothing."""
    rng, front = yard.rng, yard.plan.front(yard.side)
    if rng.uniform() < 0.75:
        width = float(rng.uniform(9, 18))
        off = front + 2 * rise(yard.plan, yard.side, lo) + float(rng.uniform(2, 12))
        mesh = buildings.building(rng, "house", width, float(rng.uniform(8, 11)), int(rng.integers(1, 3)))
        yard.lengthwise(mesh, off, lo + 2, lo + 2 + width, _top(yard, off, lo), yard.colors.building(rng))
    kind = ("wall", "hedge", "picket", "none")[rng.integers(4)]
    paint = yard.colors.fence(rng, kind)
    if kind == "wall":
        _along(yard, street.wall("stone", PIECE, 1.2), front + 0.4, lo, hi, paint)
    elif kind == "hedge":
        _along(yard, nature.hedge(PIECE, yard.detail), front + 0.4, lo, hi, paint)
    elif kind == "picket":
        _along(yard, street.fence("picket", PIECE, 1.1), front + 0.4, lo, hi, paint)
    for _ in range(rng.integers(1, 4)):
        _tree(yard, front + rng.uniform(1.5, 20), lo, hi)
