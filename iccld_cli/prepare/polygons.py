"""Labels that come as polygons (the JSON of the Cityscapes annotation tool)."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from iccld_cli.data.checks import MAX_PIXELS
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE, LabelSpace


def draw(data: bytes, names: Mapping[str, str | None], space: LabelSpace) -> np.ndarray:
    """Draw polygons in their order, later ones over earlier ones, on an ignored background.

    Args:
        data: JSON with `imgWidth`, `imgHeight` and `objects`, each with `label` and `polygon` ([x, y] in pixels).
        names: Name in the file -> class name, None = ignore. A name that ends in "group" also counts as the name
            before it.
        space: Label space of the class names.

    Returns:
        uint8 (H, W) of trainIds.

    Raises:
        IccldError: Damaged, or a name that is not in `names`.
    """
    try:
        raw = json.loads(data)
        width, height = int(raw["imgWidth"]), int(raw["imgHeight"])
        objects = [(o["label"], [(float(x), float(y)) for x, y in o["polygon"]]) for o in raw["objects"] if _kept(o)]
    except (ValueError, KeyError, TypeError) as error:
        raise IccldError(f"is damaged ({type(error).__name__}: {error})") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise IccldError(f"declares {width}x{height} pixels, too large to draw")
    label = Image.new("L", (width, height), IGNORE)
    pen = ImageDraw.Draw(label)
    for name, corners in objects:
        if name not in names:
            name = name.removesuffix("group")
        if name not in names:
            raise IccldError(f"names a class that this data set does not have: {name!r}")
        known = names[name]
        if len(corners) >= 2:
            pen.polygon(corners, fill=IGNORE if known is None else space.id_of(known))
    return np.asarray(label)


def _kept(entry: dict) -> bool:
    return not entry.get("deleted", 0)
