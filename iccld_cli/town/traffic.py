"""Everything that moves: streams of vehicles in their lanes, walkers on the sidewalks and on zebra crossings.

A stream is an endless row of slots that all move at one speed, so any stretch of it at any time follows from the
slot numbers alone; nothing has to be simulated or remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from iccld_cli.town import people, vehicles
from iccld_cli.town.mesh import Mesh, Placed
from iccld_cli.town.palette import Palette
from iccld_cli.town.plan import CHUNK, KERB, PARK, YARD, Plan, rng_of

OFFSET = 100_000
"""Added to slot numbers so that they stay non-negative as random keys."""


@dataclass(frozen=True)
class Ego:
    """The car that carries the camera.

    Attributes:
        lat: Metres right of the centre line.
        s: Metres along the street.
        speed: Metres per second.
    """

    lat: float
    s: float
    speed: float


def _slots(key: tuple[int, ...], gap: float, shift: float, s0: float, s1: float) -> Iterator[tuple[int, float]]:
    """Slots of a stream between two positions: slot number and position."""
    for j in range(int(np.ceil((s0 - shift) / gap)), int(np.floor((s1 - shift) / gap)) + 1):
        jitter = rng_of(*key, j + OFFSET, 0).uniform(-0.27, 0.27) * gap
        yield j, j * gap + shift + jitter


def moving(plan: Plan, colors: Palette, ego: Ego, time: float) -> list[Placed]:
    """Every moving thing in front of the camera.

    Args:
        plan: The street.
        colors: Colours of the look.
        ego: The car that carries the camera, which nothing may run into.
        time: Seconds since the drive began.

    Returns:
        What there is and where.
    """
    out: list[Placed] = []
    for lane in range(plan.lanes):
        for way in (1, -1):
            lat = way * plan.lane_at(lane)
            own = abs(lat - ego.lat) < 1
            speed = ego.speed if own else (ego.speed * (1.12 if way > 0 else -0.9))
            _lane(out, plan, colors, ego, time, lat, speed, lane * 2 + (way > 0))
    for side in (0, 1):
        if plan.kind != "motorway":
            _cyclists(out, plan, colors, ego, time, side)
        for row in range(3 if plan.walk[side] else 0):
            _walkers(out, plan, colors, ego, time, side, row)
    for zebra in plan.zebras(ego.s, ego.s + 70):
        _crossing(out, plan, colors, ego, time, zebra)
    return out


def _lane(
    out: list[Placed], plan: Plan, colors: Palette, ego: Ego, time: float, lat: float, speed: float, key: int
) -> None:
    gap = 15.0 if abs(lat - ego.lat) < 1 else 17.0
    reach = 120
    if plan.kind == "motorway":
        gap, reach = 24.0, 200
    for j, s in _slots((*plan.seed, 20 + key), gap, speed * time, ego.s - 8, ego.s + reach):
        rng = rng_of(*plan.seed, 20 + key, j + OFFSET, 1)
        if rng.uniform() > 0.42 * plan.traffic:
            continue
        if (abs(lat - ego.lat) < 2 and s - ego.s < 11) or (abs(lat - ego.lat) < 3.2 and abs(s - ego.s) < 5):
            continue
        lean = float(rng.normal(0, 0.15))
        pos, heading = plan.place(lat + lean, s, 0.0 if speed > 0 else np.pi)
        for mesh, coat in _vehicle(rng, colors, "lane" if plan.lane < 2.75 and plan.kind == "country" else plan.kind):
            out.append(Placed(mesh, pos, heading, paint=coat))


def _vehicle(rng: np.random.Generator, colors: Palette, road: str) -> list[tuple[Mesh, np.ndarray]]:
    """A vehicle, with its rider where it has one, and their paint."""
    # On motorways a fifth of what drives is lorries, and few are buses or motorcycles; so the last shares fold back.
    kind = rng.uniform() * (0.9 if road == "motorway" else 1.0)
    if road == "motorway" and kind > 0.82:
        kind = 0.75
    if road == "lane":
        # Lorries and buses keep off narrow roads.
        kind = min(kind, 0.69)
    paint = colors.car_paint(rng)
    if kind < 0.7:
        kinds = list(vehicles.CARS)
        return [(vehicles.car(kinds[rng.integers(len(kinds))]), paint)]
    if kind < 0.79:
        return [(vehicles.truck(int(rng.integers(3))), paint)]
    if kind < 0.89:
        return [(vehicles.bus(int(rng.integers(4))), paint)]
    bike = vehicles.motorcycle(int(rng.integers(2)))
    return [(bike, paint), (people.rider("motorcycle", 0), colors.person(rng))]


def _cyclists(out: list[Placed], plan: Plan, colors: Palette, ego: Ego, time: float, side: int) -> None:
    way = 1 if side else -1
    speed = 4.6 * way
    lat = way * (plan.drive_half - 0.4)
    for j, s in _slots((*plan.seed, 40 + side), 19.0, speed * time, ego.s + 3, ego.s + 70):
        rng = rng_of(*plan.seed, 40 + side, j + OFFSET, 1)
        if rng.uniform() > 0.5 * plan.density or (s - ego.s < 8 and abs(lat - ego.lat) < 1.8):
            continue
        pos, heading = plan.place(lat, s, 0.0 if side else np.pi)
        phase = int((time * 1.3 + rng.uniform()) * people.PHASES) % people.PHASES
        out.append(Placed(vehicles.bicycle(), pos, heading, paint=colors.car_paint(rng)))
        out.append(Placed(people.rider("bicycle", phase), pos, heading, paint=colors.person(rng)))


def _person(rng: np.random.Generator, colors: Palette, time: float, speed: float) -> tuple[Mesh, float, np.ndarray]:
    """A pedestrian, their size and their clothes."""
    pace = abs(speed) / 1.45
    phase = int((time * pace + rng.uniform()) * people.PHASES) % people.PHASES if speed else people.PHASES
    size = 0.66 if rng.uniform() < 0.08 else float(rng.uniform(0.92, 1.08))
    return people.pedestrian(phase, int(rng.integers(6))), size, colors.person(rng)


def _walkers(out: list[Placed], plan: Plan, colors: Palette, ego: Ego, time: float, side: int, row: int) -> None:
    """One row of pedestrians on a sidewalk: two walk in opposite directions, the third stands still."""
    key = 50 + side * 3 + row
    speed = (1.35, -1.15, 0.0)[row]
    base = plan.front(side) - plan.walk[side] * (0.28, 0.62, 0.12)[row]
    for j, s in _slots((*plan.seed, key), 7.5, speed * time, ego.s + 2, ego.s + 75):
        rng = rng_of(*plan.seed, key, j + OFFSET, 1)
        busy = 0.3 if plan.zone(int(s // CHUNK), side) in (PARK, YARD) else 0.5
        if rng.uniform() > busy * plan.density * (0.5 if row == 2 else 1.0):
            continue
        mesh, size, coat = _person(rng, colors, time, speed)
        lat = (1 if side else -1) * (base + float(rng.uniform(-0.3, 0.3)))
        turn = (0.0 if speed > 0 else np.pi) if speed else float(rng.uniform(0, 6.28))
        pos, heading = plan.place(lat, s, turn, _height(plan, s))
        out.append(Placed(mesh, pos, heading, size, coat))
        if speed and rng.uniform() < 0.25:
            mesh, size, coat = _person(rng, colors, time, speed)
            pos, heading = plan.place(lat + 0.62, s + 0.15, turn, _height(plan, s))
            out.append(Placed(mesh, pos, heading, size, coat))


def _height(plan: Plan, s: float) -> float:
    """Ground height of a sidewalk walker at ``s``: a cross street lies at road level."""
    inside = any(abs(s - mid) < plan.cross_half for mid in plan.crossings(s - 12, s + 12))
    return 0.0 if inside else KERB


def _crossing(out: list[Placed], plan: Plan, colors: Palette, ego: Ego, time: float, zebra: float) -> None:
    """Walkers on one zebra crossing, going back and forth between the sidewalks."""
    left, right = plan.half(0) + 0.8, plan.half(1) + 0.8
    span = left + right
    for k in range(4):
        rng = rng_of(*plan.seed, 60, int(zebra * 8), k)
        if rng.uniform() > 0.5 * plan.density:
            continue
        speed = float(rng.uniform(1.1, 1.5))
        way = (time * speed / span + float(rng.uniform(0, 2))) % 2
        lat = -left + span * (way if way < 1 else 2 - way)
        s = zebra + float(rng.uniform(-1.2, 1.2))
        if s - ego.s < 9 and abs(lat - ego.lat) < 2:
            continue
        mesh, size, coat = _person(rng, colors, time, speed)
        on_road = -plan.half(0) < lat < plan.half(1)
        pos, heading = plan.place(lat, s, np.pi / 2 if way < 1 else -np.pi / 2, 0.0 if on_road else KERB)
        out.append(Placed(mesh, pos, heading, size, coat))
