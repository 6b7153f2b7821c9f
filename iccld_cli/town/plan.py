"""The street plan: where the road runs, how wide everything is, where streets cross.

Positions along the street are (lat, s): ``s`` metres along the centre line, ``lat`` metres to its right.  World axes
are x right, y up, z forward; the centre line runs roughly along z and bends in x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

KERB = 0.13
"""Height of the sidewalk above the road, metres."""

CHUNK = 24.0
"""Length of street that is laid out at once, metres."""

KINDS = ("urban", "motorway", "country")
"""Kinds of road."""

URBAN, SUBURB, PARK, YARD = range(4)
"""Zones of a town: shop street, gardens, park, and walled yards."""

HEDGED, OPEN, WOOD, FARM = range(4)
"""Zones of the country: behind a hedge, open fields, woods, and a farm.  Along a motorway FARM is a noise barrier."""


def rng_of(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but its non-negative integer key."""
    return np.random.default_rng(key)


@dataclass(frozen=True)
class Plan:
    """One town's street.

    Attributes:
        seed: Identity of the town, a tuple of non-negative ints.
        kind: One of KINDS.
        lane: Lane width, metres.
        lanes: Lanes per direction.
        parking: Width of the parking strips left and right (2,), metres, 0 without.
        verge: Width of the grass strip beside the carriageway left and right (2,), metres.
        walk: Sidewalk width left and right (2,), metres, 0 without.
        bends: Amplitude (m), wave number (1/m) and phase of each bend (B, 3).
        period: Blocks between two cross streets, in chunks; 0 for none.
        cross_half: Half width of cross streets, metres.
        zones: Zone of each side of a cycle of chunks (2, Z).
        lots: Kind of ground behind the street of each side of the same cycle (2, Z) uint8, see `ground`.
        density: Multiplier of pedestrians and cyclists.
        traffic: Multiplier of moving vehicles.
        double_line: Whether the centre line is a double solid one.
        lined: Whether there are lines along the edges and the middle.
        kerb: Height of what lies beside the carriageway, metres.
        median: Half width of the strip between the carriageways, metres, 0 without.
        inner: Half width from the centre line to the innermost lanes, metres.
        shoulder: Width of the hard shoulder, metres, 0 without.
        setback: Distance of houses from the sidewalk left and right (2,), metres.
        railed: Whether a railing stands along the kerb left and right (2,).
        bank: Greatest height of the embankments left and right (2,), metres.
    """

    seed: tuple[int, ...]
    kind: str
    lane: float
    lanes: int
    parking: tuple[float, float]
    verge: tuple[float, float]
    walk: tuple[float, float]
    bends: np.ndarray
    period: int
    cross_half: float
    zones: np.ndarray
    lots: np.ndarray
    density: float
    traffic: float
    double_line: bool
    lined: bool = True
    kerb: float = KERB
    median: float = 0.0
    inner: float = 0.0
    shoulder: float = 0.0
    setback: tuple[float, float] = (0.15, 0.15)
    railed: tuple[bool, bool] = (False, False)
    bank: tuple[float, float] = (0.0, 0.0)

    @property
    def drive_half(self) -> float:
        """Distance from the centre line to the outer edge of the driving lanes, metres."""
        return self.inner + self.lane * self.lanes

    def lane_at(self, lane: int) -> float:
        """Distance from the centre line to the middle of a lane, 0 the innermost."""
        return self.inner + (lane + 0.5) * self.lane

    def half(self, side: int) -> float:
        """Distance from the centre line to the kerb; side 0 left, 1 right."""
        return self.drive_half + self.shoulder + self.parking[side]

    def front(self, side: int) -> float:
        """Distance from the centre line to the lots behind the sidewalk."""
        return self.half(side) + self.verge[side] + self.walk[side]

    def zone(self, chunk: int, side: int) -> int:
        """Zone of one side of a chunk."""
        return int(self.zones[side, chunk % self.zones.shape[1]])

    def centre(self, s: np.ndarray) -> np.ndarray:
        """World x of the centre line at world z ``s``."""
        x = np.zeros_like(s)
        for amp, k, phase in self.bends:
            x += np.asarray(amp, s.dtype) * np.sin(np.asarray(k, s.dtype) * s + np.asarray(phase, s.dtype))
        return x

    def slope(self, s: np.ndarray) -> np.ndarray:
        """dx/dz of the centre line."""
        d = np.zeros_like(s)
        for amp, k, phase in self.bends:
            d += np.asarray(amp * k, s.dtype) * np.cos(np.asarray(k, s.dtype) * s + np.asarray(phase, s.dtype))
        return d

    def place(self, lat: float, s: float, turn: float = 0.0, y: float = 0.0) -> tuple[np.ndarray, float]:
        """World position (3,) and heading of something at (lat, s) turned by ``turn`` against the street."""
        # Called for every single thing, where Python's own floats are several times faster than arrays of one.
        s, x, slope = float(s), 0.0, 0.0
        for amp, k, phase in self.bends.tolist():
            x += amp * math.sin(k * s + phase)
            slope += amp * k * math.cos(k * s + phase)
        heading = math.atan(slope)
        return np.array([x + lat * math.cos(heading), y, s - lat * math.sin(heading)]), heading + turn

    def street(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Street coordinates (lat, s) of world ground points; good to centimetres near the road."""
        slope = self.slope(z)
        inv = 1 / np.sqrt(1 + slope * slope)
        s = z + (x - self.centre(z)) * slope * inv * inv
        slope = self.slope(s)
        inv = 1 / np.sqrt(1 + slope * slope)
        dx, dz = x - self.centre(s), z - s
        return (dx - dz * slope) * inv, s + (dx * slope + dz) * inv * inv

    def crossings(self, s0: float, s1: float) -> list[float]:
        """Centres of the cross streets between two positions."""
        if not self.period:
            return []
        step = self.period * CHUNK
        first = int(np.ceil((s0 - CHUNK / 2) / step))
        last = int(np.floor((s1 - CHUNK / 2) / step))
        return [k * step + CHUNK / 2 for k in range(first, last + 1)]

    def is_crossing(self, chunk: int) -> bool:
        """Whether a cross street runs through the middle of this chunk."""
        return self.period > 0 and chunk % self.period == 0

    def zebras(self, s0: float, s1: float) -> list[float]:
        """Centres of the zebra crossings between two positions."""
        out: list[float] = []
        if self.kind != "urban":
            return out
        for chunk in range(int(s0 // CHUNK), int(s1 // CHUNK) + 1):
            mid = (chunk + 0.5) * CHUNK
            if self.is_crossing(chunk):
                out += [mid - self.cross_half - 3.2, mid + self.cross_half + 3.2]
            elif chunk % self.period == self.period // 2 and rng_of(*self.seed, 5, chunk).uniform() < 0.4:
                out.append(mid)
        return [s for s in out if s0 <= s <= s1]


def rise(plan: Plan, side: int, s: float) -> float:
    """Height of the embankment's top beside the road at ``s``, metres; 0 where the land is level."""
    if not plan.bank[side]:
        return 0.0
    rng = rng_of(*plan.seed, 8, side)
    wave = sum(
        math.sin(s * 2 * math.pi / length + phase) for length, phase in rng.uniform((150, 0), (420, 6.28), (2, 2))
    )
    return plan.bank[side] * min(max(0.35 + 0.6 * wave, 0.0), 1.0)
