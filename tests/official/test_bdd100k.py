"""BDD100K's 10k images for semantic segmentation: today's archives, the older single one, and the release of 2018."""

from __future__ import annotations

import functools

import pytest
from official_files import IGNORED, SHAPE, grey, mapped, photo, rgb, tiled
from official_sets import LAYOUTS, SINGLE, Archive, Official, Truth, check, check_refused, lay_out, prepare
from official_tables import TRAIN_IDS

# Masks are "one-channel png (8 bits)" of trainIds, 255 = ignore: bdd100k/bdd100k doc/source/format.rst. Folders:
# doc/source/download.rst (bdd100k/images/10k, bdd100k/labels/sem_seg/{masks,colormaps,polygons}). Archives: one for the
# images (bdd100k_images_10k.zip) or one for each split (10k_images_train.zip ..., README of VLTSeg).
IDS = [*range(19), IGNORED]
TRAIN, VAL, TEST = ("0004a4c0-d4dff0ad", "00054602-3bf57337"), ("7d06fefd-f7be05a6",), ("ac6d4f42-00000000",)

# A header scan of all 8,000 pairs of the current download found six images stored as 720x1280 beside a 1280x720 label
# of another view, without an EXIF tag (also bdd100k/bdd100k issues 103 and 127, w1oves/Rein issue 90). Archives of
# May 2021 hold no label for these six. The release of 2018 does not hold them.
PORTRAIT = {
    "train": ("3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182", "78ac84ba-07bd30c2"),
    "val": ("80a9e37d-e4548ac1", "9342e334-33d167eb"),
}
UPRIGHT = SHAPE[::-1]
TOTALS = (7000, 6996, 1000, 998, 2000, 8000, 7994, 10000, 9994)


@functools.lru_cache
def bdd100k(one_archive: bool, portrait_labels: bool) -> Official:
    """Today's folders."""
    images: dict[str, dict[str, bytes]] = {"train": {}, "val": {}, "test": {}}
    labels = {"bdd100k/labels/sem_seg/polygons/sem_seg_train.json": b"[]"}
    frames: dict[tuple[str, str], Truth | None] = {}

    def add_label(split: str, name: str, seed: int) -> Truth:
        ids = tiled(IDS, start=seed)
        labels[f"bdd100k/labels/sem_seg/masks/{split}/{name}.png"] = grey(ids)
        labels[f"bdd100k/labels/sem_seg/colormaps/{split}/{name}.png"] = rgb(ids[..., None].repeat(3, -1))
        return Truth(ids, mapped(ids, TRAIN_IDS))

    seed = 0
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for name in names:
            seed += 1
            images[split][f"bdd100k/images/10k/{split}/{name}.jpg"] = photo(seed, kind="JPEG")
            frames[split, name] = None if split == "test" else add_label(split, name, seed)
        for name in PORTRAIT.get(split, ()):
            seed += 1
            images[split][f"bdd100k/images/10k/{split}/{name}.jpg"] = photo(seed, UPRIGHT, "JPEG")
            if portrait_labels:
                add_label(split, name, seed)
    if one_archive:
        archives = [Archive("bdd100k_images_10k.zip", images["train"] | images["val"] | images["test"])]
    else:
        archives = [Archive(f"10k_images_{split}.zip", files) for split, files in images.items()]
    archives.append(Archive("bdd100k_sem_seg_labels_trainval.zip", labels))
    return Official("bdd100k", archives, frames, PORTRAIT["train"] + PORTRAIT["val"], TOTALS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_archive_for_each_split(tmp_path, layout):
    check("bdd100k", bdd100k(False, True), layout, tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_archive_of_images(tmp_path, layout):
    check("bdd100k one", bdd100k(True, True), layout, tmp_path)


def test_the_six_without_labels(tmp_path):
    check("bdd100k 2021", bdd100k(True, False), "merged", tmp_path)


# seg/images/{train,val,test}/X.jpg and seg/labels/{train,val}/X_train_id.png: mseg-dataset/mseg-api,
# mseg/dataset_lists/bdd/list; bdd100k_seg.zip: download_scripts of the same project. 7,000 + 1,000 pairs.
@functools.lru_cache
def release_2018(top: str) -> Official:
    """One archive, images and labels together."""
    files: dict[str, bytes] = {}
    frames: dict[tuple[str, str], Truth | None] = {}
    places = [("train", TRAIN[0]), ("train", TRAIN[1]), ("val", VAL[0]), ("test", TEST[0])]
    for seed, (split, name) in enumerate(places):
        files[f"{top}seg/images/{split}/{name}.jpg"] = photo(seed, kind="JPEG")
        frames[split, name] = None
        if split != "test":
            ids = tiled(IDS, start=seed)
            files[f"{top}seg/labels/{split}/{name}_train_id.png"] = grey(ids)
            files[f"{top}seg/color_labels/{split}/{name}_train_color.png"] = rgb(ids[..., None].repeat(3, -1))
            frames[split, name] = Truth(ids, mapped(ids, TRAIN_IDS))
    return Official("bdd100k", [Archive("bdd100k_seg.zip", files)], frames, totals=TOTALS)


@pytest.mark.parametrize("layout", SINGLE)
def test_the_release_of_2018(tmp_path, layout):
    check("bdd100k 2018", release_2018("bdd100k/"), layout, tmp_path)


def test_the_release_of_2018_as_a_mirror_holds_it(tmp_path):
    check("bdd100k mirror", release_2018("bdd100k_seg/bdd100k/"), "merged", tmp_path)


def test_another_portrait_frame_stays_refused(tmp_path):
    root = lay_out(bdd100k(True, True).archives, tmp_path / "raw", "merged")
    next(root.rglob(f"{TRAIN[1]}.jpg")).write_bytes(photo(7, UPRIGHT, "JPEG"))
    check_refused(prepare("bdd100k", root, tmp_path / "out"), TRAIN[1], "32x16")


def test_another_frame_without_label_stays_refused(tmp_path):
    root = lay_out(bdd100k(True, True).archives, tmp_path / "raw", "merged")
    next(root.rglob(f"masks/val/{VAL[0]}.png")).unlink()
    check_refused(prepare("bdd100k", root, tmp_path / "out"), VAL[0], "missing|label")
