"""Road, sidewalks, kerbs and lots, found exactly by casting each view ray onto the two ground levels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iccld_cli.town.atlas import TILES
from iccld_cli.town.camera import SUPER, Camera
from iccld_cli.town.plan import CHUNK, Plan, rng_of

ROAD, WALK, KERBSTONE, VERGE, PAVED, LAWN, SOIL, CROP, STRAW, DITCH = range(10)
"""Kinds of ground."""

NOTHING = 255
"""Stands for no ground while kinds are compared."""

GROUND_LABELS = np.array([0, 1, 1, 9, 1, 9, 9, 9, 9, 9], np.uint8)
GROUND_TILES = np.array(
    [TILES[t] for t in ("asphalt", "paver", "concrete", "grass", "paver", "grass", "dirt", "grass", "dirt", "grass")],
    np.int32,
)
TILE_METRES = np.array([3.0, 2.0, 1.5, 2.4, 2.6, 3.0, 3.0, 4.0, 3.0, 1.6], np.float32)

SURFACES = (("paver", 2.0, 0.5), ("asphalt", 3.0, 0.75), ("concrete", 3.0, 1.0))
"""Pavements of a street: texture, metres a tile, share of streets up to it."""

CORNER = 4.0
"""Kerb radius at crossings, metres."""

FAR = 260.0
"""Distance in metres beyond which the ground is left to the backdrop."""


@dataclass
class GroundHit:
    """Where the view rays meet the ground, one entry per ray.

    Attributes:
        depth: Inverse depth (N,), 0 where the ray misses.
        kind: Kind of ground (N,) uint8.
    """

    depth: np.ndarray
    kind: np.ndarray


def surfaces(plan: Plan, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a street's ground is made of: slabs, asphalt as on the road, or cast concrete for its pavements.

    Args:
        plan: The street.
        colors: Linear RGB of every kind of ground (K, 3).

    Returns:
        Texture tiles (K,), metres a tile (K,) and colours (K, 3).
    """
    tiles, metres, colors = GROUND_TILES.copy(), TILE_METRES.copy(), colors.astype(np.float32)
    if plan.kind == "urban":
        rng = rng_of(*plan.seed, 31)
        drawn = rng.uniform()
        name, size, _ = next(surface for surface in SURFACES if drawn < surface[2])
        tiles[WALK], metres[WALK] = TILES[name], size
        if name == "asphalt":
            colors[WALK] = colors[ROAD] * rng.uniform(0.85, 1.3)
    return tiles, metres, colors


def kerb_distance(plan: Plan, lat: np.ndarray, s: np.ndarray, crossings: list[float]) -> np.ndarray:
    """Signed metres outside the carriageway; negative on the road, kerbs rounded at crossings."""
    side = lat > 0
    half = np.where(side, np.float32(plan.half(1)), np.float32(plan.half(0)))
    edge = np.abs(lat)
    out = edge - half
    if plan.median:
        out = np.maximum(out, np.float32(plan.median) - edge)
    for mid in crossings:
        b = np.abs(s - np.float32(mid)) - np.float32(plan.cross_half)
        arc = np.float32(CORNER) - np.hypot(CORNER - out, CORNER - b)
        corner = (out > 0) & (out < CORNER) & (b > 0) & (b < CORNER)
        out = np.where(corner, arc, np.minimum(out, b))
    return out


def _kinds(plan: Plan, lat: np.ndarray, s: np.ndarray, out: np.ndarray, crossings: list[float]) -> np.ndarray:
    """Kind of raised ground at street points whose kerb distance is ``out``."""
    side = (lat > 0).astype(np.int32)
    edge = np.abs(lat)
    front = np.array([plan.front(0), plan.front(1)], np.float32)[side]
    verge = np.array([plan.half(0) + plan.verge[0], plan.half(1) + plan.verge[1]], np.float32)[side]
    chunk = np.floor(s / np.float32(CHUNK)).astype(np.int32)
    lots = plan.lots[side, chunk % plan.lots.shape[1]]
    if plan.kind != "urban":
        kind = np.where(edge < front, np.uint8(VERGE), lots)
        kind[(edge < front) & (edge > front - 0.4 * np.array(plan.verge, np.float32)[side])] = DITCH
        return kind
    kind = np.where(edge < front, np.uint8(WALK), lots)
    kind[(edge > front + 16) & (kind == PAVED)] = LAWN
    beside = np.zeros(len(s), bool)
    for mid in crossings:
        beside |= np.abs(s - np.float32(mid)) < plan.cross_half + 3.0
    kind[beside & (edge >= front)] = WALK
    kind[(edge < verge) & ~beside & (out > 0.18)] = VERGE
    kind[(out < 0.16)] = KERBSTONE
    return kind


def cast(plan: Plan, origin: np.ndarray, rays: np.ndarray) -> GroundHit:
    """Casts rays onto the street.

    Args:
        plan: The street.
        origin: Camera position (3,) in the world, metres.
        rays: World directions (N, 3) float32 per unit of camera depth.

    Returns:
        The hits, in the order of the rays.
    """
    n = len(rays)
    hit = GroundHit(np.zeros(n, np.float32), np.zeros(n, np.uint8))
    down = np.flatnonzero(rays[:, 1] < -(origin[1] - plan.kerb) / FAR)
    ray = rays[down]
    crossings = plan.crossings(origin[2] - 20, origin[2] + FAR)
    drop = -1 / ray[:, 1]
    top = np.float32(origin[1] - plan.kerb) * drop
    lat, s, out = _street(plan, origin, ray, top, crossings)
    low = np.flatnonzero(out < 0)
    depth = top
    depth[low] = np.float32(origin[1]) * drop[low]
    kind = np.zeros(len(down), np.uint8)
    high = out >= 0
    kind[high] = _kinds(plan, lat[high], s[high], out[high], crossings)
    _, _, beyond = _street(plan, origin, ray[low], depth[low], crossings)
    # A ray that passes under the kerb's upper edge but lands beyond its foot has struck the kerb's face.
    kind[low] = np.where(beyond > 0, np.uint8(KERBSTONE), np.uint8(ROAD))
    hit.depth[down], hit.kind[down] = 1 / depth, kind
    return hit


def cast_grid(plan: Plan, camera: Camera, rays: np.ndarray) -> GroundHit:
    """Casts a camera's whole grid of samples; those between pixels only where something ends nearby.

    Args:
        plan: The street.
        camera: The camera.
        rays: Its rays, one per sample.

    Returns:
        The hits: exact at pixel centres and wherever the ground around a pixel is not of one kind.
    """
    width, height = camera.samples
    origin, grid = camera.position, rays.reshape(height, width, 3)
    coarse = cast(plan, origin, grid[::SUPER, ::SUPER].reshape(-1, 3))
    kind = np.where(coarse.depth > 0, coarse.kind, np.uint8(NOTHING)).reshape(height // SUPER, width // SUPER)
    square = np.ones((3, 3), np.uint8)
    mixed = (cv2.erode(kind, square) != cv2.dilate(kind, square)) | (kind == KERBSTONE)
    full = np.repeat(np.repeat(kind, SUPER, 0), SUPER, 1)
    # The ground lies on one of two levels, so that its depth follows from its kind.
    levels = np.full(NOTHING + 1, 1 / (origin[1] - plan.kerb), np.float32)
    levels[ROAD], levels[NOTHING] = 1 / origin[1], 0
    hit = GroundHit((levels[full] * -grid[..., 1]).ravel(), np.where(full == NOTHING, np.uint8(0), full).ravel())
    again = np.flatnonzero(np.repeat(np.repeat(mixed, SUPER, 0), SUPER, 1))
    fine = cast(plan, origin, rays[again])
    hit.depth[again], hit.kind[again] = fine.depth, fine.kind
    return hit


def _street(plan: Plan, origin: np.ndarray, ray: np.ndarray, depth: np.ndarray, crossings: list[float]) -> tuple:
    lat, s = plan.street(np.float32(origin[0]) + ray[:, 0] * depth, np.float32(origin[2]) + ray[:, 2] * depth)
    return lat, s, kerb_distance(plan, lat, s, crossings)


def _band(x: np.ndarray, half: float, blur: np.ndarray) -> np.ndarray:
    """Coverage 0..1 of a stripe |x| < half seen with a footprint of ``blur`` metres."""
    return np.clip((half - np.abs(x)) / blur + 0.5, 0, 1) * np.minimum(1, 2 * half / blur)


def _dash(s: np.ndarray, length: float, period: float, blur: np.ndarray) -> np.ndarray:
    """Coverage of a dashed pattern along the street."""
    phase = s - np.floor(s / period) * period - period / 2
    cover = np.clip((length / 2 - np.abs(phase)) / blur + 0.5, 0, 1)
    blend = np.clip((blur - period * 0.5) / period, 0, 1)
    return cover * (1 - blend) + blend * (length / period)


def _motorway_lines(plan: Plan, lat: np.ndarray, s: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Paint of a motorway (N,): solid edges, wide towards the hard shoulder, and 6 m dashes every 18 m (RMS)."""
    edge = np.abs(lat)
    white = np.maximum(_band(edge - plan.inner, 0.075, across), _band(edge - plan.drive_half, 0.14, across))
    for k in range(1, plan.lanes):
        dash = _band(edge - plan.inner - k * plan.lane, 0.075, across) * _dash(s, 6.0, 18.0, along)
        white = np.maximum(white, dash)
    return white.astype(np.float32)


def markings(
    plan: Plan, lat: np.ndarray, s: np.ndarray, across: np.ndarray, along: np.ndarray, yellow: bool
) -> np.ndarray:
    """Paint on the road.

    Args:
        plan: The street.
        lat: Metres right of the centre line (N,), on the road.
        s: Metres along the street (N,).
        across: Footprint of a pixel across the street (N,), metres.
        along: Footprint of a pixel along the street (N,), metres.
        yellow: Whether the centre line is yellow.

    Returns:
        Coverage of white paint and of yellow paint (2, N) in 0..1.
    """
    if plan.kind == "motorway":
        return np.stack([_motorway_lines(plan, lat, s, across, along), np.zeros(len(lat), np.float32)])
    white = np.zeros(len(lat), np.float32)
    s0, s1 = (float(s.min()), float(s.max())) if len(s) else (0.0, 0.0)
    open_ = np.ones(len(lat), np.float32)
    for mid in plan.crossings(s0 - 10, s1 + 10):
        d = np.abs(s - np.float32(mid)) - np.float32(plan.cross_half + 6.4)
        open_ = np.minimum(open_, np.clip(d / along + 0.5, 0, 1))
        if plan.kind != "urban":
            continue
        stop = _band(s - np.float32(mid - plan.cross_half - 6.1), 0.22, along)
        white = np.maximum(white, stop * ((lat > 0.2) & (lat < plan.drive_half)))
        stop = _band(s - np.float32(mid + plan.cross_half + 6.1), 0.22, along)
        white = np.maximum(white, stop * ((lat < -0.2) & (lat > -plan.drive_half)))
    for mid in plan.zebras(s0 - 4, s1 + 4):
        rows = np.clip((1.7 - np.abs(s - np.float32(mid))) / along + 0.5, 0, 1)
        kerb = np.where(lat > 0, np.float32(plan.half(1)), np.float32(plan.half(0)))
        inside = np.abs(lat) < kerb - 0.3
        white = np.maximum(white, rows * inside * _dash(lat, 0.5, 1.0, across))
        open_ = np.minimum(open_, 1 - rows)
    if plan.double_line:
        centre = np.maximum(_band(lat - 0.12, 0.06, across), _band(lat + 0.12, 0.06, across))
    else:
        centre = _band(lat, 0.075, across) * _dash(s, 4.0, 9.0, along)
    if not plan.lined:
        open_ = np.zeros_like(open_)
    lines = np.zeros(len(lat), np.float32)
    for side, sign in ((0, -1), (1, 1)):
        lines = np.maximum(lines, _band(lat - sign * (plan.drive_half - 0.12), 0.06, across))
        if plan.parking[side]:
            bay = _dash(s, 0.12, 6.0, along) * ((sign * lat > plan.drive_half) & (sign * lat < plan.half(side)))
            lines = np.maximum(lines, bay)
        for k in range(1, plan.lanes):
            lines = np.maximum(lines, _band(lat - sign * k * plan.lane, 0.06, across) * _dash(s, 3.0, 9.0, along))
    if yellow:
        return np.stack([np.maximum(white, lines * open_), centre * open_])
    return np.stack([np.maximum(white, np.maximum(lines, centre) * open_), np.zeros_like(centre)])
