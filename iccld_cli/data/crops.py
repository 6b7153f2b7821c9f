"""Random crops: rescale, cut and flip in one resampling."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iccld_cli.labels import IGNORE


@dataclass(frozen=True)
class CropBox:
    """A box of a frame that becomes a crop.

    Attributes:
        left: First column of the box in the frame, in pixels.
        top: First row.
        width: Width of the box in the frame's pixels; it may reach beyond the frame's border.
        height: Height of the same.
        flip: Whether the result is mirrored.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool


def random_box(frame_size: tuple[int, int], crop: tuple[int, int], scale: float, rng: np.random.Generator) -> CropBox:
    """Draw a box that becomes a crop when rescaled.

    Args:
        frame_size: (width, height) of the frame.
        crop: (width, height) of the crop.
        scale: Crop pixels per frame pixel.
        rng: Random generator.
    """
    width, height = max(round(crop[0] / scale), 1), max(round(crop[1] / scale), 1)
    left = int(rng.integers(0, max(frame_size[0] - width, 0) + 1))
    top = int(rng.integers(0, max(frame_size[1] - height, 0) + 1))
    return CropBox(left, top, width, height, bool(rng.random() < 0.5))


def place_of(box: CropBox, frame_size: tuple[int, int]) -> tuple[float, float]:
    """Where a box lies in its frame: shares of the room to its left and above it, 0.5 where there is none.

    Args:
        box: The box.
        frame_size: (width, height) of the frame.
    """
    rooms = (frame_size[0] - box.width, frame_size[1] - box.height)
    across, down = (first / room if room > 0 else 0.5 for first, room in zip((box.left, box.top), rooms, strict=True))
    return across, down


def box_at(
    frame_size: tuple[int, int], crop: tuple[int, int], scale: float, place: tuple[float, float], flip: bool
) -> CropBox:
    """The box at a place of a frame that becomes a crop when rescaled.

    Args:
        frame_size: (width, height) of the frame.
        crop: (width, height) of the crop.
        scale: Crop pixels per frame pixel.
        place: See `place_of`.
        flip: Whether the result is mirrored.
    """
    width, height = max(round(crop[0] / scale), 1), max(round(crop[1] / scale), 1)
    left = round(max(frame_size[0] - width, 0) * place[0])
    top = round(max(frame_size[1] - height, 0) * place[1])
    return CropBox(left, top, width, height, flip)


def anchored_box(
    frame_size: tuple[int, int], crop: tuple[int, int], scale: float, anchor: tuple[int, int], rng: np.random.Generator
) -> CropBox:
    """Draw a box that holds a pixel and becomes a crop when rescaled; all such boxes inside the frame are as likely.

    Args:
        frame_size: (width, height) of the frame.
        crop: (width, height) of the crop.
        scale: Crop pixels per frame pixel.
        anchor: (column, row) of the pixel.
        rng: Random generator.
    """
    sides, first = [], []
    for place, limit, size in zip(anchor, frame_size, crop, strict=True):
        side = max(round(size / scale), 1)
        least, most = max(place - side + 1, 0), min(place, max(limit - side, 0))
        sides.append(side)
        first.append(int(rng.integers(least, most + 1)))
    return CropBox(first[0], first[1], sides[0], sides[1], bool(rng.random() < 0.5))


def surrounding_box(
    box: CropBox, frame_size: tuple[int, int], crop: tuple[int, int], context: tuple[int, int]
) -> tuple[CropBox, tuple[int, int]]:
    """The surroundings of a crop: a larger box at the same scale, inside the frame where it fits.

    Args:
        box: Box of the crop.
        frame_size: (width, height) of the frame.
        crop: (width, height) of the crop.
        context: (width, height) of what the result becomes, at least the crop's.

    Returns:
        The larger box, and the top and left of the crop in its image, to the nearest pixel.
    """
    first, sides, place = [], [], []
    for start, size, limit, small, large in (
        (box.left, box.width, frame_size[0], crop[0], context[0]),
        (box.top, box.height, frame_size[1], crop[1], context[1]),
    ):
        side = round(size * large / small)
        begin = min(max(start + (size - side) // 2, 0), max(limit - side, 0))
        first.append(begin)
        sides.append(side)
        place.append(min(max(round((start - begin) * small / size), 0), large - small))
    if box.flip:
        place[0] = context[0] - crop[0] - place[0]
    return CropBox(first[0], first[1], sides[0], sides[1], box.flip), (place[1], place[0])


def cut_image(image: np.ndarray, box: CropBox, crop: tuple[int, int]) -> np.ndarray:
    """Cut a box out of an image (H, W, 3) and resize it to `crop` (width, height); borders are replicated."""
    part = _inside(image, box)
    part = _pad(part, box, cv2.BORDER_REPLICATE, 0)
    shrinks = box.width >= crop[0]
    part = cv2.resize(part, crop, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(part[:, ::-1]) if box.flip else part


def cut_label(label: np.ndarray, box: CropBox, crop: tuple[int, int]) -> np.ndarray:
    """Cut a box out of a label (H, W) and resize it to `crop`; what lies beyond the border is ignored."""
    part = _pad(_inside(label, box), box, cv2.BORDER_CONSTANT, IGNORE)
    part = cv2.resize(part, crop, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.ascontiguousarray(part[:, ::-1]) if box.flip else part


def cut_marks(label: np.ndarray, box: CropBox, crop: tuple[int, int]) -> np.ndarray:
    """As `cut_label`, and without losing single labelled pixels where the box shrinks.

    A pixel of the crop whose centre has no label takes one that lies elsewhere in it.
    """
    found = cut_label(label, box, crop)
    if box.width <= crop[0] and box.height <= crop[1]:
        return found
    part = _inside(label, box)
    rows, columns = np.nonzero(part != IGNORE)
    marks = np.full_like(found, IGNORE)
    across = columns * crop[0] // box.width
    marks[rows * crop[1] // box.height, crop[0] - 1 - across if box.flip else across] = part[rows, columns]
    return np.where(found == IGNORE, marks, found)


def _inside(array: np.ndarray, box: CropBox) -> np.ndarray:
    return array[box.top : box.top + box.height, box.left : box.left + box.width]


def _pad(part: np.ndarray, box: CropBox, border: int, value: int) -> np.ndarray:
    down, right = box.height - part.shape[0], box.width - part.shape[1]
    if down <= 0 and right <= 0:
        return part
    return cv2.copyMakeBorder(part, 0, max(down, 0), 0, max(right, 0), border, value=value)
