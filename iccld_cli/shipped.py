"""Files that come with the program: models, and weights of encoders."""

from __future__ import annotations

from pathlib import Path

FOLDERS = (Path(__file__).parent / "assets", Path(__file__).parents[1] / "assets")
"""Where they lie: in an installed package, and beside it in a checkout."""


def shipped_file(name: str) -> Path | None:
    """The file of that name, or None where this installation comes without it."""
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)
