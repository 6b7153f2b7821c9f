"""SYNTHIA-RAND-CITYSCAPES: rendered frames, 1280x760, labels of 16 bits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from iccld_cli.prepare.adapters.base import Choice, RawFrame
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout
from iccld_cli.prepare.tree import Tree

if TYPE_CHECKING:
    import numpy as np

SYNTHIA_IDS: dict[int, str | None] = {
    0: None,
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    13: None,  # parking slot
    14: None,  # road work
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
    22: None,  # lane marking
}
"""Classes of the README that comes with SYNTHIA-RAND-CITYSCAPES. Lane markings lie on the road and are ignored, as in
every public loader."""

_NEVER_SEEN = ("terrain", "truck", "train")
_NOT_IN_13 = ("wall", "fence", "pole")

_RELATIVES = (
    (r"(?:RGB|GT/LABELS|GT/COLOR)/Stereo_", "these are the video sequences SYNTHIA-SEQS, which have other ids"),
    (r"(?:^|/)ap_\d+_[^/]*Rand_", "this is SYNTHIA-RAND (CVPR16), which has 13 classes as colours"),
    (r"(?:^|/)(?:RGBLeft|GTLeft)/", "this is SYNTHIA-SF, which has other ids"),
    (r"(?:^|/)GT/COLOR/", "GT/COLOR/ holds colours, GT/LABELS/ is needed"),
)
_LOOKED_AT = 200_000


class Synthia(OfficialSet):
    """`RGB/*.png` and `GT/LABELS/*.png`, 16-bit RGB: class in the red channel, instance in the green one."""

    name = "synthia"
    help = "SYNTHIA-RAND-CITYSCAPES."
    choices: ClassVar[Mapping[str, Choice]] = {
        "classes": Choice("16", ("16", "13"), "13 leaves out wall, fence and pole")
    }
    ids = SYNTHIA_IDS
    label_channel = 0
    layouts = (
        Layout(
            r"RGB/(?P<name>\d{7})\.png",
            (r"GT/LABELS/(?P<name>\d{7})\.png",),
            "GT/LABELS/{name}.png",
            r"RGB/[^/]+$",
        ),
    )
    expected = "RGB/ and GT/LABELS/"
    label_splits: ClassVar[tuple[str, ...]] = ("train",)
    needs_labels = True
    # The number is that of the paper and of the set's page; names run from 0000000 to 0009399.
    official: Mapping[str, Part] = {"train": Part(9400, "SYNTHIA_RAND_CITYSCAPES.rar")}

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Bind the adapter to its files, see `Adapter`."""
        super().__init__(tree, options, labelled)
        if self.options["classes"] == "13":
            self.ids = {raw: None if name in _NOT_IN_13 else name for raw, name in SYNTHIA_IDS.items()}

    def diagnosis(self) -> str:
        """Which other part of SYNTHIA this is."""
        paths = list(itertools.islice(self.tree.walk(), _LOOKED_AT))
        for pattern, meaning in _RELATIVES:
            if any(re.search(pattern, path) for path in paths):
                return f"{meaning}; take SYNTHIA-RAND-CITYSCAPES"
        return ""

    def raw_ids(self, frame: RawFrame) -> np.ndarray:
        """The ids; files of 8 bits in several channels show colours."""
        from iccld_cli.data.labelfiles import decode_channels, refuse_colors

        assert frame.label is not None
        raw = decode_channels(self.tree.read(frame.label))
        if raw.dtype.itemsize == 1:
            refuse_colors(raw)
        return raw[..., 0]

    def classes_known(self) -> tuple[str, ...] | None:
        """The 16 (or 13) classes that occur; the table names three more that never do."""
        known = super().classes_known()
        return known and tuple(name for name in known if name not in _NEVER_SEEN)
