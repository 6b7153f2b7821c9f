"""All texture tiles of a look packed with their mip levels into one picture, sampled by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import numpy as np

from iccld_cli.town import facades, fronts, materials
from iccld_cli.town.materials import SIZE, Painter

LEVELS = 6
PAD = 2
CELL_W, CELL_H = 200, 132
COLUMNS = 10
# Corner of each mip level inside its cell, gutter included.
_AT = ((0, 0), (132, 0), (132, 68), (168, 68), (168, 88), (180, 88))

WINDOW_STYLES = "abcde"
WINDOW_STATES = 4
"""Variants a facade picks from per bay: two dark, one with a curtain, one that is lit after dark."""


def _painters() -> dict[str, Painter]:
    tiles: dict[str, Painter] = {}
    for name in ("plain", "plaster", "brick", "concrete", "rooftile", "planks", "metal", "stone", "bark", "asphalt"):
        tiles[name] = getattr(materials, name)
    for name in ("paver", "grass", "dirt", "stains", "needles", "twigs"):
        tiles[name] = getattr(materials, name)
    for k in range(3):
        tiles[f"leaf{k}"] = partial(materials.leaves, count=(130, 170, 110)[k], long=(1.6, 1.2, 2.4)[k])
    for style in WINDOW_STYLES:
        for k in range(WINDOW_STATES):
            tiles[f"win_{style}{k}"] = partial(facades.window, style, (0, 0, 1, 2)[k])
    for k in range(5):
        tiles[f"shop{k}"] = partial(facades.shop, k)
    for name in ("door", "garage", "cargo", "wheel", "spokes"):
        tiles[name] = getattr(facades, name)
    for kind in ("side2", "side1", "screen", "bus", "van"):
        tiles[f"glass_{kind}"] = partial(facades.car_glass, kind)
    for kind in ("picket", "bars", "mesh"):
        tiles[f"fence_{kind}"] = partial(facades.fence, kind)
    for name in facades.SIGNS:
        tiles[f"sign_{name}"] = partial(facades.sign, name)
    for shape in ("oct", "diamond", "square", "up", "down", "round"):
        tiles[f"back_{shape}"] = partial(facades.back, shape)
    return tiles | fronts.FRONTS


PAINTERS: dict[str, Callable] = _painters()
TILES: dict[str, int] = {name: k for k, name in enumerate(PAINTERS)}
"""Number of every texture tile."""

CUTOUT = np.array(
    [n.startswith(("leaf", "needles", "twigs", "fence", "sign", "back", "spokes", "wheel")) for n in PAINTERS]
)
"""Tiles with holes, by number."""

CLOSE = {"leaf": 0.12, "needles": 0.12, "twigs": 0.2, "fence": 0.1, "spokes": 0.35}
"""Width of the widest hole, in tile edges, that a human annotator takes for part of what is around it, by the beginning
of a tile's name."""

LIT = np.array([(n.startswith("win_") and n.endswith("3")) or n.startswith("shop") for n in PAINTERS], np.float32)
"""Tiles whose glass shines after dark, by number."""

REFLECT = np.array([n.startswith(("win_", "shop", "glass_")) for n in PAINTERS], np.float32)
"""Tiles whose untinted parts are glass and mirror the sky, by number."""

IS_WINDOW = np.array([n.startswith("win_") for n in PAINTERS])


def lookup(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of a picture (H, W) or (H, W, C) at columns x (N,) and rows y (N,); returns (N,) or (N, C)."""
    # remap wants a 2-D map with sides below 32768.
    n = len(x)
    rows = max(-(-n // 1024), 1)
    grid = np.zeros((2, rows * 1024), np.float32)
    grid[0, :n], grid[1, :n] = x, y
    out = cv2.remap(picture, grid[0].reshape(rows, -1), grid[1].reshape(rows, -1), cv2.INTER_LINEAR)
    return out.reshape(-1, *picture.shape[2:])[:n]


@dataclass(frozen=True)
class Atlas:
    """Packed tiles.

    Attributes:
        picture: (rows * CELL_H, COLUMNS * CELL_W, 4) uint8: display-encoded RGB and tint mask.
        cutout: Flat bool array of every tile's cut-out, level after level.
        outline: The same with the holes closed.
    """

    picture: np.ndarray
    cutout: np.ndarray
    outline: np.ndarray

    def sample(self, tile: np.ndarray, u: np.ndarray, v: np.ndarray, lod: np.ndarray) -> np.ndarray:
        """Bilinear texture look-up.

        Args:
            tile: Tile numbers (N,).
            u: Position along the tile's top edge (N,), in tile widths; repeats.
            v: Position down the tile (N,), in tile heights; repeats.
            lod: Mip level (N,), int; clipped to what is stored.

        Returns:
            RGB and tint mask (N, 4) uint8.
        """
        lod = np.clip(lod, 0, LEVELS - 1)
        size = _SIZES[lod]
        x = (u - np.floor(u)) * size + _AT_X[lod] + (tile % COLUMNS) * np.float32(CELL_W) + np.float32(PAD - 0.5)
        y = (v - np.floor(v)) * size + _AT_Y[lod] + (tile // COLUMNS) * np.float32(CELL_H) + np.float32(PAD - 0.5)
        return lookup(self.picture, x, y)

    def texel(self, tile: np.ndarray, u: np.ndarray, v: np.ndarray, lod: np.ndarray) -> np.ndarray:
        """Nearest position (N,) int32 in ``cutout`` and ``outline``; same arguments as :meth:`sample`."""
        size = SIZE >> lod
        x = np.minimum(((u - np.floor(u)) * size).astype(np.int32), size - 1)
        y = np.minimum(((v - np.floor(v)) * size).astype(np.int32), size - 1)
        return tile.astype(np.int32) * _CUT_TOTAL + _CUT_AT[lod] + y * size + x

    def solid(self, tile: np.ndarray, u: np.ndarray, v: np.ndarray, lod: np.ndarray) -> np.ndarray:
        """Nearest cut-out look-up; same arguments as :meth:`sample`, returns bool (N,)."""
        return self.cutout[self.texel(tile, u, v, lod)]


_SIZES = np.array([SIZE >> k for k in range(LEVELS)], np.float32)
_AT_X = np.array([a[0] for a in _AT], np.float32)
_AT_Y = np.array([a[1] for a in _AT], np.float32)
_CUT_TOTAL = sum((SIZE >> k) ** 2 for k in range(LEVELS))
_CUT_AT = np.cumsum([0] + [(SIZE >> k) ** 2 for k in range(LEVELS - 1)]).astype(np.int32)


def closed(name: str, solid: np.ndarray) -> np.ndarray:
    """A tile's cut-out (SIZE, SIZE) bool with the holes closed that are narrower than its CLOSE."""
    width = next((share for start, share in CLOSE.items() if name.startswith(start)), 0.0)
    if not width:
        return solid
    reach = round(width * SIZE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach | 1, reach | 1))
    # Fences repeat along their length; nothing goes on beyond the edge of a leaf's or a wheel's tile.
    mask = np.pad(solid.astype(np.uint8), ((reach, reach), (reach, reach)))
    if name.startswith("fence"):
        mask[:, :reach], mask[:, -reach:] = mask[:, -2 * reach : -reach], mask[:, reach : 2 * reach]
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disc)
    return mask[reach:-reach, reach:-reach] > 0


@lru_cache(maxsize=4)
def build_atlas(gritty: bool) -> Atlas:
    """Paints and packs every tile.

    Args:
        gritty: The weathered set of the camera looks instead of the clean one of the game.

    Returns:
        The packed atlas; the same object for the same argument.
    """
    rows = -(-len(PAINTERS) // COLUMNS)
    picture = np.zeros((rows * CELL_H, COLUMNS * CELL_W, 4), np.uint8)
    cutout = np.ones((len(PAINTERS), _CUT_TOTAL), bool)
    outline = cutout.copy()
    for name, k in TILES.items():
        tile = PAINTERS[name](rng=np.random.default_rng([977, k, int(gritty)]), gritty=gritty)
        oy, ox = (k // COLUMNS) * CELL_H, (k % COLUMNS) * CELL_W
        # Thin bars close up into a solid panel with distance, leaves keep their outline.
        solid = 0.33 if name.startswith(("fence", "spokes", "twigs")) else 0.5
        whole = closed(name, tile[..., 4] > solid).astype(np.float32)
        for level in range(LEVELS):
            size = SIZE >> level
            small = tile if level == 0 else cv2.resize(tile, (size, size), interpolation=cv2.INTER_AREA)
            rgbm = (np.clip(small[..., :4], 0, 1) * 255 + 0.5).astype(np.uint8)
            x, y = ox + _AT[level][0], oy + _AT[level][1]
            picture[y : y + size + 2 * PAD, x : x + size + 2 * PAD] = np.pad(
                rgbm, ((PAD, PAD), (PAD, PAD), (0, 0)), "wrap"
            )
            start = _CUT_AT[level]
            cutout[k, start : start + size * size] = (small[..., 4] > solid).ravel()
            around = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA) > 0.5
            outline[k, start : start + size * size] = around.ravel() | cutout[k, start : start + size * size]
    return Atlas(picture, cutout.ravel(), outline.ravel())
