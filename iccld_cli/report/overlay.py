"""Predictions drawn for people: class colours over the image, thin outlines, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.names import shown

DEFAULT_ALPHA = 0.5
SMALLEST_LEGEND = 120
"""Frames with a side below this many pixels get no legend: it would hide the picture."""

_LONGEST_NAME = 40


def colorize(labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Paint trainIds in their colours.

    Args:
        labels: uint8 (H, W) trainIds; 255 becomes black.
        space: Names and colours.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    if not labels.size:
        return np.zeros((*labels.shape, 3), np.uint8)
    return cv2.applyColorMap(np.ascontiguousarray(labels), _palette(space)[:, None])


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    space: LabelSpace,
    *,
    alpha: float = DEFAULT_ALPHA,
    legend: Sequence[int] | None = None,
) -> np.ndarray:
    """Blend an image with the colours of its labels and outline the regions.

    Args:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W) trainIds; 255 leaves the image as it is.
        space: Names and colours.
        alpha: Opacity of the colours in [0, 1].
        legend: TrainIds to name in a legend at the foot of the picture; None for no legend.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    out = cv2.addWeighted(image, 1 - alpha, colorize(labels, space), alpha, 0)
    unlabelled = labels == IGNORE
    if unlabelled.any():
        out[unlabelled] = image[unlabelled]
    _draw_outlines(out, labels, space, alpha)
    if legend:
        paste_legend(out, space, legend)
    return out


def paste_legend(image: np.ndarray, space: LabelSpace, classes: Sequence[int]) -> None:
    """Draw a legend onto the foot of an image, in place; images too small for one are left as they are."""
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_LEGEND:
        return
    strip, opacity = _legend(width, height, space, tuple(classes))
    rows = strip.shape[0]
    if rows > height // 3:
        return
    region = image[height - rows :]
    region[:] = (region * (1 - opacity) + strip * opacity).astype(np.uint8)


def _draw_outlines(image: np.ndarray, labels: np.ndarray, space: LabelSpace, alpha: float) -> None:
    """Lighten, in place, the pixels where the label changes to the right or below.

    The outline is a lighter shade of the class, not white: on poles and signs it is most of what is seen.
    """
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    width = max(1, round(labels.shape[0] / 720))  # as thin on a 4K frame as on a small one
    if width > 1:
        edge = cv2.dilate(edge, np.ones((width, width), np.uint8))
    where = edge.astype(bool)
    strength = min(0.8, 1.5 * alpha)
    light = 0.55 * _palette(space)[labels[where]] + 0.45 * 255
    image[where] = (image[where] * (1 - strength) + light * strength).astype(np.uint8)


@lru_cache(maxsize=4)
def _palette(space: LabelSpace) -> np.ndarray:
    """uint8 (256, 3): a colour for every value that a label may hold."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(space)] = space.colors
    return palette


@lru_cache(maxsize=8)
def _legend(width: int, height: int, space: LabelSpace, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The legend's strip float32 (h, width, 3) and its opacity float32 (h, width, 1) in [0, 1]."""
    size = int(np.clip(round(min(height, width * 0.6) / 31), 10, 40))
    font = ImageFont.load_default(size)
    gap, chip, margin = round(size * 0.45), round(size * 0.95), round(size * 0.7)
    names = {train_id: shown(space.names[train_id])[:_LONGEST_NAME] for train_id in classes}
    rows: list[list[tuple[int, int]]] = [[]]  # rows of (trainId, width of its entry)
    used = 0
    for train_id in classes:
        entry = chip + gap + round(font.getlength(names[train_id])) + 2 * gap
        if rows[-1] and used + entry > width - 2 * margin:
            rows.append([])
            used = 0
        rows[-1].append((train_id, entry))
        used += entry
    line = round(size * 1.6)
    strip = Image.new("RGB", (width, line * len(rows) + margin), (16, 18, 22))
    mask = Image.new("L", strip.size, 165)
    draw, draw_mask = ImageDraw.Draw(strip), ImageDraw.Draw(mask)
    for i, row in enumerate(rows):
        x = (width - sum(entry for _, entry in row)) // 2 + gap
        middle = margin // 2 + line * i + line // 2
        for train_id, entry in row:
            box = (x, middle - chip // 2, x + chip, middle - chip // 2 + chip)
            radius = max(2, chip // 5)
            # A light rim keeps dark classes (car, truck) apart from the dark strip.
            draw.rounded_rectangle(box, radius, space.colors[train_id], outline=(235, 235, 235))
            draw_mask.rounded_rectangle(box, radius, 255)
            at = (x + chip + gap, middle)
            draw.text(at, names[train_id], (255, 255, 255), font, anchor="lm")
            draw_mask.text(at, names[train_id], 255, font, anchor="lm")
            x += entry
    return np.asarray(strip, np.float32), np.asarray(mask, np.float32)[..., None] / 255
