"""GTA5 (Playing for Data) as it is downloaded: 20 numbered zip files and read_mapping.zip."""

from __future__ import annotations

import functools

import pytest
from official_files import SHAPE, grey, mapped, painted, palette, photo, plain, split_mat, tiled
from official_sets import LAYOUTS, Archive, Official, Truth, check, check_refused, lay_out, packed, prepare
from official_tables import CITYSCAPES, COLOURS

# mapping.mat of read_mapping.zip names 35 classes, id 0 `unlabeled` to id 34 `license plate`; the converter of DAFormer
# (w1oves/Rein, tools/convert_datasets/gta.py) maps the 19 ids of Cityscapes and leaves all others, 34 among them, 255.
IDS = range(35)

# A scan of all 24,966 pairs (m-birke/automotive-segmentation-datasets, playing_for_data.md, "Corrupt data"): labels of
# 20801..20860 have another size than their image; 15188 is white and 17705 black, both 957x526. Part NN holds 2,500
# frames. 15617 has one class in its whole label and is a good frame.
WRONG_SIZE = range(20801, 20861)
WHITE, BLACK, ONE_CLASS = 15188, 17705, 15617
LOW = (SHAPE[0] - 1, SHAPE[1])
"""Some frames are 1914x1046 in place of 1914x1052, image and label alike (the same scan)."""


@functools.lru_cache
def gta5() -> Official:
    """Parts 01, 07, 08, 09 and 10 of ten, and the code archive with the split (members at its root)."""
    parts: dict[str, dict[str, bytes]] = {}
    frames: dict[tuple[str, str], Truth | None] = {}

    def add(number: int, image: bytes, label: bytes) -> None:
        part = f"{(number - 1) // 2500 + 1:02d}"
        parts.setdefault(f"{part}_images.zip", {})[f"images/{number:05d}.png"] = image
        parts.setdefault(f"{part}_labels.zip", {})[f"labels/{number:05d}.png"] = label

    good = {1: "train", 2: "val", ONE_CLASS: "test", 20800: "train", 20861: "train", 24966: "test"}
    for number, split in good.items():
        shape = LOW if number == 2 else SHAPE
        ids = tiled([7] if number == ONE_CLASS else IDS, shape, number)
        add(number, photo(number, shape), palette(ids, COLOURS))
        frames[split, f"{number:05d}"] = Truth(ids, mapped(ids, CITYSCAPES))
    label = palette(tiled(IDS), COLOURS)
    add(WHITE, plain(255), label)
    add(BLACK, plain(0), label)
    image, label = photo(99), palette(tiled(IDS, LOW), COLOURS)
    for number in WRONG_SIZE:
        add(number, image, label)
    splits = {s: [n for n, where in good.items() if where == s] for s in ("train", "val", "test")}
    splits["train"] += [WHITE, BLACK, *WRONG_SIZE]
    mat = split_mat({f"{split}Ids": numbers for split, numbers in splits.items()})
    parts["read_mapping.zip"] = {"split.mat": mat, "mapping.mat": b"MATLAB 5.0", "read_mapping.m": b"% reads"}
    left_out = tuple(f"{number:05d}" for number in (WHITE, BLACK, *WRONG_SIZE))
    archives = [Archive(name, files) for name, files in parts.items()]
    return Official("gta5", archives, frames, left_out, totals=(24966, 24904))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_official_set(tmp_path, layout):
    check("gta5", gta5(), layout, tmp_path)


def two_frames(label: bytes) -> list[Archive]:
    """A set of two frames, the second with another label."""
    return [
        Archive("01_images.zip", {"images/00001.png": photo(1), "images/00002.png": photo(2)}),
        Archive("01_labels.zip", {"labels/00001.png": palette(tiled(IDS), COLOURS), "labels/00002.png": label}),
    ]


@pytest.mark.parametrize(
    ("label", "word"), [(palette(tiled(IDS, LOW), COLOURS), "32x15"), (palette(tiled([*IDS, 35]), COLOURS), r"\b35\b")]
)
def test_other_frames_stay_strict(tmp_path, label, word):
    root = lay_out(two_frames(label), tmp_path / "raw", "merged")
    check_refused(prepare("gta5", root, tmp_path / "out"), r"00002\.png", word)


@pytest.mark.parametrize("colour", [255, 0])
def test_another_image_of_one_colour_stays_refused(tmp_path, colour):
    archives = two_frames(palette(tiled(IDS), COLOURS))
    archives[0].files["images/00002.png"] = plain(colour)
    root = lay_out(archives, tmp_path / "raw", "merged")
    check_refused(prepare("gta5", root, tmp_path / "out"), r"00002\.png", "colour")


@pytest.mark.parametrize("ids", [range(35), (0, 26, 27, 28, 31, 32, 4)], ids=["all", "red below 35"])
def test_labels_as_colours_are_refused(tmp_path, ids):
    """The second case could be read as ids, and would be wrong: its red channel holds 0 and 20 alone."""
    archives = two_frames(painted(tiled(ids), COLOURS))
    archives[1].files["labels/00001.png"] = painted(tiled(ids), COLOURS)
    root = lay_out(archives, tmp_path / "raw", "merged")
    check_refused(prepare("gta5", root, tmp_path / "out"), "colou?r|RGB|palette|channel")


@pytest.mark.parametrize("part", ["01_images.zip", "01_labels.zip"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_truncated_download_is_named(tmp_path, part, share):
    archives = two_frames(grey(tiled(IDS)))
    root = lay_out(archives, tmp_path / "raw", "packed")
    content = packed(next(a for a in archives if a.name == part))
    (root / part).write_bytes(content[: int(share * len(content))])
    check_refused(prepare("gta5", root, tmp_path / "out"), part.replace(".", r"\."), "download|damaged|truncated")


def test_a_missing_label_part_is_named(tmp_path):
    """Without 02_labels.zip the frames of part 02 have no label: that must not pass in silence."""
    archives = [*two_frames(grey(tiled(IDS))), Archive("02_images.zip", {"images/02501.png": photo(3)})]
    outcome = prepare("gta5", lay_out(archives, tmp_path / "raw", "packed"), tmp_path / "out")
    check_refused(outcome, r"02501|02_labels")
