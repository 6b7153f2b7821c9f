"""The model file that comes with the package, if there is one."""

from __future__ import annotations

from pathlib import Path

ASSETS = (Path(__file__).parents[1] / "assets", Path(__file__).parents[2] / "assets")
"""In an installed package, and beside the package in a checkout."""


def default_checkpoint() -> Path | None:
    """The model file used where none is named; None when the package holds none."""
    return next((path for folder in ASSETS for path in sorted(folder.glob("iccld-*.safetensors"))), None)
