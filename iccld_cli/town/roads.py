"""Draws the plan of a street in a town, of a motorway and of a country road.

Widths are those that road-building rules give: RASt 06 (Germany) and NACTO for towns, RAA and AASHTO for motorways, RAL
and its forerunners for country roads, each widened to what older roads have.
"""

from __future__ import annotations

import numpy as np

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.town.ground import CROP, LAWN, PAVED, SOIL, STRAW, VERGE
from iccld_cli.town.plan import FARM, HEDGED, KINDS, OPEN, PARK, SUBURB, URBAN, WOOD, YARD, Plan, rng_of

CYCLE = 24
"""Chunks after which the zones of a street repeat."""


def make_plan(seed: tuple[int, ...], density: float, kind: str = "urban") -> Plan:
    """Draws a street.

    Args:
        seed: Non-negative ints naming it.
        density: Multiplier of traffic and pedestrians, about 1.
        kind: One of KINDS.

    Returns:
        The street plan.

    Raises:
        IccldError: The kind is unknown.
    """
    if kind not in _PLANS:
        raise IccldError(f"unknown kind {kind!r} of road in the virtual town", did_you_mean(kind, KINDS))
    return _PLANS[kind](seed, density, rng_of(*seed, 1))


def _bends(
    rng: np.random.Generator, amplitude: tuple[float, float], length: tuple[float, float], straight: float
) -> np.ndarray:
    """Two waves of amplitude and length between bounds (metres); a share ``straight`` of roads is nearly without."""
    high, wave = rng.uniform(amplitude[0], amplitude[1], 2), rng.uniform(length[0], length[1], 2)
    bends = np.stack([high, 2 * np.pi / wave, rng.uniform(0, 6.28, 2)], -1)
    if rng.uniform() < straight:
        bends[:, 0] *= 0.1
    return bends


def _runs(rng: np.random.Generator, mood: tuple[float, ...], length: int) -> np.ndarray:
    """Zones (2, CYCLE) in runs of ``length`` chunks, of shares drawn about ``mood``."""
    return np.repeat(rng.choice(4, size=(2, CYCLE // length), p=rng.dirichlet(mood)), length, axis=1)


def _urban(seed: tuple[int, ...], density: float, rng: np.random.Generator) -> Plan:
    lanes = 1 if rng.uniform() < 0.82 else 2
    parking = [float(rng.uniform(1.9, 2.3)) if rng.uniform() < 0.45 else 0.0 for _ in range(2)]
    verge = [float(rng.uniform(0.8, 2.2)) if rng.uniform() < 0.25 else 0.0 for _ in range(2)]
    walk = [float(np.exp(rng.uniform(np.log(1.9), np.log(5.2)))) for _ in range(2)]
    zones = _runs(rng, (2.6, 2.0, 0.9, 0.8), 2)
    # What lies before a house or a yard is as often paved as it is green.
    paved = np.repeat(rng.uniform(size=(2, CYCLE // 2)) < 0.6, 2, axis=1)
    lots = np.array([PAVED, LAWN, LAWN, SOIL], np.uint8)[zones]
    lots[paved & ((zones == SUBURB) | (zones == YARD))] = PAVED
    # Along the walk stand houses at once (half of the streets) or behind a forecourt of up to 3 m.
    setback = [0.15 if rng.uniform() < 0.5 else float(rng.uniform(0.5, 3.0)) for _ in range(2)]
    railed = [bool(rng.uniform() < 0.12) for _ in range(2)]
    return Plan(
        seed=seed,
        kind="urban",
        lane=float(rng.uniform(2.6, 3.4)),
        lanes=lanes,
        parking=(parking[0], parking[1]),
        verge=(verge[0], verge[1]),
        walk=(walk[0], walk[1]),
        bends=_bends(rng, (1.0, 11.0), (180, 460), 0.3),
        period=int(rng.integers(3, 6)),
        cross_half=float(rng.uniform(2.8, 4.6)),
        zones=zones,
        lots=lots,
        density=density * float(rng.uniform(0.6, 1.3)),
        # From empty to a queue; people do not thin out with the traffic.
        traffic=density * float(np.exp(rng.uniform(np.log(0.12), np.log(1.1)))),
        double_line=bool(rng.uniform() < 0.3),
        lined=bool(rng.uniform() < 0.75),
        setback=(setback[0], setback[1]),
        railed=(railed[0], railed[1]),
    )


def _motorway(seed: tuple[int, ...], density: float, rng: np.random.Generator) -> Plan:
    zones = _runs(rng, (0.8, 1.3, 1.0, 0.4), 4)
    fields = np.repeat(rng.choice(np.array([LAWN, CROP, STRAW, LAWN], np.uint8), (2, CYCLE // 4)), 4, axis=1)
    median = float(rng.choice((rng.uniform(0.8, 1.6), rng.uniform(2.5, 8.0)), p=(0.5, 0.5)))
    verge = float(rng.uniform(1.0, 3.0))
    bank = [float(rng.uniform(1.5, 7.0)) if rng.uniform() < 0.65 else 0.0 for _ in range(2)]
    return Plan(
        seed=seed,
        kind="motorway",
        lane=float(rng.uniform(3.4, 3.75)),
        lanes=int(rng.choice((2, 3, 4), p=(0.5, 0.38, 0.12))),
        parking=(0.0, 0.0),
        verge=(verge, verge),
        walk=(0.0, 0.0),
        bends=_bends(rng, (4.0, 18.0), (600, 1500), 0.3),
        period=0,
        cross_half=0.0,
        zones=zones,
        lots=fields,
        density=0.0,
        traffic=density * float(np.exp(rng.uniform(np.log(0.25), np.log(1.6)))),
        double_line=False,
        kerb=0.0,
        median=median / 2,
        inner=median / 2 + float(rng.uniform(0.5, 1.25)),
        shoulder=float(rng.uniform(2.0, 3.2)) if rng.uniform() < 0.85 else 0.5,
        bank=(bank[0], bank[1]),
    )


def _country(seed: tuple[int, ...], density: float, rng: np.random.Generator) -> Plan:
    zones = _runs(rng, (1.3, 1.4, 0.9, 0.3), 3)
    kinds = np.array([CROP, STRAW, SOIL, LAWN, VERGE], np.uint8)
    lots = np.repeat(rng.choice(kinds, (2, CYCLE // 3), p=(0.3, 0.15, 0.15, 0.25, 0.15)), 3, axis=1)
    lots[(zones == FARM) | (zones == WOOD)] = LAWN
    narrow = rng.uniform() < 0.4
    verge = [float(rng.uniform(0.8, 3.2)) for _ in range(2)]
    bank = [float(rng.uniform(0.6, 3.0)) if rng.uniform() < 0.35 else 0.0 for _ in range(2)]
    return Plan(
        seed=seed,
        kind="country",
        lane=float(rng.uniform(2.1, 2.7) if narrow else rng.uniform(2.75, 3.5)),
        lanes=1,
        parking=(0.0, 0.0),
        verge=(verge[0], verge[1]),
        walk=(0.0, 0.0),
        bends=_bends(rng, (2.0, 8.0), (150, 400), 0.25),
        period=int(rng.integers(9, 16)),
        cross_half=float(rng.uniform(1.8, 3.0)),
        zones=zones,
        lots=lots,
        density=density * 0.08,
        traffic=density * float(np.exp(rng.uniform(np.log(0.1), np.log(0.6)))),
        double_line=bool(rng.uniform() < 0.2),
        lined=not narrow,
        kerb=0.0,
        shoulder=0.0 if narrow else float(rng.uniform(0.0, 0.6)),
        bank=(bank[0], bank[1]),
    )


_PLANS = {"urban": _urban, "motorway": _motorway, "country": _country}
assert (URBAN, SUBURB, PARK, YARD) == (HEDGED, OPEN, WOOD, FARM) == (0, 1, 2, 3)
assert tuple(_PLANS) == KINDS
