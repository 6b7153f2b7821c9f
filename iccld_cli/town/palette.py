"""Colours a look gives to walls, plants, paint and clothes, as linear RGB in 0..1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iccld_cli.town import vehicles
from iccld_cli.town.mesh import Mesh


def linear(*rgb255: float) -> np.ndarray:
    """Linear colour of display values 0..255 (gamma 2, as everywhere in the town)."""
    return (np.asarray(rgb255, np.float32) / 255) ** 2


WALLS = {
    "game": [
        (232, 198, 150),
        (214, 150, 110),
        (240, 228, 200),
        (196, 92, 70),
        (170, 190, 205),
        (228, 200, 96),
        (150, 70, 56),
    ],
    "camera": [
        (176, 166, 150),
        (150, 142, 134),
        (196, 190, 178),
        (128, 98, 84),
        (140, 146, 150),
        (186, 170, 142),
        (104, 88, 80),
    ],
}
ROOFS = {
    "game": [(190, 80, 54), (168, 62, 48), (120, 76, 60), (90, 92, 110)],
    "camera": [(92, 70, 62), (74, 72, 74), (110, 84, 70), (60, 62, 66)],
}
PLANTS = {
    "game": [(86, 156, 44), (110, 176, 52), (66, 134, 50), (132, 178, 60)],
    "camera": [(92, 112, 58), (106, 118, 62), (78, 98, 56), (136, 124, 64), (150, 110, 54)],
}
PAINTS = {
    "game": [
        (206, 24, 28),
        (24, 80, 190),
        (236, 236, 236),
        (250, 196, 20),
        (30, 34, 40),
        (40, 150, 80),
        (200, 204, 210),
        (240, 120, 20),
    ],
    "camera": [
        (58, 60, 64),
        (150, 152, 154),
        (222, 222, 220),
        (26, 28, 30),
        (34, 48, 78),
        (110, 26, 28),
        (120, 112, 100),
        (84, 96, 92),
    ],
}
CLOTHES = {
    "game": [
        (220, 40, 40),
        (30, 110, 220),
        (250, 210, 40),
        (60, 180, 80),
        (240, 240, 240),
        (160, 60, 180),
        (250, 130, 30),
        (40, 40, 60),
    ],
    "camera": [
        (40, 42, 48),
        (70, 72, 78),
        (30, 38, 62),
        (96, 84, 70),
        (130, 126, 120),
        (88, 36, 36),
        (52, 62, 48),
        (190, 186, 178),
    ],
}
TROUSERS = {
    "game": [(40, 60, 130), (60, 60, 70), (170, 150, 110), (30, 30, 36)],
    "camera": [(34, 40, 56), (36, 36, 40), (84, 78, 68), (24, 24, 28)],
}
SKINS = [(236, 196, 166), (206, 154, 118), (150, 104, 76), (98, 66, 48)]
HAIRS = [(40, 28, 20), (90, 60, 34), (170, 130, 70), (24, 22, 22), (120, 116, 112)]
BANKS = {
    "game": [(110, 176, 64), (96, 160, 58)],
    "camera": [(106, 114, 68), (118, 116, 74), (96, 108, 60), (126, 116, 80)],
}
FENCES = {
    "game": [(236, 236, 230), (150, 96, 54), (40, 90, 60)],
    "camera": [(120, 112, 100), (88, 74, 62), (60, 64, 62)],
}


@dataclass(frozen=True)
class Palette:
    """Colour choices of one look.

    Attributes:
        name: "game" or "camera", naming the tables above.
        bare: Share of trees without leaves, 0..1.
        conifer: Share of conifers, 0..1.
    """

    name: str
    bare: float
    conifer: float

    def _pick(self, table: list, rng: np.random.Generator, spread: float) -> np.ndarray:
        color = table[rng.integers(len(table))]
        gain = rng.uniform(1 - spread, 1 + spread, 3).tolist()
        return np.array([(min(c * g, 255.0) / 255) ** 2 for c, g in zip(color, gain, strict=True)], np.float32)

    def building(self, rng: np.random.Generator) -> np.ndarray:
        """Walls, roof and trim (3, 3)."""
        walls, roof = self._pick(WALLS[self.name], rng, 0.08), self._pick(ROOFS[self.name], rng, 0.1)
        return np.stack([walls, roof, np.minimum(walls * 1.1 + 0.1, 1)])

    def tree_kind(self, rng: np.random.Generator) -> str:
        """A kind of tree for :func:`nature.tree`."""
        t = rng.uniform()
        if t < self.bare:
            return "bare"
        return "conifer" if t < self.bare + self.conifer else ("tall" if rng.uniform() < 0.35 else "round")

    def foliage(self, rng: np.random.Generator) -> np.ndarray:
        """Leaf colour (1, 3)."""
        return self._pick(PLANTS[self.name], rng, 0.12)[None]

    def hedge(self, rng: np.random.Generator) -> np.ndarray:
        """Leaf colour (1, 3) of a hedge: green when trees are not."""
        return self._pick(PLANTS[self.name][:3], rng, 0.12)[None]

    def grass(self, rng: np.random.Generator) -> np.ndarray:
        """Colour (3,) of a grassy bank."""
        return self._pick(BANKS[self.name], rng, 0.1)

    def fence(self, rng: np.random.Generator, kind: str) -> np.ndarray:
        """Colour (1, 3) of a fence, wall or hedge."""
        if kind == "hedge":
            return self.hedge(rng)
        if kind in ("wall", "high", "railed"):
            return self._pick(WALLS[self.name], rng, 0.12)[None]
        if kind in ("picket", "boards"):
            return self._pick(FENCES[self.name], rng, 0.08)[None]
        return np.full((1, 3), rng.uniform(0.03, 0.2), np.float32)

    def steel(self, rng: np.random.Generator) -> np.ndarray:
        """Pole colour multiplier (1, 3)."""
        tint = ((1, 1, 1), (0.35, 0.5, 0.42), (0.3, 0.3, 0.32), (1.5, 1.5, 1.5))[rng.integers(4)]
        return np.array([tint], np.float32)

    def car_paint(self, rng: np.random.Generator) -> np.ndarray:
        """Body and second colour (2, 3)."""
        return np.stack([self._pick(PAINTS[self.name], rng, 0.1), self._pick(PAINTS[self.name], rng, 0.1)])

    def person(self, rng: np.random.Generator) -> np.ndarray:
        """Top, trousers, skin, hair, shoes, bag (6, 3)."""
        tops, legs = CLOTHES[self.name], TROUSERS[self.name]
        shoes = linear(40, 36, 34) if rng.uniform() < 0.7 else linear(210, 210, 210)
        return np.stack(
            [
                self._pick(tops, rng, 0.12),
                self._pick(legs if rng.uniform() < 0.8 else tops, rng, 0.12),
                self._pick(SKINS, rng, 0.05),
                self._pick(HAIRS, rng, 0.1),
                shoes,
                self._pick(tops, rng, 0.2),
            ]
        )

    def parked(self, rng: np.random.Generator) -> tuple[Mesh, np.ndarray, float]:
        """A parked vehicle, its paint and half its length in metres."""
        if rng.uniform() < 0.05:
            return vehicles.truck(2), self.car_paint(rng), 3.6
        kinds = list(vehicles.CARS)
        kind = kinds[rng.integers(len(kinds))]
        return vehicles.car(kind), self.car_paint(rng), vehicles.CARS[kind][0] / 2
