"""The JSON of Labelme (wkentaro/labelme, versions 3 to 6), one file beside each image.

    {"version": "5.5.0", "flags": {}, "imagePath": "a.jpg", "imageData": null, "imageHeight": 360, "imageWidth": 480,
     "shapes": [{"label": "road", "shape_type": "point", "points": [[x, y]], "group_id": null, "description": "",
                 "flags": {}, "mask": null}, ...]}

Read as the tool itself reads them (labelme/_label_file.py, utils/shape.py): `shape_type` may be missing and is then a
polygon, a mask is a base64 PNG whose upper left corner is the first point, files before version 4 have no size.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from iccld_cli.data.labelfiles import decode_channels
from iccld_cli.errors import IccldError
from iccld_cli.prepare.shapes import LEAST_POINTS, Shape
from iccld_cli.reading import parse_json


def read_labelme(data: bytes) -> tuple[list[Shape], tuple[int, int] | None]:
    """Read a file.

    Returns:
        Its shapes in their order, and (width, height) of the image where the file says it.

    Raises:
        IccldError: It is damaged, or no file of Labelme.
    """
    raw = parse_json(data)
    if not isinstance(raw, dict) or not isinstance(raw.get("shapes"), list):
        if isinstance(raw, dict) and "annotations" in raw and "images" in raw:
            raise IccldError("is a file of COCO for many images; give it itself as --masks")
        raise IccldError("has no list `shapes`, so it is no file of Labelme")
    width, height = raw.get("imageWidth"), raw.get("imageHeight")
    size = None
    if width is not None and height is not None:
        if not all(isinstance(side, int) and not isinstance(side, bool) for side in (width, height)):
            raise IccldError("has an image size that is no number of pixels")
        size = width, height
    return [_shape(number, entry) for number, entry in enumerate(raw["shapes"], 1)], size


def _shape(number: int, raw: Any) -> Shape:
    where = f"has a shape (the {number}. in the file)"
    if not isinstance(raw, dict) or not isinstance(raw.get("label"), str):
        raise IccldError(f"{where} without a label")
    kind, mask = raw.get("shape_type") or "polygon", None
    if not isinstance(kind, str) or kind not in LEAST_POINTS:
        raise IccldError(f"{where} of type {str(kind)[:40]!r}; known are {', '.join(LEAST_POINTS)}")
    points = raw.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise IccldError(f"{where} whose points are no pairs [x, y]")
    if len(points) < LEAST_POINTS[kind]:
        raise IccldError(f"{where} of type {kind} with {len(points)} points; it needs {LEAST_POINTS[kind]}")
    if kind == "mask":
        try:
            mask = decode_channels(base64.b64decode(raw["mask"], validate=True))[..., 0] > 0
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise IccldError(f"{where} whose mask is no base64 text") from None
        except IccldError as error:
            raise IccldError(f"{where} whose mask {error.message}") from None
    return Shape(raw["label"], kind, tuple((float(x), float(y)) for x, y in points), mask)


def _is_point(raw: Any) -> bool:
    return (
        isinstance(raw, list)
        and len(raw) == 2
        and all(isinstance(side, int | float) and not isinstance(side, bool) and abs(side) < 1e9 for side in raw)
    )
