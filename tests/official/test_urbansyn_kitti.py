"""UrbanSyn and KITTI semantics: each comes as one tree."""

from __future__ import annotations

import functools
import re

import pytest
from official_files import grey, grey16, mapped, photo, rgb, tiled
from official_sets import SINGLE, Archive, Official, Truth, check, prepare, unpack
from official_tables import CITYSCAPES, CITYSCAPES_IDS, TRAIN_IDS


# rgb/rgb_0001.png and ss/ss_0001.png up to 7539: zaitsev136/computer-vision data_modules/urbansyn.py (from the Hugging
# Face data set UrbanSyn/UrbanSyn); trainIds, "the void value is represented by 19": w1oves/Rein issue 66.
@functools.lru_cache
def urbansyn(band: str) -> Official:
    """The repository's folders; whether the labels have one band or three is told by no source."""
    files, frames = {"README.md": b"UrbanSyn"}, {}
    for number in (1, 2, 7539):
        ids = tiled(range(20), start=number)
        files[f"rgb/rgb_{number:04d}.png"] = photo(number)
        files[f"ss/ss_{number:04d}.png"] = grey(ids) if band == "grey" else rgb(ids[..., None].repeat(3, -1))
        files[f"ss_colour/ss_colour_{number:04d}.png"] = rgb(ids[..., None].repeat(3, -1) * 9)
        files[f"depth/depth_{number:04d}.exr"] = b"v/1\x01"
        frames["train", f"rgb_{number:04d}"] = Truth(ids, mapped(ids, TRAIN_IDS))
    return Official("urbansyn", [Archive("UrbanSyn.zip", files)], frames, totals=(7539,))


# data_semantics.zip: training/{image_2,semantic,semantic_rgb,instance}/000000_10.png, testing/image_2: mseg-dataset/
# mseg-api mseg/dataset_lists/kitti-34/list. "Single channel uint8 8-bit PNG" of Cityscapes ids: the devkit's README
# (stevenwudi/6DVNET, devkit_semantics). 200 + 200 frames.
@functools.lru_cache
def kitti() -> Official:
    """The archive, whose members have no common top folder."""
    files: dict[str, bytes] = {}
    frames: dict[tuple[str, str], Truth | None] = {}
    for number in (0, 1, 199):
        name = f"{number:06d}_10"
        ids = tiled(CITYSCAPES_IDS, start=number)
        files[f"training/image_2/{name}.png"] = photo(number)
        files[f"training/semantic/{name}.png"] = grey(ids)
        files[f"training/semantic_rgb/{name}.png"] = rgb(ids[..., None].repeat(3, -1))
        files[f"training/instance/{name}.png"] = grey16(ids * 256)
        files[f"testing/image_2/{name}.png"] = photo(number + 500)
        frames["train", name] = Truth(ids, mapped(ids, CITYSCAPES))
        frames["test", name] = None
    return Official("kitti", [Archive("data_semantics.zip", files)], frames, totals=(200, 400))


@pytest.mark.parametrize("layout", SINGLE)
@pytest.mark.parametrize("band", ["grey", "rgb"])
def test_urbansyn(tmp_path, band, layout):
    check(f"urbansyn {band}", urbansyn(band), layout, tmp_path)


@pytest.mark.parametrize("layout", SINGLE)
def test_kitti(tmp_path, layout):
    check("kitti", kitti(), layout, tmp_path)


def test_a_whole_set_gets_no_word_on_missing_frames(tmp_path):
    """All 200 + 200 frames of KITTI."""
    image, label = photo(1), grey(tiled(CITYSCAPES_IDS))
    files: dict[str, bytes] = {}
    for number in range(200):
        files[f"training/image_2/{number:06d}_10.png"] = image
        files[f"training/semantic/{number:06d}_10.png"] = label
        files[f"testing/image_2/{number:06d}_10.png"] = image
    unpack(Archive("data_semantics.zip", files), tmp_path / "raw")
    outcome = prepare("kitti", tmp_path / "raw", tmp_path / "out")
    assert outcome.info["splits"] == {"test": 200, "train": 200}
    assert not re.search("missing|incomplete|officially|of 200", outcome.text)
