"""`iccld prepare` and `iccld inspect` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.prepare.adapters.virtual import VirtualTown


def iccld(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "iccld_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def refused(*arguments: str | Path) -> str:
    """The one line of an error a user can act on."""
    done = iccld(*arguments)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    return lines[-1]


def picture(path: Path, seed: int = 0) -> None:
    """An image of noise, 40x24."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 40, 3)).astype(np.uint8)).save(path)


def camvid(root: Path) -> Path:
    """A tiny CamVid."""
    for seed, split in enumerate(("train", "train", "val", "test")):
        picture(root / split / f"f{seed}.png", seed)
        label = root / f"{split}annot" / f"f{seed}.png"
        label.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 12, (24, 40)).astype(np.uint8)).save(label)
    return root


def carla(root: Path) -> Path:
    """A tiny CARLA recording of the Lyft kind."""
    picture(root / "CameraRGB/0.png", 7)
    tags = np.full((24, 40, 3), 7, np.uint8)
    tags[:12, :13, 0] = np.arange(13)
    (root / "CameraSeg").mkdir()
    Image.fromarray(tags).save(root / "CameraSeg/0.png")
    return root


def test_several_sets_in_one_run_and_inspect(tmp_path):
    raw = [f"--camvid={camvid(tmp_path / 'c')}", f"--carla={carla(tmp_path / 'k')}", "--workers=1"]
    done = iccld("prepare", *raw, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data/carla: train 1" in done.stdout
    assert "data/camvid: test 1, train 2, val 1" in done.stdout
    assert "traffic sign" in done.stdout
    assert "already prepared" in iccld("prepare", *raw, cwd=tmp_path).stdout

    report = tmp_path / "report.json"
    done = iccld("inspect", tmp_path / "data/carla", tmp_path / "data/camvid", "--json", report)
    assert done.returncode == 0, done.stderr
    assert "10 classes are scored: road, sidewalk, building" in done.stdout
    assert "camvid does not distinguish some classes; they are trained as others: wall as building" in " ".join(
        done.stdout.split()
    )
    assert "rider is unknown to the source carla" in done.stdout
    found = json.loads(report.read_text())
    assert len(found["scored"]) == 10
    assert found["data"][1]["sizes"] == [{"size": [40, 24], "frames": 4}]


def test_bad_files_are_listed_with_the_way_out(tmp_path):
    root = camvid(tmp_path / "c")
    (root / "trainannot/f0.png").unlink()
    (root / "val/f2.png").write_bytes(b"nothing")
    out = tmp_path / "data"
    line = refused("prepare", "--camvid", root, "--out", out)
    assert "2 of 4 frames of camvid cannot be used" in line
    assert "--skip-bad" in line
    assert not (out / "camvid").exists()
    assert iccld("prepare", "--camvid", root, "--out", out, "--skip-bad").returncode == 0
    skipped = PreparedDataset(out / "camvid").info.skipped
    assert [entry["file"] for entry in skipped] == ["trainannot/f0.png", "val/f2.png"]


def test_mistakes_in_one_line(tmp_path):
    out = tmp_path / "data"
    assert "does not exist" in refused("prepare", "--gta5", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "no images found" in refused("prepare", "--images", tmp_path / "empty", "--out", out)
    assert "expected RGB/" in refused("prepare", "--synthia", tmp_path / "empty", "--out", out)
    assert "no prepared data set" in refused("inspect", tmp_path / "none")
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--images", ".", "--size", "512"],
        ["--images", ".", "--masks", "a", "--masks", "b"],
        ["--images", ".", "--label-map", "a.toml"],
        ["--camvid", ".", "--set", "camvid"],
        ["--camvid", ".", "--set", "camvit.x=1"],
        ["--camvid", ".", "--kitti", ".", "--name", "one"],
        ["--virtual", "0"],
        ["--virtual-drive", "1"],
        ["--kinds", "urban"],
        ["--light", "day"],
        ["--rain", "0"],
        ["--virtual", "1", "--rain", "1.5"],
    ],
)
def test_wrong_usage(tmp_path, arguments):
    assert iccld("prepare", *arguments, cwd=tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


def test_own_images_with_masks_and_a_label_map(tmp_path):
    picture(tmp_path / "rgb/a.png")
    (tmp_path / "seg").mkdir()
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) % 2, (24, 1))).save(tmp_path / "seg/a.png")
    (tmp_path / "map.toml").write_text('[ids]\n0 = "road"\n1 = "sky"\n')
    arguments = ["--images", "rgb", "--masks", "seg", "--label-map", "map.toml", "--name", "mine", "--size", "20x12"]
    done = iccld("prepare", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    info = PreparedDataset(tmp_path / "data/mine").info
    assert (info.classes_known, info.size) == (("road", "sky"), (20, 12))


def test_the_virtual_town(tmp_path):
    out = tmp_path / "data"
    arguments = ["--virtual", "2", "--look", "game", "--size", "64x32", "--out", out]
    done = iccld("prepare", *arguments, "--virtual-drive", "0.1")
    assert done.returncode == 0, done.stderr
    data = PreparedDataset(out / "virtual-game")
    assert data.info.splits == {"train": 2}
    assert data.read_label(data.frames("train")[0]).shape == (32, 64)
    assert (data.root / "drive.mp4").stat().st_size > 0
    assert "has no look 'gamer'" in refused("prepare", "--virtual", "2", "--look", "gamer", "--out", out)


def test_shares_of_the_virtual_town(tmp_path):
    out = tmp_path / "data"
    town = ["prepare", "--virtual", "2", "--size", "32x16", "--out", out]
    done = iccld(*town, "--look", "game", "--kinds", "motorway:1,country:3")
    assert done.returncode == 0, done.stderr
    options = PreparedDataset(out / "virtual-game").info.source["options"]
    assert options["kinds"] == {"motorway": 0.25, "country": 0.75}
    assert "kinds was" in refused(*town, "--look", "game")
    assert "did you mean 'country'" in refused(*town, "--kinds", "contry")
    assert "no effect on the look game" in refused(*town, "--look", "game", "--light", "night")
    assert "never rains" in refused(*town, "--look", "game", "--rain", "0.5")


def test_a_target_look_has_splits_of_other_places():
    frames = list(VirtualTown("camera", 40, (64, 32), 0).scan())
    assert Counter(frame.split for frame in frames) == {"train": 40, "val": 10, "test": 10}
    assert len({frame.image for frame in frames}) == 60
    assert Counter(f.split for f in VirtualTown("camera", 2, (64, 32), 0).scan())["val"] == 8


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupt_keeps_what_is_done(tmp_path):
    for number in range(1500):
        picture(tmp_path / f"trip/{number:04d}.png", number) if number < 40 else os.link(
            tmp_path / f"trip/{number % 40:04d}.png", tmp_path / f"trip/{number:04d}.png"
        )
    out = tmp_path / "data"
    command = [sys.executable, "-m", "iccld_cli", "prepare", "--images", str(tmp_path / "trip"), "--out", str(out)]
    process = subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob(".trip.partial/data/images/train/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert (out / ".trip.partial/journal.sqlite").exists()


def test_help_needs_no_heavy_library():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from iccld_cli.cli.app import app\n"
        "assert CliRunner().invoke(app, ['prepare', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'av', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
