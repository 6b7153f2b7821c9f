"""The model file that comes with the package, if there is one."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"


def default_checkpoint() -> Path | None:
    """The model file used where none is named; None when the package holds none."""
    return next(iter(sorted(ASSETS.glob("*.safetensors"))), None)
