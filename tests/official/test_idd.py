"""IDD (India Driving Dataset) parts I and II, whose labels are polygons."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
from official_files import ANYTHING, IGNORED, photo
from official_sets import LAYOUTS, Archive, Official, Truth, check, check_refused, lay_out, packed, prepare

# AutoNUE/public-code helpers/anue_labels.py, columns name and csTrainId, in the order of column id (0..39).
NAMES = {
    "road": 0, "parking": 255, "drivable fallback": 255, "sidewalk": 1, "rail track": 255, "non-drivable fallback": 9,
    "person": 11, "animal": 255, "rider": 12, "motorcycle": 17, "bicycle": 18, "autorickshaw": 255, "car": 13,
    "truck": 14, "bus": 15, "caravan": 255, "trailer": 255, "train": 16, "vehicle fallback": 255, "curb": 255,
    "wall": 3, "fence": 4, "guard rail": 255, "billboard": 255, "traffic sign": 7, "traffic light": 6, "pole": 5,
    "polegroup": 255, "obs-str-bar-fallback": 255, "building": 2, "bridge": 255, "tunnel": 255, "vegetation": 8,
    "sky": 10, "fallback background": 255, "unlabeled": 255, "ego vehicle": 255, "rectification border": 255,
    "out of roi": 255, "license plate": 255,
}  # fmt: skip

# The 41st name of the real files: 3 objects in 3 of 16,063 images (dataset-ninja/idd, stats/class_balance.json, and
# public scans of both parts). No table of the official code names it, so it has no class: what lies below it stays.
UNKNOWN = "ground"

CELL, COLUMNS = 8, 8
SIZE = (64, 64)
"""(height, width); cell n holds name n, one row is left without any polygon."""


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """A rectangle, with the corners' coordinates as floats."""
    return [[float(left), float(top)], [float(right), float(top)], [float(right), float(bottom)], [left, bottom]]


def polygon(label: str, corners: list[list[float]], deleted: int = 0) -> dict[str, Any]:
    """An object as the annotation tool writes it."""
    return {"date": "01-Jan-2018 00:00:00", "deleted": deleted, "draw": True, "id": 0, "label": label,
            "polygon": corners, "user": "idd", "verified": 0}  # fmt: skip


def annotated(names: list[str]) -> tuple[bytes, Truth]:
    """Polygons of all names over a sky that covers all but the lowest rows.

    Names come in twice the number of cells at most; groups ("cargroup") count as their members, deleted objects do not
    count.
    """
    height, width = SIZE
    ids = np.full(SIZE, ANYTHING, np.int32)
    truth = np.full(SIZE, ANYTHING, np.int32)
    objects = [polygon("sky", box(0, 0, width - 1, 55))]
    ids[57:], truth[57:] = 99, IGNORED  # no polygon: `unlabeled`
    for number, name in enumerate(names):
        top, left = CELL * (number // COLUMNS), CELL * (number % COLUMNS)
        objects.append(polygon(name, box(left + 1, top + 1, left + 6, top + 6)))
        inner = (slice(top + 3, top + 5), slice(left + 3, left + 5))
        ids[inner] = number
        plain = name if name in NAMES else name.removesuffix("group")
        truth[inner] = NAMES.get(plain, NAMES["sky"])
    objects.append(polygon("bus", box(0, 0, width - 1, height - 1), deleted=1))
    text = json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects})
    return text.encode(), Truth(ids, truth)


ALL = [*NAMES, UNKNOWN, "cargroup", "persongroup", "ridergroup", "bicyclegroup", "motorcyclegroup", "truckgroup"]


# Part I: idd-segmentation.tar.gz with the top folder IDD_Segmentation and PNG images; part II: idd-20k-II.tar.gz with
# idd20kII and JPEG images (public scripts; mseg-dataset/mseg-api mseg/dataset_lists/idd-40 for the names of part I).
# 14,027 + 2,036 + 4,038 frames, about half of them in each part.
@functools.lru_cache
def idd(stray: bool = False) -> Official:
    """Both parts."""
    parts: dict[str, dict[str, bytes]] = {"idd-segmentation.tar.gz": {}, "idd-20k-II.tar.gz": {}}
    frames: dict[tuple[str, str], Truth | None] = {}
    places = [
        ("idd-segmentation.tar.gz", "IDD_Segmentation", "train", "0", "005506", "png"),
        ("idd-segmentation.tar.gz", "IDD_Segmentation", "val", "119", "638495", "png"),
        ("idd-segmentation.tar.gz", "IDD_Segmentation", "test", "11", "903127", "png"),
        ("idd-20k-II.tar.gz", "idd20kII", "train", "201", "frame0029", "jpg"),
        ("idd-20k-II.tar.gz", "idd20kII", "val", "380", "frame1234", "jpg"),
        ("idd-20k-II.tar.gz", "idd20kII", "test", "512", "frame0007", "jpg"),
    ]
    for seed, (part, top, split, drive, name, ending) in enumerate(places):
        kind = "PNG" if ending == "png" else "JPEG"
        parts[part][f"{top}/leftImg8bit/{split}/{drive}/{name}_leftImg8bit.{ending}"] = photo(seed, SIZE, kind)
        frames[split, name] = None
        if split != "test":
            text, frames[split, name] = annotated([*ALL[seed:], *ALL[:seed]])
            parts[part][f"{top}/gtFine/{split}/{drive}/{name}_gtFine_polygons.json"] = text
        if stray:
            parts[part][f"{top}/leftImg8bit/{split}/Thumbs.db"] = b"\0"
            parts[part][f"{top}/leftImg8bit/{split}/{drive}/readme.txt"] = b"read me"
            parts[part][f"{top}/leftImg8bit/{split}/{drive}/thumb.png"] = photo(77)
    archives = [Archive(name, files) for name, files in parts.items()]
    return Official("idd", archives, frames, totals=(14027, 2036, 4038, 16063, 20101))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_parts(tmp_path, layout):
    outcome = check("idd", idd(), layout, tmp_path)
    assert UNKNOWN in outcome.text, "a name that is skipped has to be told"


@pytest.mark.parametrize("part", [0, 1])
def test_one_part_is_enough(tmp_path, part):
    whole = idd()
    names = {path.rsplit("/", 1)[-1].split("_")[0] for path in whole.archives[part].files}
    frames = {key: truth for key, truth in whole.frames.items() if key[1] in names}
    check(f"idd {part}", Official("idd", [whole.archives[part]], frames, totals=whole.totals), "packed", tmp_path)


def test_stray_files_do_no_harm(tmp_path):
    check("idd stray", idd(stray=True), "merged", tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_download_is_named(tmp_path, share):
    root = lay_out(idd().archives, tmp_path / "raw", "packed")
    content = packed(idd().archives[1])
    (root / "idd-20k-II.tar.gz").write_bytes(content[: int(share * len(content))])
    check_refused(prepare("idd", root, tmp_path / "out"), r"idd-20k-II\.tar\.gz", "download|damaged|truncated")


def test_a_polygon_file_that_is_none_is_named(tmp_path):
    root = lay_out(idd().archives, tmp_path / "raw", "merged")
    next(root.rglob("005506_gtFine_polygons.json")).write_bytes(b'{"imgHeight": 64, "imgWidth": 64, "obj')
    check_refused(prepare("idd", root, tmp_path / "out"), "005506_gtFine_polygons")
