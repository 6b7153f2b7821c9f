"""`prepare --check`: it says what a run would do, stops where a run would, and writes nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_files import all_ids, grey, palette, photo
from typer.testing import CliRunner

from iccld_cli.cli.app import app
from iccld_cli.cli.check import lines
from iccld_cli.errors import IccldError
from iccld_cli.prepare import peek
from iccld_cli.prepare.adapters import ADAPTERS
from iccld_cli.prepare.archives import open_tree
from iccld_cli.prepare.own import own_images
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.rehearsal import FRAMES, HEADERS, Rehearsal, human, rehearse
from iccld_cli.prepare.sources import open_set


def gta(root: Path, frames: int) -> Path:
    """GTA5 of many links to one frame."""
    image = photo(root / "images/00001.png")
    label = palette(root / "labels/00001.png", all_ids([7, 26, 34]))
    for number in range(2, frames + 1):
        os.link(image, root / f"images/{number:05d}.png")
        os.link(label, root / f"labels/{number:05d}.png")
    return root


def look(name: str, root: Path, out: Path, **options) -> Rehearsal:
    """Look at a set as the command does."""
    return rehearse(
        ADAPTERS[name](open_tree(root, out, peek=True)), out, name, PrepareOptions(**{"workers": 1, **options})
    )


def snapshot(root: Path) -> dict[str, int]:
    """All files with their modification times."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


def test_it_says_what_would_be_taken_and_writes_nothing(tmp_path):
    root = gta(tmp_path / "raw", 3000)
    before = snapshot(tmp_path)
    found = look("gta5", root, tmp_path / "out")
    assert snapshot(tmp_path) == before
    assert found.splits == {"train": 3000}
    assert (found.headers, found.sampled) == (HEADERS, FRAMES)
    assert found.values == {"7": "road", "26": "car", "34": None}
    assert found.problems == []
    text = "\n".join(lines(found))
    assert "train 3,000 would be taken, all with labels" in text
    assert "sizes in 400 headers: 40x8 (400)" in text
    assert "3,000 of 24,966 frames: are 03_images.zip to 10_images.zip missing?" in text
    one = prepare(
        ADAPTERS["gta5"](open_tree(gta(tmp_path / "few", 5), tmp_path)), tmp_path / "few-out", "gta5", PrepareOptions()
    )
    written = sum(path.stat().st_size for path in one[0].root.glob("*/train/*"))
    assert found.bytes == pytest.approx(600 * written, rel=0.01)


def test_what_would_stop_the_run_is_found_in_headers_and_in_the_sample(tmp_path):
    root = gta(tmp_path / "raw", 300)
    (root / "labels/00150.png").unlink()
    palette(root / "labels/00150.png", all_ids([7], (9, 40)))
    found = look("gta5", root, tmp_path / "out")
    assert found.bad == [{"file": "labels/00150.png", "reason": "is 40x9, its image is 40x8"}]
    assert len(found.problems) == 1
    assert look("gta5", root, tmp_path / "out", skip_bad=True).problems == []
    few = gta(tmp_path / "few", 4)
    (few / "labels/00002.png").unlink()
    palette(few / "labels/00002.png", all_ids([77]))
    found = look("gta5", few, tmp_path / "out")
    assert "holds ids that this data set does not have: 77" in found.bad[0]["reason"]
    assert found.unknown_values == ["77"]


def test_an_output_that_is_in_the_way(tmp_path):
    root, out = gta(tmp_path / "raw", 3), tmp_path / "out"
    prepare(ADAPTERS["gta5"](open_tree(root, out)), out, "gta5", PrepareOptions(workers=1))
    assert look("gta5", root, out).problems == []
    assert "size was None, now [20, 4]" in look("gta5", root, out, size=(20, 4)).problems[0]
    assert look("gta5", root, out, size=(20, 4), force=True).problems == []
    (tmp_path / "other/gta5").mkdir(parents=True)
    assert "no prepared data set" in look("gta5", root, tmp_path / "other").problems[0]


def idd(path: Path, frames: int, shape: tuple[int, int] = (8, 40)) -> None:
    """Part II of IDD as a compressed tar file, with label images."""
    folder = path.parent / "made"
    for number in range(frames):
        name = f"train/{number}/frame{number:04d}"
        photo(folder / f"idd20kII/leftImg8bit/{name}_leftImg8bit.jpg", number, shape)
        grey(folder / f"idd20kII/gtFine/{name}_gtFine_labelids.png", all_ids([0]))
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "idd20kII", "idd20kII")
    shutil.rmtree(folder)


def test_a_compressed_tar_file_is_looked_into_without_unpacking_it(tmp_path, monkeypatch):
    idd(tmp_path / "raw/idd-20k-II.tar.gz", 12)
    before = snapshot(tmp_path)
    found = look("idd", tmp_path / "raw", tmp_path / "out")
    assert snapshot(tmp_path) == before
    assert (found.splits, found.sampled, found.values) == ({"train": 12}, 12, {"0": "road"})
    monkeypatch.setattr(peek, "KEPT_BYTES", 3000)
    assert 0 < look("idd", tmp_path / "raw", tmp_path / "out").sampled < 12
    idd(tmp_path / "raw/idd-20k-II.tar.gz", 4, (400, 600))  # larger than what is read at once
    monkeypatch.setattr(peek, "SECONDS", -1.0)
    with pytest.raises(IccldError, match=r"no IDD in .*, but only \d+ % of idd-20k-II.tar.gz could be looked at"):
        open_set(ADAPTERS["idd"], tmp_path / "raw", tmp_path / "out", True, None, True)
    photo(tmp_path / "raw/leftImg8bit/train/0/frame0000_leftImg8bit.jpg")
    found = look("idd", tmp_path / "raw", tmp_path / "out")
    assert (found.splits, found.problems) == ({"train": 1}, [])
    assert re.match(r"only [1-9]\d? % of idd-20k-II.tar.gz could be looked at", found.notices[0])


def test_own_images_and_templates(tmp_path):
    photo(tmp_path / "rgb/a.jpg")
    grey(tmp_path / "seg/a.png", all_ids([0, 255]))
    _, source = own_images(str(tmp_path / "rgb"), str(tmp_path / "seg"), None, tmp_path)
    found = rehearse(source, tmp_path / "out", "mine", PrepareOptions(workers=1))
    assert (found.splits, found.values) == ({"train": 1}, {"0": "road", "255": None})
    (tmp_path / "empty").mkdir()
    _, source = own_images(str(tmp_path / "empty"), None, None, tmp_path)
    with pytest.raises(IccldError, match="no images found"):
        rehearse(source, tmp_path / "out", "mine", PrepareOptions())


def test_the_command_reports_every_set_and_its_exit_status(tmp_path):
    root, out = gta(tmp_path / "raw", 5), ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["prepare", "--check", "--gta5", str(root), *out])
    assert result.exit_code == 0, result.output
    assert "7 road, 26 car, 34 ignore" in result.output
    assert "needs about" in result.output
    (root / "images/00003.png").unlink()
    (root / "images/00003.png").write_bytes(b"\x89PNG cut")
    photo(tmp_path / "kitti/training/image_2/000000_10.png")
    (tmp_path / "none").mkdir()
    sets = ["--gta5", root, "--synthia", tmp_path / "none", "--kitti", tmp_path / "kitti"]
    command = [sys.executable, "-m", "iccld_cli", "prepare", "--check", *map(str, sets), *out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1
    assert "would stop: synthia: no SYNTHIA-RAND-CITYSCAPES in" in done.stderr
    assert "would stop: gta5: 1 of the files looked at cannot be used (images/00003.png is not" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: prepare would stop: ")
    assert "train 1 would be taken, no labels" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_video(tmp_path):
    from test_sources import movie

    movie(tmp_path / "drive.mp4", 60)
    result = CliRunner().invoke(app, ["prepare", "--check", "--video", str(tmp_path / "drive.mp4"), "--fps", "25"])
    assert result.exit_code == 0, result.output
    assert "train 60 would be taken, no labels" in result.output


def test_bytes_for_people():
    assert [human(n) for n in (12, 1500, 61_000_000_000, 2e12)] == ["12 B", "1.5 kB", "61 GB", "2.0 TB"]


def test_a_mask_is_part_of_what_a_run_would_do(tmp_path):
    root = tmp_path / "raw"
    photo(root / "images/00001.png")
    palette(root / "labels/00001.png", all_ids([7, 26, 34]))
    height, width = cv2.imread(str(root / "images/00001.png")).shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[-1:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    out, source = tmp_path / "out", ADAPTERS["gta5"](open_tree(root, tmp_path / "out", peek=False))
    prepare(source, out, "gta5", PrepareOptions(workers=1, ignore=tmp_path / "mask.png"))
    assert look("gta5", root, out, ignore=tmp_path / "mask.png").problems == []
    assert any("ignore_mask" in text for text in look("gta5", root, out).problems)
    cv2.imwrite(str(tmp_path / "other.png"), mask[:, : width // 2])
    assert any(
        "not the shape" in text for text in look("gta5", root, tmp_path / "new", ignore=tmp_path / "other.png").problems
    )
