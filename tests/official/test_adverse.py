"""ACDC and Dark Zurich, whose layouts are nearly each other's reverse."""

from __future__ import annotations

import functools

import pytest
from official_files import IGNORED, grey, mapped, photo, rgb, tiled
from official_sets import LAYOUTS, Archive, Official, Truth, check
from official_tables import CITYSCAPES, CITYSCAPES_IDS, TRAIN_IDS


def ground_truth(path: str, seed: int) -> tuple[dict[str, bytes], Truth]:
    """The label files of a frame; ids and trainIds say the same, as they do in the archives."""
    ids = tiled(CITYSCAPES_IDS, start=seed)
    train_ids = mapped(ids, CITYSCAPES)
    files = {
        f"{path}_gt_labelIds.png": grey(ids),
        f"{path}_gt_labelTrainIds.png": grey(train_ids),
        f"{path}_gt_labelColor.png": rgb(ids[..., None].repeat(3, -1)),
        f"{path}_gt_invGray.png": grey(ids * 0 + 255),
    }
    return files, Truth(ids, train_ids)


# rgb_anon/{condition}/{split}/{sequence}/..._rgb_anon.png and gt/{condition}/{split}/...: brdav/cma README.md and
# data_modules/datasets/acdc.py; gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_labelIds.png stands in public scripts.
# {split}_ref holds the same places in good weather, without labels. 1,600 + 406 + 2,000 frames
# (acdc.vision.ee.ethz.ch).
@functools.lru_cache
def acdc() -> Official:
    """Both archives."""
    images, labels = {}, {}
    frames: dict[tuple[str, str], Truth | None] = {}
    places = [
        ("fog", "train", "GOPR0475", 41),
        ("night", "train", "GOPR0351", 159),
        ("rain", "val", "GP010402", 12),
        ("snow", "val", "GP020607", 3),
        ("snow", "test", "GOPR0122", 7),
    ]
    for seed, (condition, split, sequence, number) in enumerate(places):
        name = f"{sequence}_frame_{number:06d}"
        path = f"{condition}/{split}/{sequence}/{name}"
        images[f"rgb_anon/{path}_rgb_anon.png"] = photo(seed)
        images[f"rgb_anon/{condition}/{split}_ref/{sequence}/{name}_rgb_ref_anon.png"] = photo(seed + 50)
        frames[split, name] = None
        if split != "test":
            files, frames[split, name] = ground_truth(f"gt/{path}", seed)
            labels |= files
    archives = [Archive("rgb_anon_trainvaltest.zip", images), Archive("gt_trainval.zip", labels)]
    return Official("acdc", archives, frames, totals=(1600, 406, 2000, 4006))


# rgb_anon/{split}/{condition}/{sequence}/..., three archives without a common top folder: brdav/cma README.md and
# data_modules/datasets/darkzurich.py, dataset-ninja/dark-zurich DOWNLOAD.md. 8,779 images in all; of the night 2,416
# for training, 50 for validation, 151 for the test.
@functools.lru_cache
def dark_zurich(condition: str) -> Official:
    """All three archives, and what is to come of them for a condition."""
    parts: dict[str, dict[str, bytes]] = {
        "Dark_Zurich_train_anon.zip": {"README.md": b"Dark Zurich"},
        "Dark_Zurich_val_anon.zip": {"README.md": b"Dark Zurich"},
        "Dark_Zurich_test_anon_withoutGt.zip": {"README.md": b"Dark Zurich"},
    }
    frames: dict[tuple[str, str], Truth | None] = {}
    places = [
        ("train", "night", "GOPR0351", 1),
        ("train", "twilight", "GOPR0349", 2),
        ("train", "day", "GOPR0345", 3),
        ("val", "night", "GOPR0356", 321),
        ("val_ref", "day", "GOPR0356_ref", 322),
        ("test", "night", "GOPR0364", 15),
        ("test_ref", "day", "GOPR0364_ref", 16),
    ]
    for seed, (split, light, sequence, number) in enumerate(places):
        name = f"{sequence}_frame_{number:06d}"
        ending = "withoutGt" if split.startswith("test") else ""
        part = f"Dark_Zurich_{split.split('_')[0]}_anon{'_' * bool(ending)}{ending}.zip"
        parts[part][f"rgb_anon/{split}/{light}/{sequence}/{name}_rgb_anon.png"] = photo(seed)
        wanted = condition in (light, "all") and not split.endswith("_ref")
        truth = None
        if split == "val":
            files, truth = ground_truth(f"gt/{split}/{light}/{sequence}/{name}", seed)
            parts[part] |= files
        if wanted:
            frames[split, name] = truth
    archives = [Archive(name, files) for name, files in parts.items()]
    settings = () if condition == "night" else ("--set", f"dark-zurich.condition={condition}")
    totals = (2416, 2617, 50, 151, 8779, 2920, 3041, 8377, 8578)
    return Official("dark-zurich", archives, frames, totals=totals, settings=settings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_acdc(tmp_path, layout):
    check("acdc", acdc(), layout, tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("condition", ["night", "all"])
def test_dark_zurich(tmp_path, condition, layout):
    check(f"dark-zurich {condition}", dark_zurich(condition), layout, tmp_path)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
@pytest.mark.parametrize("build", [acdc, lambda: dark_zurich("night")], ids=["acdc", "dark-zurich"])
def test_either_kind_of_label_is_enough(tmp_path, build, kind):
    other = {"labelIds": "labelTrainIds", "labelTrainIds": "labelIds"}[kind]
    official = build()
    archives = [
        Archive(a.name, {p: b for p, b in a.files.items() if f"_gt_{other}." not in p}) for a in official.archives
    ]
    check(f"{official.option} {kind}", Official(official.option, archives, official.frames), "merged", tmp_path)


def test_train_ids_hold_255(tmp_path):
    """The trainIds of these sets are 0..18 and 255."""
    ids = tiled([*range(19), IGNORED])
    files = {"rgb_anon/fog/val/G/G_frame_000001_rgb_anon.png": photo(1)}
    files["gt/fog/val/G/G_frame_000001_gt_labelTrainIds.png"] = grey(ids)
    frames = {("val", "G_frame_000001"): Truth(ids, mapped(ids, TRAIN_IDS))}
    check("acdc 255", Official("acdc", [Archive("acdc.zip", files)], frames), "merged", tmp_path)
