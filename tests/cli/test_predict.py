"""`iccld predict` through the command itself: what it leaves on disk and what it says."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from iccld_cli import shipped
from iccld_cli.checkpoint import check_segmenter, load_segmenter, save_segmenter
from iccld_cli.inference.images import read_image
from iccld_cli.inference.model import SHIPPED_MODELS, find_model, load_model

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_model, make_video, scene

REAL = os.environ.get("ICCLD_REAL_DATA")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {stage: make_model(folder / f"{stage}.safetensors", stage) for stage in ("stage1", "stage2")}


@pytest.fixture
def photos(tmp_path):
    """Three images of two sizes in a small tree."""
    for i, (name, size) in enumerate((("a.png", (64, 48)), ("sub/b.jpg", (61, 45)), ("sub/c.jpg", (61, 45)))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scene(i, *size)[0][..., ::-1])
    return tmp_path / "photos"


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folder_tree_and_names_are_kept(iccld, models, photos, tmp_path):
    out = tmp_path / "out"
    status, said, _ = iccld("predict", photos, "--ckpt", models["stage2"], "--out", out, "--save", "overlay,labels")
    assert status == 0
    assert "3 images in" in said
    assert files(out) == [
        "labels/a.png",
        "labels/sub/b.png",
        "labels/sub/c.png",
        "overlay/a.png",
        "overlay/sub/b.jpg",
        "overlay/sub/c.jpg",
    ]
    labels = cv2.imread(str(out / "labels/sub/b.png"), cv2.IMREAD_UNCHANGED)
    assert (labels == load_model(models["stage2"]).segment(read_image(photos / "sub/b.jpg")[None]).labels[0]).all()


def test_every_kind(iccld, models, photos, tmp_path):
    out, kinds = tmp_path / "out", "overlay,labels,color,confidence,uncertainty"
    status, *_ = iccld(
        "predict", photos / "a.png", "--ckpt", models["stage2"], "--out", out, "--save", kinds, "--samples", 2
    )
    assert status == 0
    assert files(out) == [f"{k}/a.png" for k in sorted(kinds.split(","))]
    read = {k: cv2.imread(str(out / k / "a.png"), cv2.IMREAD_UNCHANGED) for k in kinds.split(",")}
    assert all(picture.shape[:2] == (48, 64) and picture.dtype == np.uint8 for picture in read.values())
    assert read["color"].ndim == read["overlay"].ndim == 3
    assert read["confidence"].min() >= 255 // 19 - 1


def test_video(iccld, models, tmp_path):
    video, out = make_video(tmp_path / "drive.mp4", frames=9, size=(95, 63)), tmp_path / "out"
    status, said, _ = iccld(
        "predict", video, "--ckpt", models["stage2"], "--out", out, "--save", "overlay,labels", "--batch-size", 4
    )
    assert status == 0
    assert "9 video frames" in said
    assert files(out) == [*(f"labels/drive/{i:06d}.png" for i in range(9)), "overlay/drive.mp4"]
    with av.open(str(out / "overlay/drive.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate, stream.width, stream.height) == (9, 25, 96, 64)
    assert cv2.imread(str(out / "labels/drive/000003.png"), -1).shape == (63, 95)


def test_height_changes_the_work_but_not_the_size(iccld, models, photos, tmp_path):
    out = tmp_path / "out"
    status, *_ = iccld(
        "predict", photos / "a.png", "--ckpt", models["stage1"], "--out", out, "--save", "labels", "--height", 32
    )
    assert status == 0
    assert cv2.imread(str(out / "labels/a.png"), -1).shape == (48, 64)


def test_the_height_is_the_trained_one_by_default(iccld, models, photos, tmp_path):
    segmenter, header = load_segmenter(models["stage2"])
    model = tmp_path / "model/m.safetensors"
    save_segmenter(model, segmenter, dataclasses.replace(header, height=96))
    found = {}
    command = ("predict", photos / "a.png", "--ckpt", model.parent, "--save", "confidence", "--backend", "torch")
    for name in ("default", "96", "own", "0"):
        status, *_ = iccld(*command, "--out", tmp_path / name, *(() if name == "default" else ("--height", name)))
        assert status == 0
        found[name] = (tmp_path / name / "confidence/a.png").read_bytes()
    assert found["default"] == found["96"] != found["own"] == found["0"]
    for wrong in ("31", "tall", "-5", "99999999"):
        assert iccld("predict", photos, "--ckpt", model, f"--height={wrong}")[0] == 2


def test_existing_results_are_kept_unless_told(iccld, models, photos, tmp_path):
    command = ("predict", photos, "--ckpt", models["stage1"], "--out", tmp_path / "out")
    assert iccld(*command)[0] == 0
    before = (tmp_path / "out/overlay/a.png").stat().st_mtime_ns
    status, _, err = iccld(*command)
    assert status == 1
    assert "overlay/a.png exists" in err
    (tmp_path / "out/overlay/sub/b.jpg").unlink()
    status, said, _ = iccld(*command, "--skip-existing")
    assert (status, "1 image in" in said, "2 inputs left out" in said) == (0, True, True)
    assert (tmp_path / "out/overlay/a.png").stat().st_mtime_ns == before
    assert iccld(*command, "--overwrite")[0] == 0
    assert (tmp_path / "out/overlay/a.png").stat().st_mtime_ns > before


def test_a_bad_image_does_not_stop_the_others(iccld, models, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no image")
    status, said, err = iccld("predict", photos, "--ckpt", models["stage1"], "--out", tmp_path / "out")
    assert status == 1
    assert "3 images in" in said
    assert err.count("\n") == 1
    assert "bad.jpg is not an image" in err
    assert len(files(tmp_path / "out")) == 3


def test_a_video_cut_off_is_predicted_as_far_as_it_goes(iccld, models, tmp_path):
    assert iccld("predict", make_video(tmp_path / "v.mp4", 30), "--ckpt", models["stage1"], "--out", tmp_path)[0] == 0
    whole = tmp_path / "overlay/v.mp4"  # written with its index in front, so it can be cut
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    status, _, err = iccld("predict", cut, "--ckpt", models["stage1"], "--out", tmp_path / "out")
    assert status == 1
    with av.open(str(tmp_path / "out/overlay/cut.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert 0 < frames < 30
    assert f"damaged or cut off, {frames} of 30 frames could be decoded" in err
    assert files(tmp_path / "out") == ["overlay/cut.mp4"]


def test_an_unreadable_video_leaves_nothing(iccld, models, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing" * 100)
    status, _, err = iccld("predict", tmp_path / "x.mp4", "--ckpt", models["stage1"], "--out", tmp_path / "out")
    assert status == 1
    assert "is not a video that can be read" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["gone.jpg"], "no file or folder at gone.jpg"),
        (["PHOTO", "--ckpt", "gone.safetensors"], "no model file at gone.safetensors"),
        (["PHOTO", "--device", "cuda:99"], "CUDA"),
        (["PHOTO", "--steps", "2"], "no denoising UNet"),
    ],
)
def test_wrong_use_is_one_line(iccld, models, photos, tmp_path, options, words):
    options = [str(photos / "a.png") if o == "PHOTO" else o for o in options]
    defaults = [] if "--ckpt" in options else ["--ckpt", models["stage1"]]
    status, _, err = iccld("predict", *options, *defaults, "--out", tmp_path / "out")
    assert status == 1
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_kind_is_wrong_usage(iccld, models, photos, tmp_path):
    assert iccld("predict", photos, "--ckpt", models["stage1"], "--save", "pictures")[0] == 2


def test_without_a_model_the_option_is_named(iccld, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path,))
    status, _, err = iccld("predict", photos, "--out", tmp_path / "out")
    assert status == 1
    assert "--ckpt" in err


def test_without_a_name_the_shipped_model_is_used_and_named(iccld, models, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path / "none", tmp_path))
    shutil.copy(models["stage2"], tmp_path / "iccld-small.safetensors")
    for name, options in {"shipped": [], "named": ["--ckpt", models["stage2"]]}.items():
        status, _, err = iccld("predict", photos, "--out", tmp_path / name, "--save", "color", *options)
        assert status == 0
        assert ("iccld-small.safetensors" in err) == (name == "shipped")
    written = sorted(p.relative_to(tmp_path / "named") for p in (tmp_path / "named").rglob("*.png"))
    assert written
    for path in written:
        assert (tmp_path / "shipped" / path).read_bytes() == (tmp_path / "named" / path).read_bytes()


def test_a_result_never_replaces_its_input(iccld, models, tmp_path):
    path = tmp_path / "overlay/a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), scene(0, 64, 48)[0])
    status, _, err = iccld("predict", path, "--ckpt", models["stage1"], "--out", tmp_path, "--overwrite")
    assert status == 1
    assert "replace its input" in err


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_an_interrupt_finishes_the_video_under_another_name(models, tmp_path):
    video, out = make_video(tmp_path / "long.mp4", frames=600, size=(160, 96)), tmp_path / "out"
    command = [sys.executable, "-m", "iccld_cli", "predict", video, "--ckpt", models["stage2"], "--out", out]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        until = time.monotonic() + 120
        while not list(out.rglob("work/*.mp4")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert files(out) == [".predict/journal.jsonl", "overlay/long.partial.mp4"]
    with av.open(str(out / "overlay/long.partial.mp4")) as container:
        assert 0 < sum(1 for _ in container.decode(video=0)) < 600


@pytest.mark.skipif(REAL is None, reason="ICCLD_REAL_DATA is not set")
def test_real_dashcam_video(iccld, models, tmp_path):
    video = Path(str(REAL)) / "dashcam/solidWhiteRight.mp4"
    status, said, _ = iccld(
        "predict", video, "--ckpt", models["stage2"], "--out", tmp_path, "--height", 135, "--limit", 10
    )
    assert status == 0
    assert "10 video frames" in said
    with av.open(str(tmp_path / "overlay/solidWhiteRight.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames, stream.average_rate) == (960, 540, 10, 25)


def test_a_shipped_model_by_its_name_whatever_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in SHIPPED_MODELS.items():
        assert find_model(name).name == file
        header = check_segmenter(find_model(name))
        assert header.working_height == 360
    (tmp_path / "roads").write_bytes(b"own")
    assert find_model("roads").name == "iccld-roads.safetensors"
    assert find_model(None).name == "iccld-small.safetensors"
