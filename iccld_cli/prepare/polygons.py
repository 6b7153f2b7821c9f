"""Labels that come as polygons (the JSON of the Cityscapes annotation tool)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from iccld_cli.data.checks import MAX_PIXELS
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.reading import ReadError, parse_json


def draw(
    data: bytes, names: Mapping[str, str | None], space: LabelSpace, unknown: list[str] | None = None
) -> np.ndarray:
    """Draw polygons in their order, later ones over earlier ones, on an ignored background.

    Args:
        data: JSON with `imgWidth`, `imgHeight` and `objects`, each with `label` and `polygon` ([x, y] in pixels).
        names: Name in the file -> class name, None = ignore. A name that ends in "group" also counts as the name
            before it.
        space: Label space of the class names.
        unknown: Takes up the names that are not in `names`, whose polygons are then passed over, so that what lies
            below them stays (AutoNUE/public-code, preperation/json2labelImg.py); None refuses them.

    Returns:
        uint8 (H, W) of trainIds.

    Raises:
        IccldError: Damaged; a name that is not in `names`; or, with `unknown`, no name that is.
    """
    try:
        raw = parse_json(data)
        width, height = int(raw["imgWidth"]), int(raw["imgHeight"])
        objects = [(o["label"], [(float(x), float(y)) for x, y in o["polygon"]]) for o in raw["objects"] if _kept(o)]
    except ReadError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise IccldError(f"is damaged ({type(error).__name__}: {error})") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise IccldError(f"declares {width}x{height} pixels, too large to draw")
    label = Image.new("L", (width, height), IGNORE)
    pen = ImageDraw.Draw(label)
    for name, corners in objects:
        if name not in names:
            name = name.removesuffix("group")
        if name not in names:
            if unknown is None:
                raise IccldError(f"names a class that this data set does not have: {name!r}")
            unknown.append(name)
            continue
        known = names[name]
        if len(corners) >= 3:  # the official tool skips fewer
            pen.polygon(corners, fill=IGNORE if known is None else space.id_of(known))
    if unknown and len(unknown) == len(objects):
        raise IccldError(f"names no class of this data set: {', '.join(map(repr, sorted(set(unknown))[:5]))}")
    return np.asarray(label)


def names_in(data: bytes) -> list[str]:
    """Names of the polygons that are not deleted, in their order.

    Raises:
        IccldError: Damaged.
    """
    try:
        return [str(entry["label"]) for entry in parse_json(data)["objects"] if _kept(entry)]
    except ReadError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise IccldError(f"is damaged ({type(error).__name__}: {error})") from None


def _kept(entry: dict) -> bool:
    return not entry.get("deleted", 0)
