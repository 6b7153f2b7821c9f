"""Option types that several commands share."""

from __future__ import annotations

import re

import typer


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
