"""Sky, clouds, sun and the wooded hills behind the town, all by direction alone."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from iccld_cli.town.atlas import lookup
from iccld_cli.town.looks import HIDDEN, Light
from iccld_cli.town.materials import noise


def length(rays: np.ndarray) -> np.ndarray:
    """Lengths (N,) of vectors (N, 3); several times faster than the general norm of NumPy."""
    return np.sqrt(np.einsum("nk,nk->n", rays, rays))


@lru_cache(maxsize=2)
def cloud_field(size: int = 512) -> np.ndarray:
    """Tileable cloud density (size + 1, size + 1) float32 about 0; the last row and column repeat the first."""
    rng = np.random.default_rng(5021)
    field = noise(rng, 4, 7, size, 0.55) + 0.3 * np.abs(noise(rng, 8, 5, size, 0.6))
    return cv2.copyMakeBorder(field, 0, 1, 0, 1, cv2.BORDER_WRAP)


def hill_height(azimuth: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Tangent of the hills' elevation at azimuths (N,) in radians."""
    rng = np.random.default_rng((*seed, 17))
    out = np.full(azimuth.shape, np.float32(rng.uniform(0.018, 0.05)))
    for k in (2, 5, 11, 29, 83):
        amp = np.float32(rng.uniform(0.2, 1) * 0.035 / k**0.62)
        out += amp * np.sin(np.float32(k) * azimuth + np.float32(rng.uniform(0, 6.28)))
    return np.maximum(out, np.float32(0.006))


def is_hill(rays: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Which of world directions (N, 3) that meet nothing else lie below the hills' outline (N,) bool."""
    out = np.zeros(len(rays), bool)
    # No hill is steeper than this: the base and all waves of `hill_height` together.
    flat = np.sqrt(rays[:, 0] * rays[:, 0] + rays[:, 2] * rays[:, 2])
    low = np.flatnonzero(rays[:, 1] < np.float32(0.11) * flat)
    ray, flat = rays[low], flat[low]
    out[low] = ray[:, 1] < hill_height(np.arctan2(ray[:, 0], ray[:, 2]), seed) * flat
    return out


def sky_color(light: Light, rays: np.ndarray, clouds: bool = True) -> np.ndarray:
    """Light that arrives from directions.

    Args:
        light: Light and air.
        rays: World directions (N, 3) of any length; those below the horizon count as level.
        clouds: Whether to draw clouds and the sun's disc.

    Returns:
        Linear RGB (N, 3) float32.
    """
    unit = rays / length(rays)[:, None]
    up = np.clip(unit[:, 1], 0, 1)
    t = np.power(up, np.float32(0.55))[:, None]
    color = light.horizon.astype(np.float32) * (1 - t) + light.zenith.astype(np.float32) * t
    facing = np.maximum(unit @ light.sun.astype(np.float32), 0)
    if light.sun_color.max() > HIDDEN:
        halo = np.float32(0.25) * facing**12 + np.float32(0.35) * facing**90
        color += halo[:, None] * light.sun_color.astype(np.float32)
    if not clouds:
        return color
    # Clouds lie on a plane overhead, so they shrink towards the horizon.
    scale = np.float32(90) / (up + np.float32(0.09))
    x = unit[:, 0] * scale + np.float32(light.offset[0] * 512)
    y = unit[:, 2] * scale + np.float32(light.offset[1] * 512)
    d = lookup(cloud_field(), x % 512, y % 512)
    level = np.float32(0.34 - 0.75 * light.cover)
    thick = np.clip((d - level) * 4, 0, 1) * np.clip(up * 9, 0.15, 1)
    shade = light.cloud.astype(np.float32) * (np.float32(1.06) - np.float32(0.3) * np.clip(d - level, 0, 1))[:, None]
    color += (shade - color) * thick[:, None] * np.float32(0.9)
    if light.sun_color.max() > HIDDEN:
        disc = np.clip((facing - np.float32(0.9991)) * 3000, 0, 1) * (1 - 0.9 * thick)
        color += disc[:, None] * light.sun_color.astype(np.float32) * 3
    return color


def hill_color(light: Light, rays: np.ndarray, seed: tuple[int, ...], tree: np.ndarray) -> np.ndarray:
    """Colour (N, 3) of hills in directions (N, 3): woods under haze, darker towards their foot."""
    azimuth = np.arctan2(rays[:, 0], rays[:, 2])
    bumps = np.sin(azimuth * 400 + 3 * np.sin(azimuth * 151)) * np.sin(rays[:, 1] * 900 + azimuth * 90)
    lit = light.above + 0.35 * light.sun_color
    base = (tree * lit).astype(np.float32) * (0.6 + 0.12 * bumps)[:, None].astype(np.float32)
    fog = np.float32(1 - np.exp(-light.haze * 240 - 0.25))
    return base * (1 - fog) + light.horizon.astype(np.float32) * fog
