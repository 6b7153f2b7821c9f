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

URBAN, SUBURB, PARK, YARD = range(4)
"""Zones: shop street, gardens, park, and walled yards."""


def rng_of(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but its non-negative integer key."""
    return np.random.default_rng(key)


@dataclass(frozen=True)
class Plan:
    """One town's street.

    Attributes:
        seed: Identity of the town, a tuple of non-negative ints.
        lane: Lane width, metres.
        lanes: Lanes per direction.
        parking: Width of the parking strips left and right (2,), metres, 0 without.
        verge: Width of the grass strip between kerb and sidewalk left and right (2,), metres.
        walk: Sidewalk width left and right (2,), metres.
        bends: Amplitude (m), wave number (1/m) and phase of each bend (B, 3).
        period: Blocks between two cross streets, in chunks.
        cross_half: Half width of cross streets, metres.
        zones: Zone of each side of a cycle of chunks (2, Z).
        density: Multiplier of traffic and pedestrians.
        double_line: Whether the centre line is a double solid one.
    """

    seed: tuple[int, ...]
    lane: float
    lanes: int
    parking: tuple[float, float]
    verge: tuple[float, float]
    walk: tuple[float, float]
    bends: np.ndarray
    period: int
    cross_half: float
    zones: np.ndarray
    density: float
    double_line: bool

    @property
    def drive_half(self) -> float:
        """Half width of the driving lanes, metres."""
        return self.lane * self.lanes

    def half(self, side: int) -> float:
        """Distance from the centre line to the kerb; side 0 left, 1 right."""
        return self.drive_half + self.parking[side]

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
        step = self.period * CHUNK
        first = int(np.ceil((s0 - CHUNK / 2) / step))
        last = int(np.floor((s1 - CHUNK / 2) / step))
        return [k * step + CHUNK / 2 for k in range(first, last + 1)]

    def is_crossing(self, chunk: int) -> bool:
        """Whether a cross street runs through the middle of this chunk."""
        return chunk % self.period == 0

    def zebras(self, s0: float, s1: float) -> list[float]:
        """Centres of the zebra crossings between two positions."""
        out = []
        for chunk in range(int(s0 // CHUNK), int(s1 // CHUNK) + 1):
            mid = (chunk + 0.5) * CHUNK
            if self.is_crossing(chunk):
                out += [mid - self.cross_half - 3.2, mid + self.cross_half + 3.2]
            elif chunk % self.period == self.period // 2 and rng_of(*self.seed, 5, chunk).uniform() < 0.4:
                out.append(mid)
        return [s for s in out if s0 <= s <= s1]


def make_plan(seed: tuple[int, ...], density: float) -> Plan:
    """Draws a town.

    Args:
        seed: Non-negative ints naming it.
        density: Multiplier of traffic and pedestrians, about 1.

    Returns:
        The street plan.
    """
    rng = rng_of(*seed, 1)
    lanes = 1 if rng.uniform() < 0.62 else 2
    parking = tuple(2.2 if rng.uniform() < (0.6 if lanes == 1 else 0.35) else 0.0 for _ in range(2))
    verge = tuple(rng.uniform(1.2, 2.4) if rng.uniform() < 0.5 else 0.0 for _ in range(2))
    bends = np.stack(
        [
            rng.uniform((1.0, 2.0), (9.0, 14.0)),
            2 * np.pi / rng.uniform((180, 300), (260, 520)),
            rng.uniform(0, 6.28, 2),
        ],
        -1,
    )
    if rng.uniform() < 0.3:
        bends[:, 0] *= 0.1
    mood = rng.dirichlet((1.5, 1.3, 0.6, 0.9))
    runs = rng.choice(4, size=(2, 12), p=mood)
    zones = np.repeat(runs, 2, axis=1)
    return Plan(
        seed,
        float(rng.uniform(3.0, 3.5)),
        lanes,
        (parking[0], parking[1]),
        (verge[0], verge[1]),
        (float(rng.uniform(2.0, 4.0)), float(rng.uniform(2.0, 4.0))),
        bends,
        int(rng.integers(3, 6)),
        float(rng.uniform(3.2, 4.6)),
        zones,
        density * float(rng.uniform(0.6, 1.3)),
        bool(rng.uniform() < 0.3),
    )
