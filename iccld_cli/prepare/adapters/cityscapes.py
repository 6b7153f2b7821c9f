"""Cityscapes: real dashcam frames of German cities, 2048x1024."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, train_ids
from iccld_cli.prepare.tree import join, locate

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
    255: None,  # the licence plate, -1 in the table
}
"""Label ids of the benchmark (cityscapesScripts, `helpers/labels.py`); GTA5 and KITTI use them too."""

_SPLITS = {"train": "train", "val": "val", "test": "test", "train_extra": "extra"}


class Cityscapes(Adapter):
    """`leftImg8bit/<split>/<city>/*_leftImg8bit.png`, `gtFine/...` or, for the extra frames, `gtCoarse/...`.

    The images alone are enough. The labels of `test` are placeholders without a class and are left out.
    """

    name = "cityscapes"
    help = "Cityscapes; leftImg8bit alone is enough for a target."
    ids = CITYSCAPES_IDS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of train, val, test and extra."""
        base = locate(self.tree, ("leftImg8bit",))
        if base is None:
            raise IccldError(f"no Cityscapes in {self.tree.describe()}", "expected leftImg8bit/ there")
        for folder, split in _SPLITS.items():
            kind = "gtCoarse" if split == "extra" else "gtFine"
            labels = locate(self.tree, (f"{kind}/{folder}",)) if self.labelled and split != "test" else None
            start = join(base, "leftImg8bit", folder)
            for image in self.tree.walk(start):
                if image.endswith("_leftImg8bit.png"):
                    frame = image[len(start) + 1 : -len("_leftImg8bit.png")]
                    label = None
                    if labels is not None:
                        label = self._label(join(labels, kind, folder, f"{frame}_{kind}_label"))
                    yield RawFrame(split, frame, image, label)

    def _label(self, start: str) -> str:
        """Ids as downloaded come before trainIds, which some tool has written later."""
        train_ids = f"{start}TrainIds.png"
        wanted = f"{start}Ids.png"
        return train_ids if not self.tree.stamp(wanted) and self.tree.stamp(train_ids) else wanted

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label; files of trainIds are recognised by their name."""
        assert frame.label is not None
        if frame.label.endswith("labelTrainIds.png"):
            return self.map_with(frame, train_ids(self.label_space))
        return super().read_label(frame)
