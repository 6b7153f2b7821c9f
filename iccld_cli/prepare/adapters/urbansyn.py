"""UrbanSyn: rendered frames, 2048x1024."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import train_ids
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout


class UrbanSyn(OfficialSet):
    """`rgb/rgb_NNNN.png` and `ss/ss_NNNN.png`: 8-bit trainIds, 19 = unlabelled."""

    name = "urbansyn"
    help = "UrbanSyn."
    ids = train_ids(CITYSCAPES) | {19: None}
    layouts = (
        Layout(r"rgb/rgb_(?P<name>\d{4})\.png", (r"ss/ss_(?P<name>\d{4})\.png",), "ss/ss_{name}.png", r"rgb/[^/]+$"),
    )
    expected = "rgb/ and ss/"
    label_splits: ClassVar[tuple[str, ...]] = ("train",)
    needs_labels = True
    label_archive = "the folder ss/"
    # zaitsev136/computer-vision, data_modules/urbansyn.py, and the set's page.
    official: Mapping[str, Part] = {"train": Part(7539)}

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """All are training frames, named as their images are."""
        return "train", f"rgb_{groups['name']}"
