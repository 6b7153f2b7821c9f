"""How far a score would move with other images of the same kind: percentile bootstrap over images.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Images are drawn with replacement,
their counts are pooled, and the pooled scores are computed anew. Frames of one drive resemble each other, so where a
set has few drives the true uncertainty is larger than these intervals.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
_PIECE = 250


def resampled_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of the classes in every resample; equal numbers of images are resampled alike, so differences are paired.

    Args:
        counts: int64 (N, 3, S) of N images and S classes: pixels that are right, labelled and predicted.

    Returns:
        float64 (RESAMPLES, S), NaN for a class that a resample does not show.
    """
    images = len(counts)
    rng = np.random.default_rng(SEED)
    flat = counts.reshape(images, -1).astype(np.float64)
    found = []
    for start in range(0, RESAMPLES, _PIECE):  # so many at a time that their weights stay small in memory
        drawn = rng.multinomial(images, np.full(images, 1 / images), min(_PIECE, RESAMPLES - start))
        right, labelled, predicted = np.moveaxis((drawn @ flat).reshape(len(drawn), *counts.shape[1:]), 1, 0)
        union = labelled + predicted - right
        found.append(np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0))
    return np.concatenate(found)


def mean_of_classes(iou: np.ndarray) -> np.ndarray:
    """Mean over the classes that are there.

    Args:
        iou: float64 (..., S), NaN for classes that are absent.

    Returns:
        float64 (...); NaN where none is there.
    """
    there = ~np.isnan(iou)
    number = there.sum(axis=-1)
    total = np.where(there, iou, 0).sum(axis=-1)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The central interval that holds `LEVEL` of the values.

    Args:
        values: float64 (R,), NaNs are left out.

    Returns:
        (low, high), or None where nothing is left.
    """
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
