"""SYNTHIA-RAND-CITYSCAPES: rendered frames, 1280x760, labels of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.prepare.adapters.base import Adapter, Choice, RawFrame
from iccld_cli.prepare.tree import Tree, join, locate, stem, suffix

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
"""Classes of the README that comes with SYNTHIA-RAND-CITYSCAPES."""

_NEVER_SEEN = ("terrain", "truck", "train")
_NOT_IN_13 = ("wall", "fence", "pole")


class Synthia(Adapter):
    """`RGB/*.png` and `GT/LABELS/*.png`, 16-bit RGB: class in the red channel, instance in the green one."""

    name = "synthia"
    help = "SYNTHIA-RAND-CITYSCAPES."
    choices: ClassVar[Mapping[str, Choice]] = {
        "classes": Choice("16", ("16", "13"), "13 leaves out wall, fence and pole")
    }
    ids = SYNTHIA_IDS

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Bind the adapter to its files, see `Adapter`."""
        super().__init__(tree, options, labelled)
        if self.options["classes"] == "13":
            self.ids = {raw: None if name in _NOT_IN_13 else name for raw, name in SYNTHIA_IDS.items()}

    def scan(self) -> Iterator[RawFrame]:
        """List the frames; all of them are training frames."""
        base = locate(self.tree, ("RGB", "GT/LABELS") if self.labelled else ("RGB",))
        if base is None:
            raise IccldError(f"no SYNTHIA in {self.tree.describe()}", "expected RGB/ and GT/LABELS/ there")
        for image in self.tree.walk(join(base, "RGB")):
            if suffix(image) in IMAGE_SUFFIXES:
                name = stem(image)
                label = join(base, "GT/LABELS", f"{name}.png") if self.labelled else None
                yield RawFrame("train", name, image, label)

    def classes_known(self) -> tuple[str, ...] | None:
        """The 16 (or 13) classes that occur; the table names three more that never do."""
        known = super().classes_known()
        return known and tuple(name for name in known if name not in _NEVER_SEEN)
