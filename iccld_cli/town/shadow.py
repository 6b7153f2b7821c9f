"""Shadows: a depth map seen from the sun, and the soft dark patch under everything that stands on the ground."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iccld_cli.town import raster
from iccld_cli.town.atlas import Atlas
from iccld_cli.town.gbuffer import SOLID_BATCH, Faces, turn_sprites
from iccld_cli.town.mesh import Mesh

MAP = 832
"""Edge of the sun's depth map in texels, for pictures up to 640 pixels wide."""

REACH = 36.0
"""Half width of the square the map covers, metres."""

CONTACT = 0.2
"""Texel of the contact map, metres."""


@dataclass
class SunMap:
    """Depth seen from the sun.

    Attributes:
        depth: (M, M) float32, height along the sun's direction of the nearest caster.
        axes: World axes of the map's columns, rows and the direction to the sun (3, 3).
        start: Coordinates of texel (0, 0) along the first two axes.
    """

    depth: np.ndarray
    axes: np.ndarray
    start: np.ndarray

    def lit(self, pos: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Share of sun (N,) that reaches world points (N, 3); ``bias`` (N,) metres guards against self-shadowing."""
        local = pos @ self.axes.T.astype(np.float32)
        edge = len(self.depth)
        scale = np.float32(edge / (2 * REACH))
        x = (local[:, 0] - np.float32(self.start[0])) * scale
        y = (local[:, 1] - np.float32(self.start[1])) * scale
        inside = (x > 1) & (x < edge - 3) & (y > 1) & (y < edge - 3)
        x, y = np.where(inside, x, 1), np.where(inside, y, 1)
        ix, iy = x.astype(np.int32), y.astype(np.int32)
        fx, fy = x - ix, y - iy
        own = local[:, 2] + bias
        flat, at = self.depth.ravel(), iy * edge + ix
        near = (flat[at] < own) * (1 - fx) + (flat[at + 1] < own) * fx
        far = (flat[at + edge] < own) * (1 - fx) + (flat[at + edge + 1] < own) * fx
        return np.where(inside, near * (1 - fy) + far * fy, 1).astype(np.float32)


def sun_map(mesh: Mesh, faces: Faces, atlas: Atlas, sun: np.ndarray, focus: np.ndarray, edge: int = MAP) -> SunMap:
    """Draws the scene from the sun.

    Args:
        mesh: The scene, sprites not yet turned.
        faces: The same scene with texture mapping; used for faces that are no sprites.
        atlas: Texture tiles, for holes.
        sun: Direction to the sun (3,).
        focus: World point (3,) in the middle of the map.
        edge: Edge of the map, texels.

    Returns:
        The depth map.
    """
    side = np.cross(sun, (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    up = np.cross(side, sun)
    axes = np.stack([side, up, sun])
    start = axes[:2] @ focus - REACH
    quads = faces.quads.copy()
    if mesh.sprites.any():
        quads[mesh.sprites] = turn_sprites(mesh, side.astype(np.float32), up.astype(np.float32))[mesh.sprites]
    # Far sides cast the shadow: what they are compared with lies a whole body away, which hides acne.
    cast = np.flatnonzero(((mesh.normals @ sun.astype(np.float32)) < 0) | mesh.sprites)
    local = (quads.take(cast, axis=0) @ axes.T.astype(np.float32)).astype(np.float64)
    local[..., :2] = (local[..., :2] - start) * (edge / (2 * REACH))
    local[..., 2] *= -1
    left, right = raster.span_of(local[..., 0])
    low, high = raster.span_of(local[..., 1])
    inside = np.flatnonzero((right > 0) & (left < edge) & (high > 0) & (low < edge))
    cast, local = cast.take(inside), local.take(inside, axis=0)
    setup = raster.orthographic(local, edge)
    depth = np.full(edge * edge, -1e9, np.float32)
    solid = np.flatnonzero(~faces.cutout[cast])
    for first in range(0, len(solid), SOLID_BATCH):
        index, height, _ = raster.fragments(setup, solid[first : first + SOLID_BATCH], edge)
        np.maximum.at(depth, index, height)
    holes = np.flatnonzero(faces.cutout[cast])
    for first in range(0, len(holes), SOLID_BATCH):
        index, height, owner = raster.fragments(setup, holes[first : first + SOLID_BATCH], edge)
        u, v = _local_uv(local, faces.mesh.reps.take(cast, axis=0), owner, index, edge)
        keep = np.flatnonzero(atlas.solid(mesh.tiles.take(cast.take(owner)), u, v, np.full(len(u), 2)))
        np.maximum.at(depth, index.take(keep), height.take(keep))
    return SunMap(depth.reshape(edge, edge), axes, start)


def _local_uv(
    local: np.ndarray, reps: np.ndarray, owner: np.ndarray, index: np.ndarray, edge: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texture position of map texels on faces given by map corners (F, 4, 3); affine, as the view is parallel."""
    o, e1, e3 = local[:, 0, :2], local[:, 1, :2] - local[:, 0, :2], local[:, 3, :2] - local[:, 0, :2]
    det = e1[:, 0] * e3[:, 1] - e1[:, 1] * e3[:, 0]
    inv = (1 / np.where(np.abs(det) < 1e-6, 1e-6, det)).astype(np.float32)
    e1, e3, o = e1.astype(np.float32), e3.astype(np.float32), o.astype(np.float32)
    dx = (index % edge).astype(np.float32) - o[owner, 0]
    dy = (index // edge).astype(np.float32) - o[owner, 1]
    scale = inv[owner]
    u = (dx * e3[owner, 1] - dy * e3[owner, 0]) * scale * reps[owner, 0]
    v = (dy * e1[owner, 0] - dx * e1[owner, 1]) * scale * reps[owner, 1]
    return u, v


@dataclass
class ContactMap:
    """Ambient light lost near the foot of things.

    Attributes:
        loss: (N, N) float32 in 0..1.
        start: World x and z of texel (0, 0).
    """

    loss: np.ndarray
    start: np.ndarray

    def at(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Loss (N,) at world ground points."""
        n = len(self.loss)
        i = ((z - np.float32(self.start[1])) / np.float32(CONTACT)).astype(np.int32)
        j = ((x - np.float32(self.start[0])) / np.float32(CONTACT)).astype(np.int32)
        inside = (i >= 0) & (i < n) & (j >= 0) & (j < n)
        return np.where(inside, self.loss[np.clip(i, 0, n - 1), np.clip(j, 0, n - 1)], 0)


def contact_map(faces: Faces, focus: np.ndarray) -> ContactMap:
    """Blurred footprint of everything within 1.2 m of the ground, around a world point (3,)."""
    n = 420
    start = focus[[0, 2]] - n * CONTACT / 2
    near = np.abs(faces.quads[:, 0, ::2] - focus[::2].astype(np.float32)) < n * CONTACT
    _, top = raster.span_of(faces.quads[..., 1])
    low = (top < 1.25) & ~faces.mesh.sprites & near[:, 0] & near[:, 1]
    quads = faces.quads[low].astype(np.float64)
    local = np.stack([(quads[..., 0] - start[0]) / CONTACT, (quads[..., 2] - start[1]) / CONTACT, quads[..., 1]], -1)
    setup = raster.orthographic(local, n)
    index, _, _ = raster.fragments(setup, np.arange(len(quads)), n)
    mask = np.zeros((n, n), np.float32)
    mask.ravel()[index] = 1
    tight = cv2.GaussianBlur(mask, (0, 0), 0.22 / CONTACT)
    wide = cv2.GaussianBlur(mask, (0, 0), 0.75 / CONTACT)
    return ContactMap(np.maximum(tight, np.minimum(wide * 1.3, 1) * 0.75), start)
