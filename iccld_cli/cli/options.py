"""Option types that several commands share."""

from __future__ import annotations

import math
import re
from typing import Annotated

import typer

Scales = Annotated[
    str, typer.Option(metavar="S,S", help="Sizes the network sees, as factors such as 1,1.5; the results are averaged.")
]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the result of the mirrored image.")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read `WxH`, such as `512x256`.

    Returns:
        (width, height) in pixels, or None for None.

    Raises:
        typer.BadParameter: The text is not of that form.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if not found or not all(int(n) > 0 for n in found.groups()):
        raise typer.BadParameter(f"{text!r} is not a size; write width x height, such as 512x256")
    return int(found[1]), int(found[2])


def parse_scales(text: str) -> tuple[float, ...]:
    """Read factors separated by commas, such as `1,1.5`.

    Raises:
        typer.BadParameter: One is no number between 0.1 and 8.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = (math.nan,)
    if not all(0.1 <= scale <= 8 for scale in scales):
        raise typer.BadParameter(f"{text!r}: write factors between 0.1 and 8 with commas, such as 1,1.5")
    return scales
