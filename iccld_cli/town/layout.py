"""Furnishes the street chunk by chunk: buildings, fences, trees, lamps, signs, parked vehicles."""

from __future__ import annotations

import numpy as np

from iccld_cli.town import buildings, ground, nature, outland, street, vehicles
from iccld_cli.town.facades import SIGNS
from iccld_cli.town.mesh import Mesh, Placed, place_all
from iccld_cli.town.palette import Palette
from iccld_cli.town.plan import CHUNK, KERB, PARK, SUBURB, URBAN, YARD, Plan, rng_of
from iccld_cli.town.yard import Yard


def furnish(plan: Plan, colors: Palette, chunk: int, detail: int) -> Mesh:
    """All static objects of one chunk.

    Args:
        plan: The street.
        colors: Colours of the look.
        chunk: Number of the chunk, >= 0.
        detail: Level of detail of plants, 0 (far) to 2 (near).

    Returns:
        One mesh in world axes.
    """
    out: list[Placed] = []
    for side in (0, 1):
        yard = Yard(plan, colors, side, chunk, detail, rng_of(*plan.seed, 11, chunk, side), out)
        lo, hi = chunk * CHUNK, (chunk + 1) * CHUNK
        if plan.kind != "urban":
            outland.furnish_side(yard, lo, hi)
            continue
        if plan.is_crossing(chunk):
            mid, gap = (lo + hi) / 2, plan.cross_half + 3.2
            _corner(yard, mid)
            _lots(yard, lo, mid - gap)
            _lots(yard, mid + gap, hi)
            _kerbside(yard, lo, mid - gap - 4)
            _kerbside(yard, mid + gap + 4, hi)
        else:
            _lots(yard, lo, hi)
            _kerbside(yard, lo, hi)
        _lamps(yard, lo, hi)
        if detail:
            _clutter(yard, lo, hi)
    return place_all(out)


def _lots(yard: Yard, lo: float, hi: float) -> None:
    zone = yard.plan.zone(yard.chunk, yard.side)
    {URBAN: _urban, SUBURB: _suburb, PARK: _park, YARD: _walled}[zone](yard, lo, hi)


def _urban(yard: Yard, lo: float, hi: float) -> None:
    """A closed row of blocks and offices."""
    rng, s = yard.rng, lo
    while hi - s > 4:
        width = min(float(rng.uniform(8, 17)), hi - s)
        if hi - s - width < 5:
            width = hi - s
        kind = "office" if rng.uniform() < 0.25 else "block"
        floors = int(rng.integers(3, 7)) if kind == "block" else int(rng.integers(4, 10))
        depth = float(rng.uniform(10, 14))
        mesh = buildings.building(rng, kind, width - 0.05, depth, floors)
        yard.lengthwise(
            mesh,
            yard.plan.front(yard.side) + yard.plan.setback[yard.side],
            s,
            s + width,
            paint=yard.colors.building(rng),
        )
        s += width


def _suburb(yard: Yard, lo: float, hi: float) -> None:
    """A house in a garden behind a fence, hedge or low wall."""
    rng, front = yard.rng, yard.plan.front(yard.side)
    paved = yard.plan.lots[yard.side, yard.chunk % yard.plan.lots.shape[1]] == ground.PAVED
    width = float(min(rng.uniform(9, 17), hi - lo - 2))
    if width > 5:
        s = float(rng.uniform(lo + 1, hi - width - 0.5))
        back, depth = front + float(rng.uniform(1.2, 4.5) if paved else rng.uniform(2.5, 7)), float(rng.uniform(8, 11))
        mesh = buildings.building(rng, "house", width, depth, int(rng.integers(2, 4)))
        yard.lengthwise(mesh, back, s, s + width, paint=yard.colors.building(rng))
    if not paved or rng.uniform() < 0.85:
        _border(yard, lo, hi, ("picket", "bars", "hedge", "wall", "mesh", "railed", "boards", "railed", "wall"))
    for _ in range(rng.integers(0, 2) if paved else rng.integers(1, 4)):
        yard.plant(front + rng.uniform(1.6, 3.0), rng.uniform(lo + 1, hi - 1), 0.4, 0.75)
    for _ in range(rng.integers(0, 2) if paved else rng.integers(1, 5)):
        yard.shrub(front + rng.uniform(0.8, 2.6), rng.uniform(lo + 0.5, hi - 0.5))
    for _ in range(3):
        # Old trees behind the houses, which stand against the sky.
        yard.plant(front + rng.uniform(16, 26), rng.uniform(lo, hi), 1.1, 1.8)


def _border(yard: Yard, lo: float, hi: float, kinds: tuple[str, ...]) -> None:
    rng, at = yard.rng, yard.plan.front(yard.side) + 0.25
    kind = kinds[rng.integers(len(kinds))]
    pieces = max(round((hi - lo) / 6), 1)
    length = round((hi - lo) / pieces, 2)
    paint = yard.colors.fence(rng, kind)
    height = {"picket": 1.1, "bars": 1.5, "mesh": 1.9, "wall": 1.1, "high": 2.4, "boards": 1.8}.get(kind, 1.0)
    tile = ("brick", "stone", "plaster", "concrete")[rng.integers(4)]
    gap = rng.integers(pieces) if rng.uniform() < 0.5 else -1
    for k in range(pieces):
        if k == gap:
            continue
        s = lo + k * length
        if kind == "hedge":
            mesh = nature.hedge(length, yard.detail)
        elif kind in ("wall", "high"):
            mesh = street.wall(tile, length, height)
        elif kind == "railed":
            mesh = street.railed_wall(tile, length)
        elif kind == "boards":
            mesh = street.boards(length, height)
        else:
            mesh = street.fence(kind, length, height)
        yard.lengthwise(mesh, at, s, s + length, paint=paint)


def _park(yard: Yard, lo: float, hi: float) -> None:
    """Trees on grass, sometimes railed off."""
    rng, front = yard.rng, yard.plan.front(yard.side)
    if rng.uniform() < 0.85:
        _border(yard, lo, hi, ("bars", "hedge", "railed", "bars"))
    for _ in range(max(round((hi - lo) / 3.5), 1)):
        yard.plant(front + 1.5 + 22 * rng.uniform() ** 1.4, rng.uniform(lo, hi))
    for _ in range(rng.integers(2, 5)):
        yard.shrub(front + rng.uniform(1, 10), rng.uniform(lo, hi))


def _walled(yard: Yard, lo: float, hi: float) -> None:
    """A yard behind a wall or mesh, with a shed."""
    rng, front = yard.rng, yard.plan.front(yard.side)
    _border(yard, lo, hi, ("high", "wall", "boards", "mesh", "railed"))
    width = float(min(rng.uniform(9, 15), hi - lo - 1))
    if width > 6 and rng.uniform() < 0.8:
        s = float(rng.uniform(lo, hi - width))
        mesh = buildings.building(rng, "block", width, 9.0, int(rng.integers(1, 4)))
        yard.lengthwise(mesh, front + float(rng.uniform(6, 11)), s, s + width, paint=yard.colors.building(rng))
    for _ in range(rng.integers(1, 3)):
        yard.plant(front + rng.uniform(2, 14), rng.uniform(lo, hi))


def _kerbside(yard: Yard, lo: float, hi: float) -> None:
    """Parked vehicles at the kerb and trees in the verge."""
    plan, rng = yard.plan, yard.rng
    if hi - lo < 5:
        return
    if plan.parking[yard.side]:
        s = lo + rng.uniform(2.6, 4)
        while s < hi - 2.4:
            if rng.uniform() < 0.75:
                mesh, paint, half = yard.colors.parked(rng)
                yard.put(
                    mesh, plan.half(yard.side) - 1.12 + rng.uniform(-0.1, 0.1), s, rng.normal(0, 0.02), 0, 1, paint
                )
                s += half
            s += rng.uniform(3.1, 3.8) + 0.6
    if plan.railed[yard.side]:
        for s in np.arange(lo, hi - 1.9, 2.0):
            off = plan.half(yard.side) + 0.35
            yard.lengthwise(street.fence("bars", 2.0, 1.0), off, s, s + 2.0, paint=np.full((1, 3), 0.12, np.float32))
    room = plan.verge[yard.side] > 0
    # Most streets with a green strip have trees in it, and fewer of those with a wide walk.
    if rng_of(*plan.seed, 3, yard.side).uniform() < (0.75 if room else 0.4) and (room or plan.walk[yard.side] > 2.6):
        off = plan.half(yard.side) + (plan.verge[yard.side] / 2 if room else 0.8)
        for s in np.arange(lo + rng.uniform(1, 4), hi, rng.uniform(8, 12)):
            yard.plant(off, s, 0.7, 1.05)


def _lamps(yard: Yard, lo: float, hi: float) -> None:
    plan = yard.plan
    rng = rng_of(*plan.seed, 7)
    kind = int(rng.integers(3))
    if (yard.chunk + yard.side) % 2 == 0 or kind == 2:
        paint = yard.colors.steel(rng)
        off = plan.half(yard.side) + 0.45
        yard.put(street.lamp(kind), off, lo + 2.0, paint=paint)
        if kind == 2:
            yard.put(street.lamp(kind), off, lo + 14.0, paint=paint)


def _clutter(yard: Yard, lo: float, hi: float) -> None:
    """Signs, bollards, bins, bus stops and parked two-wheelers."""
    plan, rng = yard.plan, yard.rng
    off = plan.half(yard.side) + 0.55
    turn = float(rng.normal(0, 0.08))
    for _ in range(1 + (rng.uniform() < 0.45)):
        name = SIGNS[rng.integers(len(SIGNS))]
        second = SIGNS[rng.integers(len(SIGNS))] if rng.uniform() < 0.3 else None
        yard.put(street.sign(name, second), off + rng.uniform(0, 0.3), rng.uniform(lo + 4, hi - 4), turn)
    if rng.uniform() < 0.1:
        wide = float(rng.choice((2.4, 3.6)))
        yard.put(street.gantry(wide), plan.front(yard.side) - 0.2, rng.uniform(lo + 5, hi - 5))
    if rng.uniform() < 0.16:
        steel = yard.colors.steel(rng)
        for s in np.arange(lo + 7, hi - 6, 1.9):
            yard.put(street.bollard(), off - 0.15, s, paint=steel)
    if rng.uniform() < 0.4:
        yard.put(street.bin_(int(rng.integers(2))), plan.front(yard.side) - 0.5, rng.uniform(lo + 3, hi - 3))
    if rng.uniform() < 0.1 and plan.walk[yard.side] > 2.6:
        yard.put(street.shelter(), plan.half(yard.side) + plan.verge[yard.side] + 1.4, rng.uniform(lo + 8, hi - 8))
    for kind, chance in (("bicycle", 0.5), ("motorcycle", 0.3)):
        if rng.uniform() < chance:
            s = rng.uniform(lo + 3, hi - 5)
            for k in range(rng.integers(1, 4)):
                mesh = vehicles.bicycle() if kind == "bicycle" else vehicles.motorcycle(int(rng.integers(2)))
                turn = rng.normal(1.2, 0.15)
                yard.put(mesh, off + 0.75, s + 0.75 * k, turn, paint=yard.colors.car_paint(rng))


def _corner(yard: Yard, mid: float) -> None:
    """Signals at the corners of a crossing and the buildings along the cross street."""
    plan, rng = yard.plan, yard.rng
    reach = plan.cross_half + 1.5
    kind = int(rng_of(*plan.seed, 13, yard.chunk).integers(3))
    steel = yard.colors.steel(rng)
    off = plan.half(yard.side) + 1.1
    state = int(rng.choice((0, 1, 2), p=(0.35, 0.1, 0.55)))
    if kind < 2:
        # Turned by pi on the left side already, so that both kerbs show their own direction a signal.
        near, far = (mid - reach - 3.2, mid + reach + 3.2) if yard.side else (mid + reach + 3.2, mid - reach - 3.2)
        yard.put(street.traffic_light(0, state), off, near, paint=steel)
        yard.put(street.traffic_light(kind, state), off, far, 0.0 if yard.side else np.pi, paint=steel)
        if not yard.side:
            yard.put(street.traffic_light(0, state), off, far - 0.8, np.pi, paint=steel)
    else:
        name = "yield" if rng.uniform() < 0.5 else "stop"
        yard.put(street.sign(name), off, mid - reach - 1.0, 0.0 if yard.side else np.pi)
        yard.put(street.sign("priority"), off, mid + reach + 1.0, 0.0 if yard.side else np.pi)
    start = plan.front(yard.side) + 15
    for end in (-1, 1):
        at, s = start, mid + end * (plan.cross_half + 3.4)
        for _ in range(3):
            width, depth = float(rng.uniform(9, 15)), float(rng.uniform(8, 10))
            mesh = buildings.building(rng, "block", width, depth, int(rng.integers(2, 6)))
            # The front plane x = 0 is turned to look along the street, at the cross street.
            quarter = -np.pi / 2 if (end > 0) else np.pi / 2
            if not yard.side:
                quarter = -quarter
            along = at if (quarter > 0) else at + width
            yard.put(mesh, along, s, quarter, KERB, 1.0, yard.colors.building(rng))
            at += width + 0.5


def lamp_heads(plan: Plan, s0: float, s1: float) -> np.ndarray:
    """World positions (L, 3) of the street lamps' heads between two positions along the street."""
    if plan.kind != "urban":
        return np.zeros((0, 3))
    kind = int(rng_of(*plan.seed, 7).integers(3))
    heads = []
    for chunk in range(int(s0 // CHUNK), int(s1 // CHUNK) + 1):
        for side, sign in ((0, -1), (1, 1)):
            if (chunk + side) % 2 == 0 or kind == 2:
                reach, height = (0.0, 3.7) if kind == 2 else (2.0, 7.9)
                for along in (2.0, 14.0) if kind == 2 else (2.0,):
                    off = sign * (plan.half(side) + 0.45 - reach)
                    heads.append(plan.place(off, chunk * CHUNK + along, 0.0, height + KERB)[0])
    return np.array(heads).reshape(-1, 3)
