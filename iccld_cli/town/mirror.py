"""Reflections of the scene in wet ground, found by walking mirrored rays through the finished picture."""

from __future__ import annotations

import cv2
import numpy as np

from iccld_cli.town import ground
from iccld_cli.town.camera import SUPER
from iccld_cli.town.gbuffer import GROUND, GBuffer
from iccld_cli.town.looks import Light
from iccld_cli.town.sky import sky_color

STEPS = tuple(0.5 * 1.5**k for k in range(11))
"""Distances along a mirrored ray that are looked at, metres."""

F = np.float32


def share(light: Light, rays: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Mirror share (N,) of ground kinds (N,) seen along rays (N, 3): most at a flat angle, none on grass."""
    graze = np.clip(1 + rays[:, 1] / np.linalg.norm(rays, axis=1), 0, 1) ** 5
    return (F(0.06) + F(0.75) * graze) * F(light.wet) * (kind < ground.VERGE)


def add_reflections(buf: GBuffer, light: Light, image: np.ndarray) -> None:
    """Replaces the sky that wet ground mirrors by whatever hides it, in place.

    Args:
        buf: Geometry buffer.
        light: Light and air.
        image: Linear RGB (H, W, 3) float32 of the pixel centres.
    """
    height, width = image.shape[:2]
    ids, depth = buf.grid(buf.ids)[::SUPER, ::SUPER], buf.grid(buf.depth)[::SUPER, ::SUPER]
    at = np.flatnonzero(ids.ravel() == GROUND)
    rays = buf.rays.reshape(height * SUPER, width * SUPER, 3)[::SUPER, ::SUPER].reshape(-1, 3)[at]
    kind = buf.grid(buf.ground.kind)[::SUPER, ::SUPER].ravel()[at]
    weight = share(light, rays, kind)
    keep = weight > 0.02
    at, rays, weight = at[keep], rays[keep], weight[keep]
    flat_depth, flat_ids, flat_image = depth.ravel(), ids.ravel(), image.reshape(-1, 3)
    bounce = rays / np.linalg.norm(rays, axis=1, keepdims=True) * np.array([1, -1, 1], F)
    turn = buf.camera.rotation.T.astype(F)
    start = (rays / flat_depth[at, None]) @ turn
    step = bounce @ turn
    found = np.full(len(at), -1, np.int64)
    for reach in STEPS:
        open_ = np.flatnonzero(found < 0)
        point = start[open_] + step[open_] * F(reach)
        z = np.maximum(point[:, 2], F(0.1))
        col = np.round(point[:, 0] / z * F(buf.camera.focal) + F((width - 1) / 2)).astype(np.int64)
        row = np.round(point[:, 1] / z * F(buf.camera.focal) + F((height - 1) / 2)).astype(np.int64)
        inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
        pixel = np.clip(row, 0, height - 1) * width + np.clip(col, 0, width - 1)
        behind = z - 1 / np.maximum(flat_depth[pixel], F(1e-4))
        hit = inside & (flat_ids[pixel] >= 0) & (behind > 0) & (behind < F(1.0 + 0.5 * reach))
        found[open_[hit]] = pixel[hit]
    hit = np.flatnonzero(found >= 0)
    seen = np.zeros((height * width, 4), F)
    seen[at[hit], :3] = flat_image[found[hit]]
    seen[at[hit], 3] = 1
    # Rough asphalt smears a mirror image mostly towards the viewer.
    scale = width / 512
    seen = cv2.GaussianBlur(seen.reshape(height, width, 4), (0, 0), 0.8 * scale, sigmaY=4 * scale).reshape(-1, 4)[at]
    covered = np.minimum(seen[:, 3:], 1)
    color = seen[:, :3] / np.maximum(seen[:, 3:], F(1e-3))
    flat_image[at] += (weight[:, None] * covered) * (color - sky_color(light, bounce, False))
    np.maximum(flat_image, 0, out=flat_image)
