"""One side of one chunk of street while it is furnished, and how things are put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iccld_cli.town import nature
from iccld_cli.town.atlas import TILES
from iccld_cli.town.mesh import Builder, Look, Mesh, Placed
from iccld_cli.town.palette import Palette
from iccld_cli.town.plan import Plan


@dataclass
class Yard:
    """One side of one chunk while it is being furnished.

    Attributes:
        plan: The street.
        colors: Colours of the look.
        side: 0 left, 1 right.
        chunk: Number of the chunk.
        detail: Level of detail of plants, 0..2.
        rng: Source of every choice.
        out: Everything placed so far.
    """

    plan: Plan
    colors: Palette
    side: int
    chunk: int
    detail: int
    rng: np.random.Generator
    out: list[Placed]

    def put(
        self, mesh: Mesh, off: float, s: float, turn: float = 0.0, y: float | None = None, scale=1.0, paint=None
    ) -> None:
        """Places a mesh ``off`` metres from the centre line on this side; turn 0 faces as seen from the right side."""
        sign = 1 if self.side else -1
        pos, heading = self.plan.place(
            sign * off, s, (0.0 if self.side else np.pi) + turn, self.plan.kerb if y is None else y
        )
        self.out.append(Placed(mesh, pos, heading, scale, paint))

    def lengthwise(self, mesh: Mesh, off: float, s0: float, s1: float, y: float | None = None, paint=None) -> None:
        """Places a mesh that stretches along z from 0, starting at whichever end keeps it between s0 and s1."""
        self.put(mesh, off, s0 if self.side else s1, 0.0, y, 1.0, paint)

    def plant(self, off: float, s: float, low: float = 0.75, high: float = 1.25, y: float | None = None) -> None:
        """Plants a tree."""
        kind = self.colors.tree_kind(self.rng)
        mesh = nature.tree(kind, int(self.rng.integers(nature.VARIANTS)), self.detail)
        size = self.rng.uniform(low, high) * np.array([1, self.rng.uniform(0.9, 1.2), 1])
        self.put(mesh, off, s, self.rng.uniform(0, 6), y, size, self.colors.foliage(self.rng))

    def shrub(self, off: float, s: float, y: float | None = None) -> None:
        """Plants a bush."""
        mesh = nature.bush(int(self.rng.integers(6)), self.detail)
        self.put(mesh, off, s, 0, y, self.rng.uniform(0.6, 1.5), self.colors.foliage(self.rng))

    def ribbon(self, profile: Callable[[float], np.ndarray], s0: float, s1: float, look: Look, metre: float) -> None:
        """Lays a strip of land along the street.

        Args:
            profile: From s to points (P, 2) across the street: metres from the centre line, and height.
            s0: Where it begins.
            s1: Where it ends.
            look: Its paint.
            metre: Edge of one texture tile, metres.
        """
        sign = 1 if self.side else -1
        stations = np.linspace(s0, s1, max(round((s1 - s0) / 8), 1) + 1)
        rows = [[self.plan.place(sign * off, s, 0.0, y)[0] for off, y in profile(s)] for s in stations]
        points = np.array(rows)
        quads = np.stack([points[1:, :-1], points[1:, 1:], points[:-1, 1:], points[:-1, :-1]], 2).reshape(-1, 4, 3)
        b = Builder(TILES)
        wide = float(np.linalg.norm(points[0, 0] - points[0, -1])) / max(points.shape[1] - 1, 1)
        step = float(stations[1] - stations[0])
        b.faces(quads, look, quads.mean(1) - (0, 100, 0), reps=(wide / metre, step / metre))
        self.out.append(Placed(b.build(), (0.0, 0.0, 0.0)))
