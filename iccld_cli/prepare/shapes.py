"""Labels that people draw with an annotation tool: polygons, lines and points, the rest of the frame unlabelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from iccld_cli.data.checks import MAX_PIXELS
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.labels import IGNORE, LabelSpace

NO_CLASS = ("ignore", "__ignore__", "_background_")
"""Names of what has no class, besides those of a label map; the latter two are Labelme's own."""

LEAST_POINTS = {
    "polygon": 3, "oriented_rectangle": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1,
    "points": 1, "mask": 1,
}  # fmt: skip
"""Kinds of shapes, as Labelme names them, and how many points each has at least."""

_FAR = 10  # sides of the frame that a point may lie beyond it


@dataclass(frozen=True)
class Shape:
    """One drawn shape.

    Attributes:
        name: Its label.
        kind: A key of `LEAST_POINTS`.
        points: (x, y) in pixels, the corner of the frame at (0, 0); of a circle the centre and a point of its rim, of a
            rectangle two opposite corners, of a mask its upper left corner.
        mask: bool (h, w) of a mask.
    """

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Pens:
    """How wide lines and points are drawn, in pixels of the frame."""

    line: int = 5
    point: int = 5


def class_of(name: str, names: Mapping[str, str | None] | None, space: LabelSpace) -> str | None:
    """The class that a label means.

    Args:
        name: The label.
        names: Label -> class name, None = ignore; None for the names of the classes themselves.
        space: Label space of the class names.

    Returns:
        Its name; None for ignored areas.

    Raises:
        KeyError: Nothing says what the label means.
    """
    if names is not None and name in names:
        return names[name]
    if name in NO_CLASS:
        return None
    if names is None and name in space.names:
        return name
    raise KeyError(name)


def draw(
    shapes: Sequence[Shape],
    size: tuple[int, int],
    names: Mapping[str, str | None] | None,
    space: LabelSpace,
    pens: Pens,
    strict: bool = True,
) -> np.ndarray:
    """Draw shapes in their order, later ones over earlier ones, on an unlabelled frame.

    Args:
        shapes: The shapes.
        size: (width, height) of the frame.
        names: See `class_of`.
        space: Label space of the class names.
        pens: How wide lines and points are.
        strict: Refuse labels that have no meaning, instead of leaving their shapes out.

    Returns:
        uint8 (H, W) of trainIds, 255 = unlabelled.

    Raises:
        IccldError: A label that has no meaning, a point far outside the frame, or a frame too large to draw.
    """
    width, height = size
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise IccldError(f"declares {width}x{height} pixels, which cannot be drawn")
    label = Image.new("L", (width, height), IGNORE)
    for shape in shapes:
        try:
            found = class_of(shape.name, names, space)
        except KeyError:
            if strict:
                known = [*(space.names if names is None else names), *NO_CLASS[:1]]
                meant = did_you_mean(shape.name, known)
                raise IccldError(f"names a class that is not known: {shape.name[:60]!r} ({meant})") from None
            continue
        value = IGNORE if found is None else space.id_of(found)
        for x, y in shape.points:
            if not (abs(x) <= _FAR * width and abs(y) <= _FAR * height):
                raise IccldError(f"has a point of {shape.name[:60]!r} at ({x:g}, {y:g}), far outside the frame")
        if shape.kind == "mask":
            label = _stamp(label, shape, value)
        else:
            _draw(ImageDraw.Draw(label), shape, value, pens)
    return np.asarray(label)


def _draw(pen: ImageDraw.ImageDraw, shape: Shape, value: int, pens: Pens) -> None:
    points = list(shape.points)
    if shape.kind in ("polygon", "oriented_rectangle") or (shape.kind == "rectangle" and len(points) > 2):
        pen.polygon(points, fill=value)
    elif shape.kind == "rectangle":
        (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
        pen.rectangle((left, top, right, bottom), fill=value)
    elif shape.kind == "circle":
        (x, y), rim = points[:2]
        radius = math.dist((x, y), rim)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    elif shape.kind in ("line", "linestrip"):
        pen.line(points, fill=value, width=pens.line, joint="curve")
    else:
        for x, y in points:
            pen.point(_disc(x, y, pens.point / 2), fill=value)


def _disc(x: float, y: float, radius: float) -> list[tuple[int, int]]:
    """The pixel that a point lies in, and those whose centres are near enough."""
    column, row, reach = math.floor(x), math.floor(y), math.ceil(radius)
    around = range(-reach, reach + 1)
    near = [(column + i, row + j) for j in around for i in around]
    return [(c, r) for c, r in near if (c, r) == (column, row) or math.dist((c + 0.5, r + 0.5), (x, y)) <= radius]


def _stamp(label: Image.Image, shape: Shape, value: int) -> Image.Image:
    assert shape.mask is not None
    left, top = (round(side) for side in shape.points[0])
    canvas = np.array(label)
    rows, columns = np.nonzero(shape.mask)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (rows < canvas.shape[0]) & (columns >= 0) & (columns < canvas.shape[1])
    canvas[rows[inside], columns[inside]] = value
    return Image.fromarray(canvas)


def shrink_marks(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label that holds single pixels without losing them.

    Args:
        label: uint8 (H, W).
        size: (width, height) of the result.
    """
    found = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    rows, columns = np.nonzero(label != IGNORE)
    marks = np.full_like(found, IGNORE)
    marks[rows * size[1] // label.shape[0], columns * size[0] // label.shape[1]] = label[rows, columns]
    return np.where(found == IGNORE, marks, found)
