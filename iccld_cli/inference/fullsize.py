"""From a network's logits at a quarter of its size to results at the frame's, without torch and without large floats.

Logits are interpolated bilinearly, as `torch.nn.functional.interpolate` does without aligned corners. Labels need that
at the edges of regions only: between four cells of one class every pixel is of this class, since interpolation weighs
the four with numbers that sum to 1. Everything else is made in strips of rows that stay in the processor's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from iccld_cli.inference.model import Segmentation, Want, entropy_share

STRIP_BYTES = 2**20
"""Float values of a strip, in bytes."""

_CHANNELS = 128
"""Most that are given to OpenCV at once; its own limit is 512."""


@dataclass(frozen=True)
class Logits:
    """A network's output for one view of a frame.

    Attributes:
        values: float32 (K, h, w).
        mirrored: Whether the network saw the frame mirrored.
    """

    values: np.ndarray
    mirrored: bool = False


def segment_frame(
    views: Sequence[Logits], size: tuple[int, int], want: Collection[Want], average: bool = False
) -> Segmentation:
    """Results of one frame.

    Args:
        views: Logits of one or more passes, the plain one first.
        size: (height, width) of the result.
        want: What is wanted besides labels.
        average: See `Sampling`.

    Returns:
        The results, (1, H, W) and (1, K, H, W).
    """
    average = average and len(views) > 1
    if not want and not average and not views[0].mirrored:
        return Segmentation(largest(views[0].values, size)[None])
    others = views[1:] if len(views) > 2 and not average else views if len(views) > 1 else ()
    classes = len(views[0].values)
    labels = np.empty(size, np.uint8)
    maps: dict[str, np.ndarray] = {name: np.empty(size, np.float32) for name in want if name != "probabilities"}
    if "probabilities" in want:
        maps["probabilities"] = np.empty((classes, *size), np.float32)
    rows = max(1, STRIP_BYTES // (4 * classes * size[1]))
    for top in range(0, size[0], rows):
        part = slice(top, min(top + rows, size[0]))
        shown = _probabilities(views if average else views[:1], size, part)  # (K, rows, W)
        labels[part] = shown.argmax(axis=0)
        if "confidence" in maps:
            shown.max(axis=0, out=maps["confidence"][part])
        if "uncertainty" in maps and others:
            of_label = shown if average else _probabilities(others, size, part)
            chosen = np.take_along_axis(of_label, labels[None, part].astype(np.int64), axis=0)[0]
            maps["uncertainty"][part] = np.clip(1 - chosen, 0, 1)
        elif "uncertainty" in maps:
            maps["uncertainty"][part] = entropy_share(shown[None])[0]
        if "probabilities" in maps:
            maps["probabilities"][:, part] = shown
    return Segmentation(labels[None], **{name: values[None] for name, values in maps.items()})


def largest(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of the largest interpolated logit.

    Args:
        logits: float32 (K, h, w).
        size: (height, width) of the result.

    Returns:
        uint8 (height, width).
    """
    classes, height, width = logits.shape
    cells = np.ascontiguousarray(logits.reshape(classes, -1).T)  # (h w, K): the values of a cell lie together
    coarse = cells.argmax(axis=1).astype(np.uint8).reshape(height, width)
    cells = cells.reshape(height, width, classes)
    y_0, y_1, f_y = _taps(height, size[0])
    x_0 = _taps(width, size[1])[0]
    below = np.concatenate([coarse[1:], coarse[-1:]])
    mixed = (coarse != below) | (coarse != _right(coarse)) | (coarse != _right(below))  # (h, w)
    labels = coarse.take(x_0, axis=1).take(y_0, axis=0)
    flat = labels.reshape(-1)
    pixels = np.flatnonzero(mixed.take(x_0, axis=1).take(y_0, axis=0))
    # In strips of cells, as long as a strip's values are small: large arrays are new memory each time, and clearing it
    # takes the system longer than all of this.
    step = max(1, STRIP_BYTES // (4 * classes * size[1]) - 1)
    tops = np.arange(0, height, step)
    ends = np.searchsorted(pixels, np.searchsorted(y_0, np.append(tops[1:], height)) * size[1])
    for top, its in zip(tops.tolist(), np.split(pixels, ends[:-1]), strict=True):
        if not len(its):
            continue
        rows, columns = np.divmod(its, size[1])
        wide = _widened(cells[top : top + step + 1], size[1]).reshape(-1, classes)  # (rows of cells x W, K)
        upper = wide.take((y_0[rows] - top) * size[1] + columns, axis=0)  # (N, K)
        lower = wide.take((y_1[rows] - top) * size[1] + columns, axis=0)
        lower -= upper
        lower *= f_y[rows][:, None]
        upper += lower
        flat[its] = upper.argmax(axis=1)
    return labels


def _probabilities(views: Sequence[Logits], size: tuple[int, int], part: slice) -> np.ndarray:
    """Mean over views of the probabilities (K, rows, W) of some rows."""
    total: np.ndarray | None = None
    for view in views:
        classes, height, width = view.values.shape
        y_0, y_1, f_y = (taps[part] for taps in _taps(height, size[0]))
        rows = view.values.take(y_0, axis=1)  # (K, rows, w)
        rows += (view.values.take(y_1, axis=1) - rows) * f_y[:, None]
        flat = rows.reshape(-1, width)
        found = _widened(flat[..., None], size[1]).reshape(classes, -1, size[1])
        found -= found.max(axis=0)
        np.exp(found, out=found)
        found /= found.sum(axis=0)
        if view.mirrored:
            found = found[..., ::-1]
        total = found if total is None else total + found
    assert total is not None
    return total if len(views) == 1 else total / np.float32(len(views))


@functools.lru_cache(maxsize=32)
def _taps(cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel of an axis the two cells beside it, int64, and the share of the second, float32 in [0, 1)."""
    at = np.maximum((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), cells - 1)
    return first, np.minimum(first + 1, cells - 1), (at - first).astype(np.float32)


def _right(cells: np.ndarray) -> np.ndarray:
    """Of each cell the one to its right; of the last, itself."""
    return np.concatenate([cells[:, 1:], cells[:, -1:]], axis=1)


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    """Values (h, w, K) at the columns of the result: (h, width, K)."""
    # OpenCV's bilinear resizing has the same half-pixel centres; rows stay as they are.
    parts = [
        cv2.resize(values[..., i : i + _CHANNELS], (width, len(values)), interpolation=cv2.INTER_LINEAR)
        for i in range(0, values.shape[2], _CHANNELS)
    ]
    shape = (len(values), width, -1)  # OpenCV drops the axis of a single channel
    return parts[0].reshape(shape) if len(parts) == 1 else np.concatenate([p.reshape(shape) for p in parts], axis=2)
