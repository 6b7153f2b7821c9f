"""Texture tiles with openings or printed faces: windows, shops, vehicles' glass, fences, road signs."""

from __future__ import annotations

import cv2
import numpy as np

from iccld_cli.town.materials import SIZE, _blank, _rect, brick, concrete, metal, noise, planks, plaster

GLASS = (0.17, 0.22, 0.28)
SIGN_RED, SIGN_BLUE, SIGN_YELLOW, SIGN_GREEN = (
    (0.86, 0.1, 0.12),
    (0.08, 0.3, 0.72),
    (0.98, 0.8, 0.1),
    (0.05, 0.42, 0.22),
)


def _pane(tile: np.ndarray, rng: np.random.Generator, x0: float, y0: float, x1: float, y1: float, state: int) -> None:
    """Paints one window pane; state 0 dark, 1 curtain, 2 lit."""
    base = np.array(GLASS if state != 2 else (0.9, 0.72, 0.42)) * rng.uniform(0.85, 1.15)
    _rect(tile, x0, y0, x1, y1, tuple(base))
    if state == 1:
        drop = rng.uniform(0.3, 0.9)
        _rect(tile, x0, y0, x1, y0 + (y1 - y0) * drop, tuple(np.array([0.62, 0.6, 0.55]) * rng.uniform(0.7, 1.1)))
    a, b, c, d = (round(v * SIZE) for v in (y0, y1, x0, x1))
    tile[a:b, c:d, :3] += np.linspace(0.09, -0.05, b - a, dtype=np.float32)[:, None, None]


def window(style: str, state: int, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """One storey bay, about 3 m square, with its window.

    Args:
        style: One of "a" rendered, "b" brick with lintel, "c" office ribbon, "d" shutters, "e" balcony door.
        state: 0 dark glass, 1 curtain, 2 lit.
        rng: Source of small variations.
        gritty: Weathered walls.

    Returns:
        Tile (SIZE, SIZE, 5).
    """
    wall = {"a": plaster, "b": brick, "c": concrete, "d": planks if gritty else plaster, "e": plaster}[style]
    tile = wall(rng, gritty)
    frame = (0.9, 0.9, 0.88) if style in "abe" else (0.24, 0.25, 0.27)
    if style == "c":
        _rect(tile, 0, 0.25, 1, 0.86, frame)
        for k in range(2):
            _pane(tile, rng, 0.03 + 0.5 * k, 0.28, 0.48 + 0.5 * k, 0.83, state)
        return tile
    x0, x1, y0, y1 = {"a": (0.3, 0.7, 0.2, 0.76), "b": (0.27, 0.73, 0.22, 0.76)}.get(style, (0.32, 0.68, 0.2, 0.76))
    if style == "e":
        x0, x1, y0, y1 = 0.18, 0.82, 0.2, 0.98
    _rect(tile, x0 - 0.035, y0 - 0.035, x1 + 0.035, y1 + 0.03, frame)
    mid = (x0 + x1) / 2
    _pane(tile, rng, x0, y0, mid - 0.012, y1, state)
    _pane(tile, rng, mid + 0.012, y0, x1, y1, state)
    if style in "ab":
        _rect(tile, x0 - 0.07, y1 + 0.03, x1 + 0.07, y1 + 0.075, (0.66, 0.65, 0.62))
        tile[round((y1 + 0.075) * SIZE) : round((y1 + 0.12) * SIZE), round(x0 * SIZE) : round(x1 * SIZE), :3] *= 0.72
        _rect(tile, x0 - 0.06, y0 - 0.09, x1 + 0.06, y0 - 0.035, (0.8, 0.78, 0.74), 0.4)
    if style == "d":
        for side in (x0 - 0.2, x1 + 0.04):
            _rect(tile, side, y0 - 0.02, side + 0.16, y1 + 0.02, (0.2, 0.36, 0.26) if not gritty else (0.36, 0.24, 0.2))
            for k in range(9):
                y = y0 + (y1 - y0) * k / 9
                _rect(tile, side + 0.02, y, side + 0.14, y + 0.016, (0.13, 0.22, 0.18))
    if style == "e":
        for k in range(14):
            _rect(tile, 0.14 + 0.052 * k, 0.68, 0.152 + 0.052 * k, 1.0, (0.15, 0.15, 0.17))
        _rect(tile, 0.12, 0.655, 0.88, 0.685, (0.15, 0.15, 0.17))
    return tile


def shop(index: int, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A shop front bay with fascia, glass and goods."""
    tile = _blank(0.75)
    fascia = np.array([SIGN_RED, SIGN_BLUE, SIGN_GREEN, (0.85, 0.55, 0.1), (0.2, 0.2, 0.22)][index % 5])
    if gritty:
        fascia = 0.55 * fascia + 0.15
    _rect(tile, 0, 0.04, 1, 0.26, tuple(fascia))
    for k in range(rng.integers(4, 8)):
        x = 0.14 + 0.1 * k
        _rect(tile, x, 0.1, x + 0.06, 0.2, (0.95, 0.94, 0.9))
    _rect(tile, 0.04, 0.3, 0.96, 0.94, (0.2, 0.2, 0.2))
    for x0, x1 in ((0.06, 0.48), (0.5, 0.72), (0.74, 0.94)):
        _pane(tile, rng, x0, 0.32, x1, 0.92, 0)
    for _ in range(14):
        x, y = rng.uniform(0.08, 0.42), rng.uniform(0.68, 0.88)
        _rect(tile, x, y, x + rng.uniform(0.02, 0.06), 0.92, tuple(rng.uniform(0.2, 0.8, 3) * (0.7 if gritty else 1)))
    _rect(tile, 0.5, 0.92, 0.72, 1.0, (0.3, 0.3, 0.3))
    return tile


def door(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Ground-floor bay with an entrance."""
    tile = plaster(rng, gritty)
    _rect(tile, 0.33, 0.2, 0.67, 1, (0.88, 0.87, 0.84))
    _rect(tile, 0.37, 0.24, 0.63, 1, (0.32, 0.16, 0.1) if not gritty else (0.2, 0.23, 0.26))
    _pane(tile, rng, 0.41, 0.29, 0.59, 0.5, 0)
    _rect(tile, 0.57, 0.64, 0.6, 0.68, (0.85, 0.8, 0.5))
    return tile


def garage(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Ground-floor bay with a roller door."""
    tile = plaster(rng, gritty)
    _rect(tile, 0.1, 0.22, 0.9, 1, (0.7, 0.7, 0.7))
    for k in range(8):
        _rect(tile, 0.12, 0.25 + 0.094 * k, 0.88, 0.25 + 0.094 * k + 0.075, (0.58, 0.59, 0.6))
    return tile


def car_glass(kind: str, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Glass of a vehicle side or screen; painted pillars take the body colour."""
    tile = _blank(0.97)
    spans = {
        "side2": ((0.05, 0.46), (0.52, 0.94)),
        "side1": ((0.08, 0.9),),
        "screen": ((0.05, 0.95),),
        "bus": ((0.02, 0.98),),
        "van": ((0.03, 0.3),),
    }[kind]
    y0, y1 = {"bus": (0.16, 0.62), "screen": (0.1, 0.96)}.get(kind, (0.12, 0.94))
    for x0, x1 in spans:
        _rect(tile, x0, y0, x1, y1, (0.1, 0.13, 0.16))
        a, b, c, d = (round(v * SIZE) for v in (y0, y1, x0, x1))
        ramp = np.linspace(0.1, 0, b - a, dtype=np.float32)[:, None]
        streak = 0.03 * np.sin(np.linspace(0, 5, d - c, dtype=np.float32))[None]
        tile[a:b, c:d, :3] += (ramp + streak)[..., None] * np.array([0.8, 0.95, 1.1], np.float32)
    if kind == "bus":
        _rect(tile, 0, 0.72, 1, 0.78, (0.95, 0.95, 0.95))
    return tile


def cargo(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Truck body side with a stripe and lettering."""
    tile = metal(rng, gritty)
    tile[..., :3] = 0.3 * tile[..., :3] + 0.65
    hue = np.array((SIGN_BLUE, SIGN_RED, SIGN_GREEN)[rng.integers(3)])
    _rect(tile, 0, 0.55, 1, 0.68, tuple(hue))
    for k in range(6):
        _rect(tile, 0.16 + 0.11 * k, 0.22, 0.23 + 0.11 * k, 0.42, tuple(hue * 0.8))
    return tile


def wheel(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Rim with five spokes."""
    tile = _blank(0.2)
    tile[..., 3] = 0
    y, x = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE - 0.5
    r, a = np.hypot(x, y), np.arctan2(y, x)
    tile[(r < 0.47) & (np.cos(5 * a) > -0.2), :3] = 0.68
    tile[r < 0.12, :3] = 0.55
    tile[..., 4] = r < 0.49
    return tile


def spokes(rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """Bicycle wheel: tyre ring, spokes and hub cut out."""
    tile = _blank(0.2)
    y, x = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE - 0.5
    r, a = np.hypot(x, y), np.arctan2(y, x)
    tile[(r < 0.43) & (r > 0.4), :3] = 0.6
    spoke = np.abs(np.sin(6 * a)) * r < 0.022
    tile[spoke & (r < 0.4), :3] = 0.7
    tile[..., 3] = 0
    tile[..., 4] = ((r < 0.49) & (r > 0.4)) | (spoke & (r < 0.42)) | (r < 0.05)
    return tile


def fence(kind: str, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """See-through fence panel: "picket" boards, "bars" or woven "mesh"."""
    tile = _blank(0.85)
    y, x = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE
    if kind == "picket":
        phase = (x * 8) % 1
        tip = 0.16 * np.abs(phase - 0.4)
        solid = (phase < 0.74) & (y > 0.03 + tip)
        solid |= (np.abs(y - 0.25) < 0.045) | (np.abs(y - 0.8) < 0.045)
        tile[..., :3] += 0.06 * noise(rng, 8, 3)[..., None]
        tile[phase < 0.06, :3] *= 0.7
    elif kind == "bars":
        solid = ((x * 12) % 1 < 0.38) & (y > 0.02) | (np.abs(y - 0.12) < 0.03) | (np.abs(y - 0.92) < 0.03)
    else:
        u, v = (x + y) * 10 % 1, (x - y) * 10 % 1
        solid = (u < 0.24) | (v < 0.24) | (y < 0.04) | (y > 0.96) | (x < 0.04)
    tile[..., 4] = solid
    return tile


def _text(tile: np.ndarray, text: str, scale: float, rgb: tuple, y: float = 0.5) -> None:
    layer = np.zeros((SIZE, SIZE), np.uint8)
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 8)
    origin = (round(SIZE / 2 - w / 2), round(y * SIZE + h / 2))
    cv2.putText(layer, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 8)
    tile[layer > 0, :3] = rgb


SIGNS = ("stop", "yield", "limit", "noentry", "priority", "arrow", "park", "warn", "cross", "guide")
"""Printed road signs."""

OUTLINES = {"stop": "oct", "yield": "down", "warn": "up", "priority": "diamond"}
OUTLINES |= {"park": "square", "cross": "square", "guide": "square"}


def outline(shape: str) -> np.ndarray:
    """Distance-like field (SIZE, SIZE): below 1 inside a sign of that outline, 1 on its rim."""
    y, x = ((np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE - 0.5) * 2.08
    if shape == "oct":
        return np.maximum(np.maximum(abs(x), abs(y)), (abs(x) + abs(y)) / 1.414)
    if shape == "diamond":
        return abs(x) + abs(y)
    if shape == "square":
        return np.maximum(abs(x), abs(y))
    if shape in ("up", "down"):
        y = y if shape == "up" else -y
        return np.maximum((y + 0.12) / 0.88, (abs(x) * 1.732 - y - 0.12) / 0.88 + 0.0)
    return np.hypot(x, y)


def sign(name: str, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """A printed road sign with its cut-out."""
    tile = _blank(0.95)
    tile[..., 3] = 0
    field = outline(OUTLINES.get(name, "round"))
    tile[..., 4] = field < 1
    inner, y = field < 0.78, (np.mgrid[0:SIZE, 0:SIZE][0] + 0.5) / SIZE
    fill: dict[str, tuple] = {"stop": SIGN_RED, "noentry": SIGN_RED, "arrow": SIGN_BLUE, "park": SIGN_BLUE}
    fill |= {"cross": SIGN_BLUE, "guide": SIGN_GREEN if gritty else SIGN_BLUE, "priority": (0.96, 0.96, 0.94)}
    if name in fill:
        tile[field < 0.94, :3] = fill[name]
    else:
        tile[..., :3] = SIGN_RED
        tile[inner, :3] = SIGN_YELLOW if gritty and name == "warn" else (0.96, 0.96, 0.94)
    if name == "stop":
        _text(tile, "STOP", 1.3, (0.97, 0.97, 0.97))
    elif name == "limit":
        _text(tile, ("30", "50", "60")[rng.integers(3)], 1.7, (0.08, 0.08, 0.08))
    elif name == "noentry":
        _rect(tile, 0.2, 0.42, 0.8, 0.58, (0.97, 0.97, 0.97))
    elif name == "priority":
        tile[field < 0.66, :3] = SIGN_YELLOW
    elif name == "arrow":
        _rect(tile, 0.45, 0.35, 0.55, 0.8, (0.97, 0.97, 0.97))
        tile[(outline("up") < 0.42) & (y < 0.55), :3] = 0.97
    elif name == "park":
        _text(tile, "P", 2.6, (0.97, 0.97, 0.97))
    elif name == "warn":
        _rect(tile, 0.46, 0.42, 0.54, 0.68, (0.1, 0.1, 0.1))
        _rect(tile, 0.46, 0.73, 0.54, 0.79, (0.1, 0.1, 0.1))
    elif name == "cross":
        tile[outline("up") < 0.6, :3] = 0.97
        _rect(tile, 0.46, 0.4, 0.54, 0.66, (0.1, 0.1, 0.1))
    elif name == "guide":
        for k in range(3):
            _rect(tile, 0.15, 0.2 + 0.24 * k, 0.6 + 0.1 * k, 0.28 + 0.24 * k, (0.97, 0.97, 0.97))
    return tile


def back(shape: str, rng: np.random.Generator, gritty: bool) -> np.ndarray:
    """The grey back of a sign of the given outline."""
    tile = _blank(0.75)
    tile[..., 4] = outline(shape) < 1
    return tile
