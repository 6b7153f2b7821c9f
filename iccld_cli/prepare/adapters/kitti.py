"""KITTI semantics: 200 labelled and 200 unlabelled real frames, about 1242x375."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from iccld_cli.prepare.adapters.cityscapes import CITYSCAPES_IDS
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout


class Kitti(OfficialSet):
    """`training/image_2/*_10.png` and `training/semantic/*_10.png` (Cityscapes ids), `testing/image_2/*_10.png`.

    The stereo set has the same frames and a second one of each (`*_11.png`), which has no label and is left out.
    """

    name = "kitti"
    help = "KITTI semantics."
    ids = CITYSCAPES_IDS
    layouts = (
        Layout(
            r"(?P<split>training|testing)/image_2/(?P<name>\d{6}_10)\.png",
            (r"(?P<split>training)/semantic/(?P<name>\d{6}_10)\.png",),
            "training/semantic/{name}.png",
            r"(?:training|testing)/image_2/",
        ),
    )
    expected = "training/image_2/*_10.png"
    label_splits: ClassVar[tuple[str, ...]] = ("train",)
    label_archive = "data_semantics.zip"
    # mseg-dataset/mseg-api, mseg/dataset_lists/kitti-34, and the benchmark's page.
    official: Mapping[str, Part] = {"train": Part(200, "data_semantics.zip"), "test": Part(200, "data_semantics.zip")}

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name."""
        return "train" if groups["split"] == "training" else "test", groups["name"]
