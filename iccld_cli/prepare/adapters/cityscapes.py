"""Cityscapes: real dashcam frames of German cities, 2048x1024."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from iccld_cli.prepare.adapters.base import RawFrame, train_ids
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout

if TYPE_CHECKING:
    import numpy as np

CITYSCAPES_IDS: dict[int, str | None] = {
    **dict.fromkeys(range(34)),
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
    255: None,  # never seen: the licence plate, -1 in the table, is not drawn into the label files
}
"""Label ids of the benchmark (cityscapesScripts, `helpers/labels.py`); GTA5 and KITTI use them too."""

_NAME = r"(?P<name>[^/]+/[^/]+_\d{6}_\d{6})"


class Cityscapes(OfficialSet):
    """`leftImg8bit/<split>/<city>/*_leftImg8bit.png`, `gtFine/...` or, for the extra frames, `gtCoarse/...`.

    The images alone are enough. The labels of `test` are placeholders without a class and are left out.
    """

    name = "cityscapes"
    help = "Cityscapes; leftImg8bit alone is enough for a target."
    ids = CITYSCAPES_IDS
    # Ids as downloaded come before trainIds, which some tool has written later.
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            rf"leftImg8bit/(?P<split>train|val|test)/{_NAME}_leftImg8bit\.png",
            (
                rf"gtFine/(?P<split>train|val)/{_NAME}_gtFine_labelIds\.png",
                rf"gtFine/(?P<split>train|val)/{_NAME}_gtFine_labelTrainIds\.png",
            ),
            "gtFine/{split}/{name}_gtFine_labelIds.png",
            r"leftImg8bit/(?:train|val|test)/",
        ),
        Layout(
            rf"leftImg8bit/(?P<split>train_extra)/{_NAME}_leftImg8bit\.png",
            (
                rf"gtCoarse/(?P<split>train_extra)/{_NAME}_gtCoarse_labelIds\.png",
                rf"gtCoarse/(?P<split>train_extra)/{_NAME}_gtCoarse_labelTrainIds\.png",
            ),
            "gtCoarse/{split}/{name}_gtCoarse_labelIds.png",
            r"leftImg8bit/train_extra/",
        ),
    )
    expected = "leftImg8bit/"
    label_archive = "gtFine_trainvaltest.zip (gtCoarse.zip for the extra frames)"
    # Counts and the black frame: m-birke/automotive-segmentation-datasets, cityscapes.md.
    official: Mapping[str, Part] = {
        "train": Part(2975, "leftImg8bit_trainvaltest.zip"),
        "val": Part(500, "leftImg8bit_trainvaltest.zip"),
        "test": Part(1525, "leftImg8bit_trainvaltest.zip"),
        "extra": Part(19998, "leftImg8bit_trainextra.zip", optional=True),
    }
    known_bad: Mapping[str, str] = {"troisdorf/troisdorf_000000_000073": "is black"}
    label_splits: ClassVar[tuple[str, ...]] = ("train", "val", "extra")

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name; the extra training frames are a split of their own."""
        return "extra" if groups["split"] == "train_extra" else groups["split"], groups["name"]

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label; files of trainIds are recognised by their name."""
        assert frame.label is not None
        if frame.label.endswith("labelTrainIds.png"):
            return self.map_with(frame, train_ids(self.label_space))
        return super().read_label(frame)
