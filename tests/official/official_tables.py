"""Tables that several official sets share, written down from their sources."""

from __future__ import annotations

# mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py: columns id and trainId. The licence plate has
# the id -1, which preparation/json2labelImg.py does not draw ("If the ID is negative that polygon should not be
# drawn"), so the label images hold 0..33. KITTI (devkit_semantics), ACDC and Dark Zurich use the same ids.
CITYSCAPES_IDS = range(34)
CITYSCAPES = {
    7: 0,  # road
    8: 1,  # sidewalk
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    17: 5,  # pole
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}

# The same file, column color; with these colours GTA5's palette is written (m-birke/automotive-segmentation-datasets,
# playing_for_data.md, column RGB; there `static` is 20, 20, 20).
COLOURS = {
    0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 0, 0), 3: (0, 0, 0), 4: (20, 20, 20), 5: (111, 74, 0), 6: (81, 0, 81),
    7: (128, 64, 128), 8: (244, 35, 232), 9: (250, 170, 160), 10: (230, 150, 140), 11: (70, 70, 70),
    12: (102, 102, 156), 13: (190, 153, 153), 14: (180, 165, 180), 15: (150, 100, 100), 16: (150, 120, 90),
    17: (153, 153, 153), 18: (153, 153, 153), 19: (250, 170, 30), 20: (220, 220, 0), 21: (107, 142, 35),
    22: (152, 251, 152), 23: (70, 130, 180), 24: (220, 20, 60), 25: (255, 0, 0), 26: (0, 0, 142), 27: (0, 0, 70),
    28: (0, 60, 100), 29: (0, 0, 90), 30: (0, 0, 110), 31: (0, 80, 100), 32: (0, 0, 230), 33: (119, 11, 32),
    34: (0, 0, 142),
}  # fmt: skip

# Files that hold trainIds already: 0..18 and 255 (bdd100k/bdd100k, bdd100k/label/label.py and doc/source/format.rst;
# createTrainIdLabelImgs of cityscapesScripts).
TRAIN_IDS = {number: number for number in range(19)}
