"""Regions of a camera's picture that are not the scene: its bonnet, a time stamp, black bars.

They are given as a picture, or found as what does not move while everything else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.data.labelfiles import decode_channels
from iccld_cli.errors import IccldError
from iccld_cli.reading import ReadError, read_bytes

LEAST_FRAMES = 8
"""Frames without which nothing is said about what moves."""

SAMPLED = 48
"""Frames, evenly spread over a clip, that are looked at."""

_WIDTH = 480  # pixels at which frames are compared
_STILL = 6.0  # grey levels of standard deviation over time below which a place does not change
_EDGE = 6.0  # grey levels a pixel: gradient that counts as an edge
_LASTING = 0.7  # share of frames in which an edge that stands still is there
_ENCLOSED = 0.75  # share of a region's border that lasting edges must make
_LEAST_SHARE = 2e-5  # of the picture: smaller regions are specks
_MOST_SHARE = 0.7  # of the picture that may not change: beyond it the camera itself stood still


def read_region(path: Path) -> np.ndarray:
    """Read a picture of a region.

    Args:
        path: 8-bit, grey or in colours; what is brighter than 127 of 255 is left out of account.

    Returns:
        bool (H, W), True in the region.

    Raises:
        IccldError: It cannot be read, or it covers nothing or everything.
    """
    try:
        channels = decode_channels(read_bytes(path))
    except ReadError as error:
        raise IccldError(
            f"{path} {error.message}", "give a picture that is white where pixels shall be ignored"
        ) from None
    except IccldError as error:
        raise IccldError(f"{path} {error.message}", error.hint) from None
    region: np.ndarray = channels[..., :3].max(axis=2) > 127
    if region.all() or not region.any():
        what = "everything" if region.all() else "nothing"
        raise IccldError(f"{path} leaves {what} out", "make it white where pixels shall be ignored, black elsewhere")
    return region


def fitted_region(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A region at the size of a frame.

    Args:
        region: bool (h, w).
        size: (height, width) of the frame.

    Returns:
        bool (height, width).

    Raises:
        IccldError: The frame has another shape: another camera took it.
    """
    if region.shape == size:
        return region
    (height, width), (rows, columns) = region.shape, size
    if abs(width / height / (columns / rows) - 1) > 0.03:
        raise IccldError(
            f"the region to ignore is {width}x{height}, which is not the shape of a frame of {columns}x{rows}",
            "give one for this camera",
        )
    return cv2.resize(region.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST) > 0


def find_region(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Find what does not move.

    A region is taken when it hardly changes over time and is enclosed by edges that stand still. A clear sky and an
    even road change as little, but their borders move.

    Args:
        frames: uint8 (H, W, 3) of equal size, spread over a drive.

    Returns:
        bool (H, W), True where nothing moves; all False where everything does.

    Raises:
        IccldError: There are too few frames, or hardly anything moves.
    """
    if len(frames) < LEAST_FRAMES:
        raise IccldError(
            f"{len(frames)} frames are too few to see what does not move", f"give {LEAST_FRAMES} or more, or a picture"
        )
    height, width = frames[0].shape[:2]
    scale = min(1.0, _WIDTH / width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    total = squares = edges = np.zeros(size[::-1], np.float64)
    for frame in frames:
        grey = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(
            np.float32
        )
        total, squares = total + grey, squares + np.square(grey, dtype=np.float64)
        edges = edges + (_gradient(grey) > _EDGE)
    mean = total / len(frames)
    still = np.sqrt(np.maximum(squares / len(frames) - np.square(mean), 0)) < _STILL
    if still.mean() > _MOST_SHARE:
        raise IccldError("hardly anything moves in these frames", "give frames of a drive, or a picture of the region")
    lasting = (edges >= _LASTING * len(frames)) & (_gradient(mean.astype(np.float32)) > _EDGE / 2)
    found = _enclosed(still & ~lasting, lasting)
    found |= _small_marks(still & lasting)
    # Edges between regions belong to them, and so do a few pixels around: video codecs smear.
    found = cv2.morphologyEx(np.pad(found, 8).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))[8:-8, 8:-8]
    found = cv2.dilate(found, np.ones((5, 5), np.uint8))
    return cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _enclosed(quiet: np.ndarray, lasting: np.ndarray) -> np.ndarray:
    """The connected parts of `quiet` whose border, except where it is the picture's, is of lasting edges."""
    found = np.zeros(quiet.shape, bool)
    near = cv2.dilate(lasting.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    count, parts, facts, _ = cv2.connectedComponentsWithStats(quiet.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        left, top, width, height, area = facts[number]
        if area < _LEAST_SHARE * quiet.size:
            continue
        box = slice(max(top - 2, 0), top + height + 2), slice(max(left - 2, 0), left + width + 2)
        part = parts[box] == number
        ring = (cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~part
        if ring.any() and near[box][ring].mean() >= _ENCLOSED:
            found[box] |= part
    return found


def _small_marks(strokes: np.ndarray) -> np.ndarray:
    """Letters: strokes that stand still and are all edge, at least three beside one another."""
    grown = cv2.dilate(strokes.astype(np.uint8), np.ones((3, 9), np.uint8))
    found = np.zeros(strokes.shape, bool)
    count, parts, facts, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    for number in range(1, count):
        left, top, width, height, area = facts[number]
        box = slice(top, top + height), slice(left, left + width)
        inside = strokes[box] & (parts[box] == number)
        pieces = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)[0] - 1
        if pieces >= 3 and inside.sum() > 0.15 * area and height < 0.15 * strokes.shape[0]:
            found[box] |= parts[box] == number
    return found


def _gradient(grey: np.ndarray) -> np.ndarray:
    """Grey levels a pixel."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3, scale=0.125) for order in ((1, 0), (0, 1)))
    return cv2.magnitude(across, down)
