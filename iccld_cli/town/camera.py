"""The pinhole camera every picture is taken with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUPER = 2
"""Samples per pixel and axis.  Even samples lie on pixel centres: they alone decide the label."""


@dataclass(frozen=True)
class Camera:
    """A camera in the world (x right, y up, z forward); its own axes are x right, y down, z forward.

    Attributes:
        position: World position (3,), metres.
        rotation: World to camera (3, 3).
        width: Picture width, pixels.
        height: Picture height, pixels.
        focal: Focal length, pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    width: int
    height: int
    focal: float

    @property
    def samples(self) -> tuple[int, int]:
        """Sample columns and rows."""
        return self.width * SUPER, self.height * SUPER

    @property
    def sample_focal(self) -> float:
        """Focal length in samples."""
        return self.focal * SUPER

    @property
    def sample_centre(self) -> tuple[float, float]:
        """Optical axis in samples: column, row."""
        return (self.width - 1) / 2 * SUPER, (self.height - 1) / 2 * SUPER

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in camera axes."""
        return (points - self.position.astype(points.dtype)) @ self.rotation.T.astype(points.dtype)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World points (..., 3) as pixel column, pixel row and depth in metres."""
        p = self.to_camera(np.asarray(points, np.float64))
        z = p[..., 2]
        return (
            self.focal * p[..., 0] / z + (self.width - 1) / 2,
            self.focal * p[..., 1] / z + (self.height - 1) / 2,
            z,
        )

    def rays(self) -> np.ndarray:
        """World direction per unit of depth of every sample (rows * columns, 3) float32."""
        w, h = self.samples
        cx, cy = self.sample_centre
        x = (np.arange(w, dtype=np.float32) - np.float32(cx)) / np.float32(self.sample_focal)
        y = (np.arange(h, dtype=np.float32) - np.float32(cy)) / np.float32(self.sample_focal)
        rot = self.rotation.astype(np.float32)
        rays = np.empty((h, w, 3), np.float32)
        for axis in range(3):
            rays[..., axis] = (y * rot[1, axis] + rot[2, axis])[:, None] + (x * rot[0, axis])[None, :]
        return rays.reshape(-1, 3)


def make_camera(
    position: np.ndarray, heading: float, pitch: float, roll: float, fov: float, size: tuple[int, int]
) -> Camera:
    """Builds a camera.

    Args:
        position: World position (3,), metres.
        heading: Turn from +z towards +x, radians.
        pitch: Tilt downwards, radians.
        roll: Turn about the optical axis, radians.
        fov: Horizontal field of view, radians.
        size: Width and height, pixels.

    Returns:
        The camera.
    """
    ch, sh, cp, sp = np.cos(heading), np.sin(heading), np.cos(pitch), np.sin(pitch)
    forward = np.array([sh * cp, -sp, ch * cp])
    right = np.array([ch, 0.0, -sh])
    # Right, down and forward are a right-handed set; world axes are left-handed, hence the order of the product.
    down = -np.cross(forward, right)
    cr, sr = np.cos(roll), np.sin(roll)
    rotation = np.stack([cr * right + sr * down, cr * down - sr * right, forward])
    width, height = size
    return Camera(np.asarray(position, np.float64), rotation, width, height, width / 2 / np.tan(fov / 2))
