"""Cityscapes: fine annotations, and with the extra frames and the coarse ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from official_files import IGNORED, grey, grey16, mapped, photo, plain, rgb, tiled
from official_sets import LAYOUTS, Archive, Official, Truth, check, check_refused, lay_out, packed, prepare
from official_tables import CITYSCAPES, CITYSCAPES_IDS, TRAIN_IDS

# {type}/{split}/{city}/{city}_{seq:0>6}_{frame:0>6}_{type}{ext}; 2,975 + 500 + 1,525 fine frames, 19,998 in
# train_extra; coarse annotations of train and val too; test holds "annotations of ego-vehicle and rectification
# border" alone: mcordts/cityscapesScripts README.md. One of the 19,998 is black, troisdorf_000000_000073: several
# loaders delete it by hand (also m-birke/automotive-segmentation-datasets, cityscapes.md).
FRAMES = {
    "aachen_000000_000019": "train",
    "zurich_000121_000019": "train",
    "munster_000173_000019": "val",
    "berlin_000000_000019": "test",
    "augsburg_000000_000000": "train_extra",
    "troisdorf_000000_000072": "train_extra",
}
BLACK = "troisdorf_000000_000073"


def annotation(kind: str, split: str, name: str, ids: np.ndarray) -> dict[str, bytes]:
    """The four files of an annotated frame."""
    path = f"{kind}/{split}/{name.split('_')[0]}/{name}_{kind}"
    return {
        f"{path}_labelIds.png": grey(ids),
        f"{path}_instanceIds.png": grey16(ids * 1000),
        f"{path}_color.png": rgb(np.stack([ids, ids, ids, ids * 0 + 255], -1)),
        f"{path}_polygons.json": b'{"imgHeight": 16, "imgWidth": 32, "objects": []}',
    }


@functools.lru_cache
def cityscapes(extra: bool, coarse: bool = True) -> Official:
    """Two archives, or four with the extra frames (three without their coarse annotations)."""
    licence = {"README": b"The Cityscapes Dataset", "license.txt": b"licence"}
    images, fine, more, rough = dict(licence), dict(licence), dict(licence), dict(licence)
    frames: dict[tuple[str, str], Truth | None] = {}
    for seed, (name, split) in enumerate(FRAMES.items()):
        is_extra = split == "train_extra"
        path = f"leftImg8bit/{split}/{name.split('_')[0]}/{name}_leftImg8bit.png"
        (more if is_extra else images)[path] = photo(seed)
        ids = tiled([1, 2, 3] if split == "test" else CITYSCAPES_IDS, start=seed)
        if not is_extra:
            fine |= annotation("gtFine", split, name, ids)
        if split != "test":
            rough |= annotation("gtCoarse", split, name, ids if is_extra else ids * 0)
        labelled = split != "test" and (coarse or not is_extra)
        if extra or not is_extra:
            key = ("extra" if is_extra else split, name)
            frames[key] = Truth(ids, mapped(ids, CITYSCAPES)) if labelled else None
    more[f"leftImg8bit/train_extra/troisdorf/{BLACK}_leftImg8bit.png"] = plain(0)
    rough |= annotation("gtCoarse", "train_extra", BLACK, tiled(CITYSCAPES_IDS))
    archives = [Archive("leftImg8bit_trainvaltest.zip", images), Archive("gtFine_trainvaltest.zip", fine)]
    if extra:
        archives += [Archive("leftImg8bit_trainextra.zip", more)] + [Archive("gtCoarse.zip", rough)] * coarse
    totals = (2975, 500, 1525, 5000, 19998, 19997, 24998, 24997)
    return Official("cityscapes", archives, frames, (BLACK,) if extra else (), totals)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extra", [False, True], ids=["fine", "extra"])
def test_the_official_set(tmp_path, extra, layout):
    check(f"cityscapes {extra}", cityscapes(extra), layout, tmp_path)


@pytest.mark.parametrize("layout", ["packed", "apart"])
def test_extra_images_without_their_coarse_labels(tmp_path, layout):
    check("cityscapes images", cityscapes(True, coarse=False), layout, tmp_path)


def test_label_images_of_train_ids(tmp_path):
    """What createTrainIdLabelImgs.py of the official scripts adds beside the polygons."""
    files = {"leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png": photo(1)}
    ids = tiled([*range(19), IGNORED])
    files["gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"] = grey(ids)
    truth = Truth(ids, mapped(ids, TRAIN_IDS))
    official = Official("cityscapes", [Archive("cityscapes.zip", files)], {("train", "ulm_000000_000019"): truth})
    check("cityscapes trainIds", official, "merged", tmp_path)


@pytest.mark.parametrize("name", ["troisdorf_000000_000072", "aachen_000000_000019"])
def test_another_black_frame_stays_refused(tmp_path, name):
    root = lay_out(cityscapes(True).archives, tmp_path / "raw", "merged")
    next(root.rglob(f"{name}_leftImg8bit.png")).write_bytes(plain(0))
    check_refused(prepare("cityscapes", root, tmp_path / "out"), name, "colour")


def test_a_truncated_download_is_named(tmp_path):
    archives = cityscapes(False).archives
    root = lay_out(archives, tmp_path / "raw", "packed")
    content = packed(archives[1])
    (root / "gtFine_trainvaltest.zip").write_bytes(content[: len(content) * 2 // 3])
    check_refused(prepare("cityscapes", root, tmp_path / "out"), r"gtFine_trainvaltest\.zip", "download|damaged")
