"""Preparation: what it writes, what it refuses, and that it can be stopped at any moment."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from raw_files import all_ids, grey, photo, png

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.parts import Part
from iccld_cli.prepare.adapters.camvid import CamVid
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.inspect import own_warnings
from iccld_cli.prepare.parts import merge_parts, prepare_part
from iccld_cli.prepare.prepare import BadFilesError, PrepareOptions, prepare
from iccld_cli.prepare.processes import default_workers
from iccld_cli.prepare.tree import FolderTree

LUMA = np.array([0.299, 0.587, 0.114])


def camvid(root: Path, frames: int = 4, shape: tuple[int, int] = (24, 40)) -> Path:
    """A CamVid folder with noise for images."""
    for number in range(frames):
        split = ("train", "train", "val", "test")[number % 4]
        photo(root / split / f"f{number:03d}.png", number, shape)
        label = np.random.default_rng(number).integers(0, 12, shape)
        grey(root / f"{split}annot/f{number:03d}.png", label)
    return root


def run(root: Path, out: Path, **options) -> PreparedDataset:
    """Prepare a CamVid folder in this process."""
    return prepare(CamVid(FolderTree(root)), out, "camvid", PrepareOptions(**{"workers": 1, **options}))[0]


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    found = filecmp.dircmp(one, other)
    if found.left_only or found.right_only or found.funny_files:
        return False
    _, different, errors = filecmp.cmpfiles(one, other, found.common_files, shallow=False)
    return not different and not errors and all(same(one / d, other / d) for d in found.common_dirs)


def test_what_is_written(tmp_path):
    data = run(camvid(tmp_path / "raw"), tmp_path / "out")
    assert sorted(p.name for p in data.root.iterdir()) == [
        *("dataset.json", "images", "index.html", "index.jsonl", "labels", "preview.jpg")
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["camvid"]
    assert data.info.splits == {"test": 1, "train": 2, "val": 1}
    frame = data.frames("val")[0]
    assert (frame.image, frame.label, frame.width) == ("images/val/f002.png", "labels/val/f002.png", 40)
    raw = tmp_path / "raw/val/f002.png"
    assert (data.root / frame.image).read_bytes() == raw.read_bytes()
    label = data.read_label(frame)
    assert frame.pixels == {int(v): int((label == v).sum()) for v in np.unique(label)}
    page = (data.root / "index.html").read_text()
    assert "data:image/jpeg;base64," in page  # it opens without the files beside it
    assert "traffic sign" in page
    assert cv2.imread(str(data.root / "preview.jpg")) is not None


def test_statistics_are_those_of_the_pixels(tmp_path):
    data = run(camvid(tmp_path / "raw"), tmp_path / "out")
    pixels = np.concatenate([data.read_image(f).reshape(-1, 3) for f in data.iter_frames()]) / 255
    assert data.info.extra["mean"] == pytest.approx(pixels.mean(0), abs=1e-4)
    assert data.info.extra["std"] == pytest.approx(pixels.std(0), abs=1e-4)
    labels = np.concatenate([data.read_label(f).ravel() for f in data.iter_frames()])
    assert data.info.extra["pixels"]["car"] == int((labels == 13).sum())
    assert data.info.extra["pixels"]["ignore"] == int((labels == 255).sum())
    assert data.info.extra["frames"]["car"] == 4


def test_size_shrinks_images_by_area_and_labels_by_nearest(tmp_path):
    root = camvid(tmp_path / "raw", 1)
    data = run(root, tmp_path / "out", size=(20, 12))
    frame = data.frames("train")[0]
    assert frame.image.endswith(".jpg")
    assert (frame.width, frame.height) == (20, 12)
    full = cv2.imread(str(root / "train/f000.png"), cv2.IMREAD_COLOR_RGB)
    block = full.reshape(12, 2, 20, 2, 3).mean((1, 3))
    # Brightness as JPEG sees it, because it halves the resolution of colours, which shows on noise.
    assert np.abs(data.read_image(frame).astype(float) @ LUMA - block @ LUMA).mean() < 4
    native = run(root, tmp_path / "native")
    source = native.read_label(native.frames("train")[0])
    small = data.read_label(frame)
    blocks = source.reshape(12, 2, 20, 2).transpose(0, 2, 1, 3).reshape(12, 20, 4)
    assert (blocks == small[..., None]).any(-1).all()


def test_again_does_nothing_and_other_options_are_refused(tmp_path):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    run(root, out)
    before = {p: p.stat().st_mtime_ns for p in (out / "camvid").rglob("*")}
    assert prepare(CamVid(FolderTree(root)), out, "camvid", PrepareOptions(workers=1))[1] is False
    assert {p: p.stat().st_mtime_ns for p in (out / "camvid").rglob("*")} == before
    with pytest.raises(IccldError, match=r"size was None, now \[20, 12\].*--force"):
        run(root, out, size=(20, 12))
    photo(root / "train/f900.png", 9, (24, 40))
    grey(root / "trainannot/f900.png", np.zeros((24, 40)))
    with pytest.raises(IccldError, match="files have changed"):
        run(root, out)
    assert {p: p.stat().st_mtime_ns for p in (out / "camvid").rglob("*")} == before
    assert run(root, out, force=True).info.splits["train"] == 3
    assert [p.name for p in out.iterdir()] == ["camvid"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "out/camvid").mkdir(parents=True)
    (tmp_path / "out/camvid/thesis.txt").write_text("precious")
    with pytest.raises(IccldError, match="no prepared data set"):
        run(camvid(tmp_path / "raw"), tmp_path / "out", force=True)
    assert (tmp_path / "out/camvid/thesis.txt").read_text() == "precious"


def break_files(root: Path) -> dict[str, str]:
    """Provoke every fault; returns a part of the reason for each bad file."""
    camvid(root, 16)
    shutil.copy(root / "train/f000.png", root / "x")
    (root / "train/f000.png").write_bytes((root / "x").read_bytes()[:900])
    (root / "trainannot/f001.png").unlink()
    grey(root / "trainannot/f004.png", all_ids([0], (24, 41)))
    grey(root / "trainannot/f005.png", all_ids([77], (24, 40)))
    cv2.imwrite(str(root / "train/f008.png"), np.full((24, 40, 3), 7, np.uint8))
    (root / "trainannot/f009.png").write_bytes(b"")
    (root / "train/f012.png").write_bytes(png(50000, 50000, 8, 2, b"\0" * 99))
    (root / "trainannot/f013.png").write_bytes(photo(root / "y.jpg").read_bytes())
    return {
        "train/f000.png": "truncated",
        "trainannot/f001.png": "missing",
        "trainannot/f004.png": "is 41x24, its image is 40x24",
        "trainannot/f005.png": "77",
        "train/f008.png": "single colour",
        "trainannot/f009.png": "empty",
        "train/f012.png": "too large",
        "trainannot/f013.png": "not a PNG",
    }


def test_bad_files_stop_the_run_with_their_list_and_can_be_skipped(tmp_path):
    wanted = break_files(tmp_path / "raw")
    with pytest.raises(BadFilesError, match=r"8 of 16 frames of camvid.*--skip-bad") as caught:
        run(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out/camvid").exists()
    found = {entry["file"]: entry["reason"] for entry in caught.value.files}
    assert found.keys() == wanted.keys()
    assert all(part in found[file] for file, part in wanted.items())
    data = run(tmp_path / "raw", tmp_path / "out", skip_bad=True)
    assert sum(data.info.splits.values()) == 8
    assert {entry["file"] for entry in data.info.skipped} == wanted.keys()
    page = (data.root / "index.html").read_text()
    assert "single colour" in page


def test_doubtful_files_are_kept_and_named(tmp_path):
    root = camvid(tmp_path / "raw")
    whole = photo(root / "train/f000.jpg", shape=(24, 40))
    (root / "train/f000.png").unlink()
    data = whole.read_bytes()
    whole.write_bytes(data[:-2] + bytes(9) + data[-2:])
    info = run(root, tmp_path / "out").info
    assert info.extra["doubtful"]["frames"] == 1
    (example,) = info.extra["doubtful"]["examples"]
    assert example["file"] == "train/f000.jpg"
    assert "extraneous" in example["reason"]
    assert any("1 image may be damaged" in warning for warning in own_warnings(info))


def test_mended_files_are_looked_at_again(tmp_path):
    root = camvid(tmp_path / "raw")
    whole = (root / "train/f000.png").read_bytes()
    (root / "train/f000.png").write_bytes(whole[:500])
    with pytest.raises(BadFilesError):
        run(root, tmp_path / "out")
    (root / "train/f000.png").write_bytes(whole)
    assert run(root, tmp_path / "out").info.splits["train"] == 2


def test_a_wrong_layout_stops_early(tmp_path):
    root = tmp_path / "raw"
    for number in range(260):
        photo(root / f"train/{number:03d}.jpg", number, (4, 4))
    grey(root / "trainannot/000.png", np.zeros((4, 4)))
    with pytest.raises(BadFilesError) as caught:
        run(root, tmp_path / "out")
    assert len(caught.value.files) == 100


def test_nothing_usable(tmp_path):
    root = tmp_path / "raw"
    cv2.imwrite(str(photo(root / "train/a.png")), np.zeros((4, 4, 3), np.uint8))
    grey(root / "trainannot/a.png", np.zeros((4, 4)))
    with pytest.raises(IccldError, match="no frame of camvid can be used"):
        run(root, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out/camvid").exists()


def test_twins_in_two_splits_are_reported(tmp_path):
    root = camvid(tmp_path / "raw")
    shutil.copy(root / "train/f000.png", root / "val/f002.png")
    data = run(root, tmp_path / "out")
    assert data.info.extra["duplicates"] == {
        "frames": 2,
        "examples": [["images/train/f000.png", "images/val/f002.png"]],
    }


def test_hold_out_takes_the_end_of_the_drive(tmp_path):
    for number in range(10):
        photo(tmp_path / f"raw/{number:03d}.jpg", number)
    tree = FolderTree(tmp_path / "raw")
    data, _ = prepare(Images(tree), tmp_path / "out", "raw", PrepareOptions(workers=1, hold_out=0.2))
    assert [frame.image for frame in data.frames("val")] == ["images/val/008.jpg", "images/val/009.jpg"]
    assert data.info.splits == {"train": 8, "val": 2}
    with pytest.raises(IccldError, match=r"hold_out was 0\.2, now 0\.5"):
        prepare(Images(tree), tmp_path / "out", "raw", PrepareOptions(workers=1, hold_out=0.5))


class Stopped(Exception):
    pass


def stopped_at(number):
    def progress(done, total):
        if done == number:
            raise Stopped

    return progress


class Noted(Images):
    """Images that note which frames are read."""

    def __init__(self, tree):
        super().__init__(tree)
        self.read = []

    def load(self, frame):
        self.read.append(frame.image)
        return super().load(frame)


def test_what_is_done_stays_while_the_source_is_away(tmp_path):
    """As where a disk is not mounted, and its folder is empty."""
    for number in range(4):
        photo(tmp_path / f"raw/{number:03d}.jpg", number)
    options, out = PrepareOptions(workers=1), tmp_path / "out"
    with pytest.raises(Stopped):
        prepare(Noted(FolderTree(tmp_path / "raw")), out, "raw", options, stopped_at(3))
    (tmp_path / "raw").rename(tmp_path / "away")
    (tmp_path / "raw").mkdir()
    with pytest.raises(IccldError, match="no images found"):
        prepare(Noted(FolderTree(tmp_path / "raw")), out, "raw", options)
    (tmp_path / "raw").rmdir()
    (tmp_path / "away").rename(tmp_path / "raw")
    source = Noted(FolderTree(tmp_path / "raw"))
    assert prepare(source, out, "raw", options)[1] and len(source.read) == 1
    assert [p.name for p in out.iterdir()] == ["raw"]


def test_an_unfinished_set_of_another_size_is_not_thrown_away(tmp_path):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    (root / "val/f002.png").write_bytes(b"broken")
    with pytest.raises(BadFilesError):
        run(root, out)
    words = r"holds 3 frames of an unfinished set with other options \(size was None, now \[20, 12\]\).*--force"
    with pytest.raises(IccldError, match=words):
        run(root, out, size=(20, 12), skip_bad=True)
    assert run(root, out, skip_bad=True).info.splits == {"test": 1, "train": 2}


def test_frames_that_were_held_out_are_not_made_twice(tmp_path):
    for number in range(10):
        photo(tmp_path / f"raw/{number:03d}.jpg", number)
    options, out = PrepareOptions(workers=1, hold_out=0.3), tmp_path / "out"
    with pytest.raises(Stopped):
        prepare(Noted(FolderTree(tmp_path / "raw")), out, "raw", options, stopped_at(9))
    source = Noted(FolderTree(tmp_path / "raw"))
    data, fresh = prepare(source, out, "raw", options)
    assert fresh and len(source.read) <= 1
    whole, _ = prepare(Images(FolderTree(tmp_path / "raw")), tmp_path / "whole", "raw", options)
    assert same(data.root / "images", whole.root / "images")
    assert (data.root / "index.jsonl").read_bytes() == (whole.root / "index.jsonl").read_bytes()

    with pytest.raises(Stopped):
        prepare(Noted(FolderTree(tmp_path / "raw")), tmp_path / "grown", "raw", options, stopped_at(9))
    for number in range(10, 14):  # now 7 is of `train`
        photo(tmp_path / f"raw/{number:03d}.jpg", number)
    data, _ = prepare(Images(FolderTree(tmp_path / "raw")), tmp_path / "grown", "raw", options)
    assert data.info.splits == {"train": 10, "val": 4}
    for split in ("train", "val"):
        assert all(frame.image.startswith(f"images/{split}/") for frame in data.frames(split))
        assert all((data.root / frame.image).is_file() for frame in data.frames(split))


def test_a_part_with_held_out_frames_is_done_once(tmp_path):
    for number in range(10):
        photo(tmp_path / f"raw/{number:03d}.jpg", number)
    options, out = PrepareOptions(workers=1, hold_out=0.3), tmp_path / "out"
    for number in (1, 2):
        assert prepare_part(Images(FolderTree(tmp_path / "raw")), out, "raw", options, Part(number, 2))[2]
    for number in (1, 2):
        again = Noted(FolderTree(tmp_path / "raw"))
        assert not prepare_part(again, out, "raw", options, Part(number, 2))[2]
        assert not again.read
    data, _ = merge_parts(Images(FolderTree(tmp_path / "raw")), out, "raw", options)
    whole, _ = prepare(Images(FolderTree(tmp_path / "raw")), tmp_path / "whole", "raw", options)
    assert (data.root / "index.jsonl").read_bytes() == (whole.root / "index.jsonl").read_bytes()


def test_two_images_of_one_name(tmp_path):
    photo(tmp_path / "raw/a.jpg")
    photo(tmp_path / "raw/a.png", 1)
    with pytest.raises(IccldError, match="would both become train/a"):
        prepare(Images(FolderTree(tmp_path / "raw")), tmp_path / "out", "raw", PrepareOptions(workers=1))
    assert not (tmp_path / "out").exists()


def test_the_source_is_only_read(tmp_path):
    root = camvid(tmp_path / "raw")
    before = {p: p.stat().st_mtime_ns for p in [root, *root.rglob("*")]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        run(root, tmp_path / "out")
        assert {p: p.stat().st_mtime_ns for p in [root, *root.rglob("*")]} == before
    finally:
        for path in before:
            path.chmod(0o755)


def test_two_runs_on_one_output_refuse_each_other(tmp_path):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".camvid.lock"), pytest.raises(IccldError, match="another run"):
        run(root, out)
    run(root, out)


def test_processes_change_nothing(tmp_path):
    root = camvid(tmp_path / "raw", 30, (12, 20))
    run(root, tmp_path / "one")
    run(root, tmp_path / "two", workers=2)
    assert same(tmp_path / "one/camvid", tmp_path / "two/camvid")
    assert default_workers() >= 1


def test_killed_and_started_again_gives_the_same_bytes(tmp_path):
    """Kill the real command with SIGKILL several times, then let it finish."""
    root = camvid(tmp_path / "raw", 120, (240, 320))
    run(root, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "iccld_cli", "prepare", "--camvid", str(root), "--out", str(out)]
    partial = out / ".camvid.partial"
    kills = 0
    for goal, workers in ((10, 2), (70, 1)):
        process = subprocess.Popen(
            [*command, "--workers", str(workers)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(partial.glob("data/labels/*/*.png"))) >= goal:
                os.kill(process.pid, signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.005)
        assert not list(out.glob("camvid")) or process.returncode == 0
    assert kills >= 1
    run(root, out)
    assert same(tmp_path / "whole/camvid", out / "camvid")
    assert [p.name for p in out.iterdir()] == ["camvid"]


def test_what_is_done_is_not_done_again(tmp_path):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    (root / "train/f001.png").write_bytes(b"broken")
    with pytest.raises(BadFilesError):
        run(root, out)
    done = out / ".camvid.partial/data/images/train/f000.png"
    stamp = done.stat().st_mtime_ns
    (out / ".camvid.partial/data/labels/val/f002.png").write_bytes(b"half")
    photo(root / "train/f001.png", 50, (24, 40))
    seen: list[tuple[int, int]] = []
    data, _ = prepare(CamVid(FolderTree(root)), out, "camvid", PrepareOptions(workers=1), lambda *p: seen.append(p))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert (data.root / "images/train/f000.png").stat().st_mtime_ns == stamp
    assert data.read_label(data.frames("val")[0]).shape == (24, 40)


def test_index_lines_are_sorted_and_readable(tmp_path):
    data = run(camvid(tmp_path / "raw", 8), tmp_path / "out")
    lines = [json.loads(line) for line in (data.root / "index.jsonl").read_text().splitlines()]
    keys = [(line["split"], line["image"]) for line in lines]
    assert keys == sorted(keys)
    assert sum(sum(line["pixels"].values()) for line in lines) == 8 * 24 * 40


def test_what_is_no_scene_is_ignored_in_labels_and_recorded(tmp_path):
    root, region = camvid(tmp_path / "raw"), np.zeros((24, 40), np.uint8)
    region[18:] = 255
    cv2.imwrite(str(tmp_path / "region.png"), region)
    plain = run(root, tmp_path / "plain")
    found = run(root, tmp_path / "out", ignore=tmp_path / "region.png")
    for before, frame in zip(plain.frames("train"), found.frames("train"), strict=True):
        label, was = found.read_label(frame), plain.read_label(before)
        assert (label[18:] == 255).all()
        assert (label[:18] == was[:18]).all()
        assert (found.ignored(frame) == (region > 0)).all()
        assert frame.pixels[255] == int((label == 255).sum())
        assert plain.ignored(before) is None
    assert found.info.extra["ignored_share"] == 0.25
    assert run(root, tmp_path / "out", ignore=tmp_path / "region.png").digest == found.digest
    with pytest.raises(IccldError, match=r"ignore_mask was .*, now None"):
        run(root, tmp_path / "out")
    with pytest.raises(IccldError, match="is not the shape of a frame"):
        cv2.imwrite(str(tmp_path / "region.png"), region[:, :20])
        run(root, tmp_path / "other", ignore=tmp_path / "region.png")


def test_the_region_is_stretched_as_the_frames_are(tmp_path):
    root, region = camvid(tmp_path / "raw"), np.zeros((24, 40), np.uint8)
    region[18:, :20] = 255
    cv2.imwrite(str(tmp_path / "region.png"), region)
    found = run(root, tmp_path / "out", size=(32, 32), ignore=tmp_path / "region.png")
    for frame in found.frames("train"):
        ignored = found.ignored(frame)  # what training reads
        assert ignored.shape == (32, 32)
        assert ignored[24:, :16].all() and ignored.sum() == 8 * 16
        assert (found.read_label(frame)[ignored] == 255).all()


def moving_frames(folder, count, height=60, width=80):
    """Frames of a drive behind a bonnet that never moves."""
    folder.mkdir()
    random = np.random.default_rng(0)
    world = cv2.resize(random.integers(0, 255, (12, 200, 3), dtype=np.uint8), (width * 8, height))
    for number in range(count):
        frame = world[:, 9 * number : 9 * number + width].copy()
        frame[48:] = (30, 40, 50)
        frame[47:49] = 255
        cv2.imwrite(str(folder / f"{number:03d}.png"), frame)
    return folder


def test_what_never_moves_is_found_once(tmp_path):
    raw = moving_frames(tmp_path / "raw", 12)
    source = lambda: Images(FolderTree(raw))  # noqa: E731
    options = PrepareOptions(ignore="auto")
    found, fresh = prepare(source(), tmp_path / "out", "drive", options)
    assert fresh
    frame = found.frames("train")[0]
    assert found.ignored(frame)[52:].all()
    assert not found.ignored(frame)[:40].any()
    assert prepare(source(), tmp_path / "out", "drive", options)[1] is False
