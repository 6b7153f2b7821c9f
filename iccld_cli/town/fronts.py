"""Ground floors along a pavement: texture tiles of shop fronts, lobbies, shutters, grilles, arcades and plain bases.

A tile is one bay, about 3.2 m wide and one storey high, as those of `facades`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from iccld_cli.town.materials import SIZE, _rect, brick, concrete, noise, planks, plaster

Colour = tuple[float, float, float]


PAINTS: tuple[Colour, ...] = (
    (0.1, 0.1, 0.11),
    (0.86, 0.85, 0.82),
    (0.75, 0.7, 0.58),
    (0.34, 0.22, 0.14),
    (0.12, 0.2, 0.34),
    (0.1, 0.24, 0.18),
    (0.45, 0.1, 0.11),
    (0.5, 0.52, 0.54),
)
"""Black, white, cream, wood and muted hues."""


def _paint(rng: np.random.Generator, gritty: bool) -> Colour:
    """Colour of a painted shop front."""
    colour = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.8, 1.15)
    return _colour(0.85 * colour + 0.05 if gritty else colour)


def _colour(rgb: np.ndarray) -> Colour:
    red, green, blue = np.clip(rgb, 0, 1).tolist()
    return red, green, blue


def _inside(tile: np.ndarray, rng: np.random.Generator, x0: float, y0: float, x1: float, y1: float) -> None:
    """What is seen through a shop window: a dim or lit room, shelves or goods, and what the pane mirrors."""
    lit = rng.uniform() < 0.4
    room = np.array([0.62, 0.52, 0.38] if lit else [0.11, 0.12, 0.13]) * rng.uniform(0.7, 1.2)
    _rect(tile, x0, y0, x1, y1, _colour(room))
    for _ in range(rng.integers(0, 10)):
        x, y = rng.uniform(x0, max(x1 - 0.04, x0)), rng.uniform(y0 + 0.3 * (y1 - y0), y1)
        goods = _colour(rng.uniform(0.05, 0.75, 3) * (0.6 + 0.4 * lit))
        _rect(tile, x, y, min(x + rng.uniform(0.02, 0.12), x1), min(y + rng.uniform(0.03, 0.2), y1), goods)
    if rng.uniform() < 0.3:  # a poster on the pane
        x, y = rng.uniform(x0, x1), rng.uniform(y0, y0 + 0.5 * (y1 - y0))
        _rect(tile, x, y, min(x + 0.12, x1), min(y + 0.2, y1), _colour(rng.uniform(0.3, 0.95, 3)))
    a, b, c, d = (round(v * SIZE) for v in (y0, y1, x0, x1))
    if b > a and d > c:  # the sky above, the other side of the street below
        ramp = np.linspace(rng.uniform(0.0, 0.3), 0.02, b - a, dtype=np.float32)[:, None, None]
        tile[a:b, c:d, :3] += ramp * np.array([0.9, 1.0, 1.1], np.float32)
        tile[a:b, c:d, :3] += (0.08 * noise(rng, 4, 3)[a:b, c:d])[..., None]


def _fascia(tile: np.ndarray, rng: np.random.Generator, gritty: bool, foot: float) -> None:
    """The name board, down to ``foot``, with blocks for letters."""
    top = foot - rng.uniform(0.1, 0.2)
    board = _paint(rng, gritty) if rng.uniform() < 0.6 else _colour(rng.uniform(0.1, 0.85, 3) * (0.8 if gritty else 1))
    _rect(tile, 0, top, 1, foot, board)
    ink = _colour(np.full(3, 0.9) if float(np.mean(board)) < 0.5 else np.full(3, 0.12))
    high, x = (foot - top) * rng.uniform(0.3, 0.55), rng.uniform(0.05, 0.3)
    middle = (top + foot) / 2
    while x < rng.uniform(0.6, 0.95):
        wide = rng.uniform(0.02, 0.06)
        _rect(tile, x, middle - high / 2, x + wide, middle + high / 2, ink)
        x += wide + rng.uniform(0.012, 0.03)


def glazed(panes: int, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A shop front of ``panes`` tall panes, one of them a door, over a low or no base, under a name board."""
    tile = plaster(rng, gritty)
    frame, foot, base = _paint(rng, gritty), rng.uniform(0.2, 0.32), 1 - rng.choice((0.02, 0.08, 0.18, 0.28))
    _fascia(tile, rng, gritty, foot)
    edge = rng.uniform(0.0, 0.07)
    _rect(tile, edge, foot, 1 - edge, 1, frame)
    bar = rng.uniform(0.01, 0.03)
    at = np.linspace(edge + bar, 1 - edge, panes + 1)
    door = int(rng.integers(panes + 2))
    for k in range(panes):
        _inside(tile, rng, at[k], foot + 0.03, at[k + 1] - bar, 0.98 if k == door else base)
    if rng.uniform() < 0.5:  # top lights
        y = foot + rng.uniform(0.1, 0.18)
        _rect(tile, edge, y, 1 - edge, y + 0.02, frame)
    return tile


def shuttered(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A closed roller shutter of narrow slats under a name board."""
    tile = plaster(rng, gritty)
    _fascia(tile, rng, gritty, 0.26)
    steel = np.array(_paint(rng, gritty)) * 0.4 + np.array([0.42, 0.43, 0.44]) * 0.6
    _rect(tile, 0.05, 0.26, 0.95, 1, _colour(steel))
    slats = (np.arange(SIZE) % 4 < 2)[:, None, None] * np.float32(0.09)
    a, c, d = round(0.26 * SIZE), round(0.05 * SIZE), round(0.95 * SIZE)
    tile[a:, c:d, :3] -= slats[a:]
    return tile


def barred(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Upright bars, fins or boards before a dark opening or a wall: what a railing resembles, and is none."""
    tile = (plaster if rng.uniform() < 0.5 else concrete)(rng, gritty)
    y0, y1 = rng.uniform(0.1, 0.3), rng.choice((0.9, 1.0))
    _rect(tile, 0.05, y0, 0.95, y1, _colour(np.full(3, rng.uniform(0.06, 0.3))))
    bar, count = _paint(rng, gritty), int(rng.integers(8, 17))
    for k in range(count):
        x = 0.06 + 0.89 * k / count
        _rect(tile, x, y0, x + 0.89 / count * rng.uniform(0.25, 0.5), y1, bar)
    return tile


def arcade(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A deep opening between two piers: passage, garage or arcade."""
    tile = (brick, concrete, plaster)[rng.integers(3)](rng, gritty)
    pier, top = rng.uniform(0.08, 0.22), rng.uniform(0.12, 0.3)
    _rect(tile, pier, top, 1 - pier, 1, (0.1, 0.1, 0.1))
    a, c, d = round(top * SIZE), round(pier * SIZE), round((1 - pier) * SIZE)
    tile[a:, c:d, :3] += np.linspace(0.0, rng.uniform(0.05, 0.25), SIZE - a, dtype=np.float32)[:, None, None]
    if rng.uniform() < 0.5:
        _inside(tile, rng, pier + 0.1, top + 0.2, 1 - pier - 0.1, 0.95)
    return tile


def panelled(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Painted timber: panels below, windows of small panes above, a name board."""
    tile = planks(rng, gritty)
    paint, foot = _paint(rng, gritty), rng.uniform(0.2, 0.3)
    _rect(tile, 0, 0.02, 1, 1, paint)
    _fascia(tile, rng, gritty, foot)
    sill, dark = rng.uniform(0.58, 0.72), _colour(np.array(paint) * 0.75)
    for k in range(4):
        _rect(tile, 0.04 + 0.24 * k, sill + 0.05, 0.22 + 0.24 * k, 0.94, dark)
    rows, columns = int(rng.integers(2, 5)), int(rng.integers(4, 9))
    high, wide = (sill - foot - 0.03) / rows, 0.92 / columns
    for r in range(rows):
        for c in range(columns):
            x, y = 0.04 + c * wide, foot + 0.03 + r * high
            _inside(tile, rng, x, y, x + wide - 0.015, y + high - 0.015)
    return tile


def based(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A wall with a base of another stone, and small or high windows or none."""
    tile = (brick, plaster, concrete)[rng.integers(3)](rng, gritty)
    top = rng.uniform(0.55, 0.85)
    shade = rng.uniform(0.5, 0.9)
    tile[round(top * SIZE) :, :, :3] *= shade
    _rect(tile, 0, top - 0.015, 1, top + 0.015, _colour(np.full(3, rng.uniform(0.5, 0.8))), None)
    for k in range(int(rng.integers(0, 4))):
        x = 0.08 + 0.3 * k
        y1 = rng.uniform(0.4, top)
        _rect(tile, x - 0.02, 0.13, x + 0.24, y1 + 0.02, _paint(rng, gritty))
        _inside(tile, rng, x, 0.15, x + 0.22, y1)
    return tile


FRONTS: dict[str, Callable] = {
    **{f"shopfront{k}": partial(glazed, panes) for k, panes in enumerate((1, 2, 3, 3, 4, 5, 7))},
    **{f"front_glazed{k}": partial(glazed, panes) for k, panes in enumerate((2, 3, 4, 6, 9))},
    **{f"front_shutter{k}": shuttered for k in range(2)},
    **{f"front_panelled{k}": panelled for k in range(4)},
    **{f"front_barred{k}": barred for k in range(3)},
    **{f"front_arcade{k}": arcade for k in range(3)},
    **{f"front_base{k}": based for k in range(5)},
}
"""Painters of the tiles; those of shops' glass (`shop...`) mirror the sky and shine after dark."""

TRADE = [name for name in FRONTS if not name.startswith(("front_arcade", "front_base"))]
"""Tiles of shops, by which a shop street's bays are dealt."""

QUIET = [name for name in FRONTS if name.startswith(("front_arcade", "front_base", "front_barred"))]
"""Tiles of ground floors where nothing is sold."""
