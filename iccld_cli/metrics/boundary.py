"""Boundary IoU: how well outlines agree, where the IoU of large classes hardly moves.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (arXiv 2103.16562): the IoU
of the pixels of label and prediction that lie within a distance of their own outline. Here the counts of a class are
pooled over all images, as those of the IoU are.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from iccld_cli.labels import IGNORE

DILATION_RATIO = 0.02
"""Width of the band as a share of the image's diagonal, as in the paper."""


def boundary_band(labels: np.ndarray, distance: int) -> np.ndarray:
    """Pixels within a distance of the outline of their own region, for all classes in one pass.

    A pixel survives the paper's erosion of its class exactly where the square around it holds no other class, that is
    where the smallest and the largest value in it are the same. The edge of the image is an outline too.

    Args:
        labels: uint8 (H, W).
        distance: In pixels, at least 1; along rows, columns and diagonals alike.

    Returns:
        Boolean (H, W).
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    labels = np.ascontiguousarray(labels)
    band = cv2.dilate(labels, square) != cv2.erode(labels, square)
    for edge in (band[:distance], band[-distance:], band[:, :distance], band[:, -distance:]):
        edge[:] = True
    return band


def boundary_counts(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of the bands of one image.

    Pixels that do not count are of no class in label and prediction, so that their rims are outlines of both.

    Args:
        prediction: uint8 (H, W) trainIds in [0, K).
        label: uint8 (H, W) trainIds in [0, K), 255 for pixels that do not count.
        num_classes: K.

    Returns:
        int64 (2, K): pixels in both bands and of the same class, and those in either band of a class; their ratio is
        the boundary IoU.
    """
    distance = max(1, round(DILATION_RATIO * math.hypot(*label.shape)))
    prediction = np.where(label == IGNORE, np.uint8(IGNORE), prediction)
    expected, found = boundary_band(label, distance), boundary_band(prediction, distance)
    both = expected & found & (label == prediction)
    counts = [
        np.bincount(values, minlength=IGNORE + 1)[:num_classes].astype(np.int64)
        for values in (label[both], label[expected], prediction[found])
    ]
    return np.stack([counts[0], counts[1] + counts[2] - counts[0]])
