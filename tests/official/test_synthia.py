"""SYNTHIA-RAND-CITYSCAPES, which is published as one RAR file."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from official_files import mapped, photo, rgb, rgb16, tiled
from official_sets import SINGLE, Archive, Official, Truth, check, check_refused, compare, prepare, unpack

# Names and ids: m-birke/automotive-segmentation-datasets, synthia_rand_cityscapes.md. TrainIds: the converter of
# DAFormer and HRDA, also in YanchaoYang/FDA (issue 27 quotes it): 22 (lane marking), 14 (road work), 13 (parking slot)
# and 0 (void) are ignored. 13, 16, 18 and 20 never occur, but the table names them.
IDS = range(23)
TRUTH = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15,
         20: 16, 12: 17, 11: 18}  # fmt: skip


def label_file(ids: np.ndarray) -> bytes:
    """16-bit RGB: class in red, instance in green (the converters read the last channel of BGR)."""
    return rgb16(ids, ids * 300 + 7)


@functools.lru_cache
def synthia() -> Official:
    """The tree that unrar leaves, with the files that lie beside the labels."""
    files, frames = {"RAND_CITYSCAPES/ReadMe.txt": b"SYNTHIA"}, {}
    for number in range(3):
        ids = tiled(IDS, start=number)
        name = f"{number:07d}.png"
        files[f"RAND_CITYSCAPES/RGB/{name}"] = photo(number)
        files[f"RAND_CITYSCAPES/GT/LABELS/{name}"] = label_file(ids)
        files[f"RAND_CITYSCAPES/GT/COLOR/{name}"] = rgb(np.stack([ids * 9] * 3, -1))
        files[f"RAND_CITYSCAPES/Depth/Depth/{name}"] = rgb16(ids, ids)
        frames["train", f"{number:07d}"] = Truth(ids, mapped(ids, TRUTH))
    return Official("synthia", [Archive("SYNTHIA_RAND_CITYSCAPES.zip", files)], frames, totals=(9400,))


@pytest.mark.parametrize("layout", SINGLE)
def test_the_official_set(tmp_path, layout):
    """Packed means packed again as zip; the official archive is a RAR file."""
    check("synthia", synthia(), layout, tmp_path)


def test_the_top_folder_itself(tmp_path):
    unpack(synthia().archives[0], tmp_path / "raw")
    compare(prepare("synthia", tmp_path / "raw/RAND_CITYSCAPES", tmp_path / "out"), synthia().frames)


@pytest.mark.parametrize("folder", [True, False])
def test_the_rar_file_is_named_with_a_way_out(tmp_path, folder):
    """People are told to `unrar x` it (README of VLTSeg and others)."""
    root = tmp_path / "raw"
    root.mkdir()
    archive = root / "SYNTHIA_RAND_CITYSCAPES.rar"
    archive.write_bytes(b"Rar!\x1a\x07\x00" + bytes(range(256)))
    outcome = prepare("synthia", root if folder else archive, tmp_path / "out")
    check_refused(outcome, r"\.rar|RAR", "unpack|unrar|extract")


def test_names_with_backslashes_are_explained(tmp_path):
    """Some versions of unrar write the whole path into one file name; public set-up scripts rename `*\\\\*`."""
    root = tmp_path / "raw"
    root.mkdir()
    for path, content in synthia().archives[0].files.items():
        (root / path.replace("/", "\\")).write_bytes(content)
    check_refused(prepare("synthia", root, tmp_path / "out"), r"backslash|\\")


# SYNTHIA-SEQS-NN-WEATHER have one more folder level for eight cameras (a public loader:
# SYNTHIA-SEQS-01-SPRING/RGB/Stereo_Left/Omni_F and GT/.../Stereo_Left/Omni_F); their classes are others.
@pytest.mark.parametrize("twice", [True, False])
def test_other_sequences_are_refused(tmp_path, twice):
    top = tmp_path / "raw" / ("SYNTHIA-SEQS-01-SPRING/" * (2 if twice else 1))
    files = {}
    for camera in ("Omni_F", "Omni_R"):
        files[f"RGB/Stereo_Left/{camera}/000000.png"] = photo(1)
        files[f"GT/LABELS/Stereo_Left/{camera}/000000.png"] = label_file(tiled(range(13)))
        files[f"GT/COLOR/Stereo_Left/{camera}/000000.png"] = rgb(np.zeros((16, 32, 3)))
    unpack(Archive("", files), top)
    check_refused(prepare("synthia", tmp_path / "raw", tmp_path / "out"), "RAND.CITYSCAPES|SYNTHIA-RAND")


def test_the_plain_rand_set_is_refused(tmp_path):
    """SYNTHIA_RAND_CVPR16 holds RAND/RGB with long names, and its labels are colours (GT) and text (GTTXT)."""
    files = {}
    for name in ("ap_000_01-11-2015_19-20-57_000002_0_Rand_0", "ap_000_01-11-2015_19-20-57_000003_1_Rand_1"):
        files[f"RAND/RGB/{name}.png"] = photo(2)
        files[f"RAND/GT/{name}.png"] = rgb(np.zeros((16, 32, 3)))
        files[f"RAND/GTTXT/{name}.txt"] = b"0 1 2\n"
    unpack(Archive("", files), tmp_path / "raw")
    check_refused(prepare("synthia", tmp_path / "raw", tmp_path / "out"), "RAND.CITYSCAPES|SYNTHIA-RAND|LABELS")


def test_colours_in_place_of_ids_are_refused(tmp_path):
    """GT/COLOR in the place of GT/LABELS."""
    files = dict(synthia().archives[0].files)
    ids = tiled(IDS)
    for number in range(3):
        files[f"RAND_CITYSCAPES/GT/LABELS/{number:07d}.png"] = rgb(np.stack([ids * 11, 255 - ids * 11, ids * 5], -1))
    unpack(Archive("", files), tmp_path / "raw")
    check_refused(prepare("synthia", tmp_path / "raw", tmp_path / "out"), "0000000", "16|bit|colou?r|ids")
