"""`iccld adapt`: footage in, model out."""

import html
import io
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

from iccld_cli import adapt_footage
from iccld_cli.__main__ import main
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.adapt.stage2 import Stage2
from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.data.prepared import DatasetInfo, PreparedDataset
from iccld_cli.footage import training
from iccld_cli.footage.choice import Judged, choice, learnt_before, reason
from iccld_cli.footage.frames import choose_frames
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.inference.along_flow import flow_consistency
from iccld_cli.inference.model import load_model
from iccld_cli.inference.video import VideoReader
from iccld_cli.labels import CITYSCAPES
from iccld_cli.models.build import build_segmenter
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.adapters.video import Video
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree
from iccld_cli.train.state import list_states

CLASSES = tuple(range(19))


def street(seed, size=(64, 96)):
    """A picture with structure, another for each seed."""
    random = np.random.default_rng(seed)
    small = random.integers(40, 220, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def folder_of(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(path / f"{number:03d}.png"), picture)
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory, small_config):
    """A stage-1 model, small and untrained."""
    config = small_config("data.crop=[64,64]", "data.batch_size=2", "data.workers=0")
    path = tmp_path_factory.mktemp("start") / "stage1.safetensors"
    header = ModelHeader("stage1", config, CITYSCAPES, CLASSES, [], 1, {}, height=64)
    save_segmenter(path, build_segmenter(config, 19, denoiser=False, seed=0), header)
    return path


@pytest.fixture
def iccld(monkeypatch, capsys, tmp_path):
    """A function: arguments -> (exit status, output, errors); the town is tiny and rendered once."""
    monkeypatch.setattr(training, "TOWN_FRAMES", 4)
    monkeypatch.setattr(training, "TOWN_SIZE", (96, 64))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["iccld", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_frames_are_chosen_for_variety(tmp_path):
    still = street(1)
    noise = np.random.default_rng(3).integers(0, 9, (64, 96, 3), dtype=np.uint8)  # `prepare` refuses a single colour
    dark, blank = noise, 120 + noise
    pictures = [
        street(0),
        still,
        still,
        np.clip(still.astype(int) + 1, 0, 255).astype(np.uint8),
        dark,
        blank,
        street(2),
    ]
    source = Images(FolderTree(folder_of(tmp_path / "raw", pictures)))
    dataset, _ = prepare(source, tmp_path / "data", "raw", PrepareOptions(skip_bad=True))
    kept, left_out = choose_frames(dataset, 10)
    assert kept == [0, 1, 6]
    assert left_out == Counter({"as the one before": 2, "dark": 1, "blank": 1})
    kept, left_out = choose_frames(dataset, 2)
    assert len(kept) == 2 and kept[0] == 0
    assert left_out["like others"] == 1


def test_a_capped_choice_takes_the_frame_least_like_the_others(tmp_path):
    near = [np.clip(street(0).astype(int) + 4 * i, 0, 255).astype(np.uint8) for i in range(3)]
    source = Images(FolderTree(folder_of(tmp_path / "raw", [*near, street(5)])))
    dataset, _ = prepare(source, tmp_path / "data", "raw", PrepareOptions())
    assert choose_frames(dataset, 2)[0] == [0, 3]


def test_footage_becomes_a_model_and_a_page(iccld, start, tmp_path):
    raw = folder_of(tmp_path / "my road", [street(i) for i in range(5)])
    out = tmp_path / "out"
    command = ("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "2", "--predict")
    status, said, err = iccld(*command)
    assert status == 0, said + err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == 5 and summary["iterations"] == 2
    assert summary["start"].startswith("stage1.safetensors ") and len(summary["start"].split()[1]) == 64
    assert summary["chosen"] in ("start", "adapted", "average")
    assert set(summary["judged"]) == {"start", "adapted", "average"}
    assert PreparedDataset(out / "data/my-road").info.splits == {"train": 5}
    model = load_model(out / "model.safetensors")
    assert model.header.classes == CLASSES
    page = (out / "index.html").read_text()
    assert "before" in page and "my-road" not in page.split("<body")[0]
    assert len(list((out / "predictions").rglob("*.jpg")) + list((out / "predictions").rglob("*.png"))) == 5
    before, adapted, average = (
        load_segmenter(p)[0].state_dict()
        for p in (start, out / "runs/adapted/stage1.safetensors", out / "runs/average.safetensors")
    )
    moved = [name for name, value in before.items() if value.is_floating_point() and not value.equal(adapted[name])]
    assert moved
    for name in moved:
        assert np.allclose(average[name], (before[name] + adapted[name]) / 2, atol=1e-6)

    assert not (out / "looked-at").exists()  # as large as the footage itself
    digest = (out / "model.safetensors").read_bytes()
    log = (out / "runs/adapted/log.jsonl").read_bytes()
    assert iccld(*command)[0] == 0  # goes on: nothing is trained again
    assert (out / "runs/adapted/log.jsonl").read_bytes() == log
    assert (out / "model.safetensors").read_bytes() == digest
    status, _, err = iccld(*command[:-2], "3", "--predict")
    assert status == 1 and "other options (iterations)" in err


def drive(path, frames=80, step=1, fps=25):
    """A video of a window that moves over a picture."""
    noise = np.random.default_rng(3).integers(0, 256, (16, 64, 3)).astype(np.uint8)
    picture = cv2.resize(noise, (96 + frames * step, 64), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            view = np.ascontiguousarray(picture[:, i * step : i * step + 96])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        out.mux(stream.encode())
    return path


def test_answers_are_followed_along_a_video_and_a_prepared_set(iccld, start, tmp_path):
    clip, out = drive(tmp_path / "clip.mp4"), tmp_path / "out"
    command = ("adapt", clip, "--out", out, "--ckpt", start, "--iterations", "1", "--to-label", "0")
    status, said, err = iccld(*command)
    assert status == 0, said + err
    assert PreparedDataset(out / "data/clip").info.splits == {"train": 7}  # two a second, none of the followers
    pairs = PreparedDataset(out / "pairs/clip")
    assert [Path(frame.image).stem for frame in pairs.frames("train")][:4] == ["00_0", "00_1", "01_0", "01_1"]
    with VideoReader(clip) as reader:
        frames = np.stack([frame.image for frame in reader.frames()]).astype(int)
    shown = [pairs.read_image(frame) for frame in pairs.frames("train")]
    assert [int(np.abs(frames - image).mean(axis=(1, 2, 3)).argmin()) for image in shown[:4]] == [0, 1, 13, 14]
    judged = json.loads((out / "summary.json").read_text())["judged"]
    for one in judged.values():
        assert one["flow"]["pairs"] == 6 and 0 < one["flow"]["agreement"] <= 100
        assert one["flow"]["left_out"] is None and one["flow"]["visible"] > 80
    assert judged["start"]["flow"] == flow_consistency(load_model(start), pairs, "train").to_json()
    page = (out / "index.html").read_text()
    assert "flow consistency, %" in page and "(6 pairs)" in page
    assert f"{judged['start']['flow']['agreement']:.1f}" in page

    # A prepared set whose frames follow each other, and one input that has no neighbours.
    every, _ = prepare(Video(clip, 25), tmp_path / "data", "every", PrepareOptions())
    single = folder_of(tmp_path / "other", [street(i) for i in range(3)])
    several = ("adapt", every.root, single, "--out", tmp_path / "several", *command[4:])
    status, said, err = iccld(*several)
    assert status == 0, said + err
    found = json.loads((tmp_path / "several/summary.json").read_text())["judged"]["start"]["flow"]
    assert found["pairs"] == 15 and found["left_out"] is None
    assert found == flow_consistency(load_model(start), every, "train", most=15).to_json()


def test_where_no_two_frames_follow_each_other_nothing_is_measured(iccld, start, tmp_path):
    raw = folder_of(tmp_path / "raw", [street(0), street(1)])
    for path, name in zip(sorted(raw.iterdir()), ("here_next", "there"), strict=True):
        path.rename(raw / f"{name}.png")
    slow = drive(tmp_path / "slow.mp4", frames=8, step=12, fps=2)
    out = tmp_path / "out"
    command = ("adapt", raw, slow, "--out", out, "--ckpt", start, "--iterations", "1", "--to-label", "0")
    status, said, err = iccld(*command)
    assert status == 0, said + err
    assert PreparedDataset(out / "data/raw").info.splits == {"train": 2}
    for one in json.loads((out / "summary.json").read_text())["judged"].values():
        assert one["flow"]["agreement"] is None and one["flow"]["pairs"] == 0
        assert "too few frames a second" in one["flow"]["left_out"]
    page = (out / "index.html").read_text()
    assert "Flow consistency was not measured: no two frames are of one video" in page

    record = json.loads((out / "adapt.json").read_text())
    (out / "adapt.json").write_text(json.dumps(record | {"pairs": [{"root": 7}]}))
    status, _, err = iccld(*command)
    assert status == 1 and "adapt.json is damaged" in err


@pytest.fixture(scope="module")
def with_unet(tmp_path_factory, small_config):
    """A stage-2 model, small and untrained."""
    config = small_config("data.crop=[64,64]", "data.batch_size=2", "data.workers=0")
    path = tmp_path_factory.mktemp("start") / "stage2.safetensors"
    header = ModelHeader("stage2", config, CITYSCAPES, CLASSES, [], 1, {}, height=64)
    save_segmenter(path, build_segmenter(config, 19, denoiser=True, seed=1), header)
    return path


def weights(path):
    return load_segmenter(path)[0].state_dict()


def interrupted_at(monkeypatch, stage, number):
    """Ctrl-C while a stage takes its step `number`."""
    took = stage.step

    def step(self, at, batch):
        if at == number:
            os.kill(os.getpid(), signal.SIGINT)
        return took(self, at, batch)

    monkeypatch.setattr(stage, "step", step)


@pytest.mark.parametrize("name", ["start", "with_unet"])
def test_both_stages_go_on_after_an_interrupt_in_either(name, iccld, tmp_path, monkeypatch, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    ckpt = request.getfixturevalue(name)
    raw, out, whole = folder_of(tmp_path / "raw", [street(i) for i in range(3)]), tmp_path / "out", tmp_path / "whole"
    options = ("--ckpt", ckpt, "--iterations", "6", "--to-label", "0", "--stage-2")
    status, said, err = iccld("adapt", raw, "--out", whole, *options)
    assert status == 0, said + err
    for stage, folder, steps in ((Stage1, "adapted", 3), (Stage2, "stage2", 1)):
        with monkeypatch.context() as patch:
            interrupted_at(patch, stage, steps)
            assert iccld("adapt", raw, "--out", out, *options)[0] == 130
        states = list_states(out / "runs" / folder)
        assert states and states[-1].step == steps + 1
        assert not (out / "model.safetensors").exists()
    status, said, err = iccld("adapt", raw, "--out", out, *options)
    assert status == 0, said + err
    one, other = (weights(run / "runs/stage2/stage2.safetensors") for run in (out, whole))
    assert all(value.equal(other[key]) for key, value in one.items())

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["iterations"], summary["iterations_stage2"]) == (6, 3)
    assert list(summary["judged"]) == ["start", "adapted", "average", "stage2"]
    files = {"start": ckpt, "average": out / "runs/average.safetensors"}
    files |= {
        run: out / f"runs/{run}/{file}.safetensors" for run, file in (("adapted", "stage1"), ("stage2", "stage2"))
    }
    assert (out / "model.safetensors").read_bytes() == files[summary["chosen"]].read_bytes()
    page = (out / "index.html").read_text()
    assert "6 steps of stage 1 and 3 of stage 2" in page and ">stage 2" in page

    begun, adapted = weights(out / "runs/begin-stage2.safetensors"), weights(files["adapted"])
    assert all(begun[key].equal(value) for key, value in adapted.items())
    unet = [key for key in one if key.startswith("denoiser.")]
    assert unet
    if name == "with_unet":
        assert all(begun[key].equal(value) for key, value in weights(ckpt).items() if key in unet)
        assert any(not begun[key].equal(one[key]) for key in unet)
    else:
        assert not any(key.startswith("denoiser.") for key in begun)
    config = load_segmenter(out / "runs/stage2/stage2.safetensors")[1].config
    base = load_segmenter(ckpt)[1].config
    assert config.optim.lr == pytest.approx(training.RATE * base.optim.lr)
    assert config.adv.unet_lr == pytest.approx((training.RATE if name == "with_unet" else 1) * base.adv.unet_lr)

    status, _, err = iccld("adapt", raw, "--out", out, *options[:-1])
    assert status == 1 and "other options (stage2)" in err


@pytest.mark.usefixtures("iccld")
def test_a_third_of_the_minutes_that_are_left_is_for_stage_2(start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_PROBE_STEPS", 4)
    monkeypatch.setattr(training, "_FEWEST", 3)
    raw, out = folder_of(tmp_path / "raw", [street(i) for i in range(3)]), tmp_path / "out"
    console = Console(file=io.StringIO(), width=200)
    summary = adapt_footage(raw, out, ckpt=start, minutes=0.0006, to_label=0, stage2=True, console=console)
    told = console.file.getvalue()  # answering takes longer than these minutes, and training has half of them
    assert "3 steps in 0.0002 minutes" in told and "3 steps in 0.0001 minutes" in told  # no training takes fewer steps
    recorded = json.loads((out / "adapt.json").read_text())
    for key in ("iterations", "iterations_stage2"):
        assert recorded[key] == summary[key] == 3
    assert recorded["answered"] == summary["answered"] == 3 and recorded["answer_seconds"] > 0
    assert not (out / "runs/probe").exists()


def test_minutes_become_steps_once(iccld, start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_IN_TRAINING", 0.2)
    raw, out = folder_of(tmp_path / "raw", [street(i) for i in range(3)]), tmp_path / "out"
    command = ("adapt", raw, "--out", out, "--ckpt", start, "--minutes", "0.1")
    assert iccld(*command)[0] == 0
    steps = json.loads((out / "summary.json").read_text())["iterations"]
    assert steps >= 20
    recorded = json.loads((out / "adapt.json").read_text())
    assert recorded["iterations"] == steps
    assert not (out / "runs/probe").exists()


@pytest.mark.parametrize(
    ("judged", "chosen"),
    [
        ({"start": (0.9, None), "adapted": (0.92, None), "average": (0.95, None)}, "adapted"),
        ({"start": (0.9, None), "adapted": (0.905, None), "average": (0.9, None)}, "average"),
        ({"start": (0.9, None), "adapted": (0.88, None), "average": (0.87, None)}, "average"),
        ({"start": (0.9, None), "adapted": (0.85, None), "average": (0.88, None)}, "average"),
        ({"start": (0.9, None), "adapted": (0.85, None), "average": (0.8, None)}, "start"),
        ({"start": (0.9, 50.0), "adapted": (0.1, 52.0), "average": (0.9, 51.0)}, "adapted"),
        ({"start": (0.9, 50.0), "adapted": (0.9, 49.0), "average": (0.9, 50.0)}, "start"),
        ({"start": (0.9, None), "adapted": (0.93, None), "average": (0.9, None), "stage2": (0.92, None)}, "stage2"),
        ({"start": (0.9, None), "adapted": (0.93, None), "average": (0.9, None), "stage2": (0.9, None)}, "adapted"),
        ({"start": (0.9, None), "adapted": (0.93, None), "average": (0.9, None), "stage2": (0.88, None)}, "adapted"),
        ({"start": (0.9, None), "adapted": (0.87, None), "average": (0.9, None), "stage2": (0.85, None)}, "average"),
        ({"start": (0.9, None), "adapted": (0.97, None), "average": (0.9, None), "stage2": (0.92, None)}, "adapted"),
        ({"start": (0.9, None), "adapted": (0.7, None), "average": (0.8, None), "stage2": (0.87, None)}, "start"),
        ({"start": (0.9, 50.0), "adapted": (0.9, 52.0), "average": (0.9, 50.0), "stage2": (0.1, 53.0)}, "stage2"),
        ({"start": (0.9, 50.0), "adapted": (0.9, 52.0), "average": (0.9, 50.0), "stage2": (0.9, 51.0)}, "adapted"),
    ],
)
def test_the_choice(judged, chosen):
    assert choice({name: Judged(score, 0.9, miou) for name, (score, miou) in judged.items()}) == chosen


@pytest.mark.parametrize(
    ("scores", "miou", "chosen"),
    [
        ((0.9, 0.85, 0.89), None, "adapted"),  # less sure is no harm where labels were learnt
        ((0.9, 0.5, 0.89), None, "average"),
        ((0.9, 0.5, 0.4), None, "start"),
        ((0.9, 0.9, 0.9), (50.0, 40.0, 45.0), "start"),  # labels of --val have the last word
    ],
)
def test_a_model_that_was_taught_labels_is_kept_unless_it_has_broken(scores, miou, chosen):
    names = ("start", "adapted", "average")
    judged = {
        name: Judged(score, 0.9, None if miou is None else one)
        for name, score, one in zip(names, scores, miou or scores, strict=True)
    }
    assert choice(judged, taught=True) == chosen


@pytest.mark.parametrize(
    ("taught", "miou", "chosen"),
    [(False, None, "start"), (True, None, "adapted"), (False, (50.0, 52.0, 51.0), "adapted")],
)
def test_a_start_that_has_learnt_this_footage_is_kept_unless_labels_speak(taught, miou, chosen):
    """Its score without labels rose by .018 and .009 where it lost a point (benchmarks/RESULTS.md)."""
    names = ("start", "adapted", "average")
    scores = zip(names, (0.85, 0.87, 0.86), miou or (None,) * 3, strict=True)
    judged = {name: Judged(score, 0.9, one) for name, score, one in scores}
    assert choice(judged, taught=taught, again=True) == chosen
    assert ("before" in reason(judged, chosen, taught, again=True)) == (chosen == "start")


def test_footage_that_was_learnt_before_is_known_again(iccld, start, tmp_path):
    pictures = [street(i) for i in range(3)]
    raw = folder_of(tmp_path / "raw", pictures)
    again = "has learnt this footage already"
    status, said, err = iccld("adapt", raw, "--out", tmp_path / "one", "--ckpt", start, "--iterations", "1")
    assert status == 0 and again not in said, said + err
    ckpt = tmp_path / "one/runs/adapted/stage1.safetensors"
    status, said, err = iccld("adapt", raw, "--out", tmp_path / "two", "--ckpt", ckpt, "--iterations", "1")
    assert status == 0 and f"warning: stage1.safetensors {again}" in said, said + err
    assert json.loads((tmp_path / "two/summary.json").read_text())["chosen"] == "start"
    assert "because it has learnt this footage before" in (tmp_path / "two/index.html").read_text()
    header = read_header(ckpt)
    sets = [PreparedDataset(tmp_path / "one/data/raw")]
    fewer = Images(FolderTree(folder_of(tmp_path / "fewer", pictures[:2])))
    other, _ = prepare(fewer, tmp_path / "data", "raw", PrepareOptions())
    assert learnt_before(header, sets) and not learnt_before(header, [*sets, other])
    sources = [{**row, "role": "source"} for row in header.datasets]
    assert not learnt_before(replace(header, datasets=sources), sets)


def test_a_public_data_set_is_known_by_its_name(start):
    def prepared(adapter):
        return SimpleNamespace(digest="1" * 64, info=DatasetInfo("camvid", source={"adapter": adapter, "path": "raw"}))

    known = replace(read_header(start), datasets=[{"role": "target", "name": "camvid", "digest": "0" * 64}])
    assert learnt_before(known, [prepared("camvid")])
    assert not learnt_before(known, [prepared("images")]) and not learnt_before(known, [])


@pytest.mark.parametrize("case", ["none", "missing", "dark", "no pictures", "exported", "in use", "val"])
def test_bad_input_is_one_line(case, iccld, start, tmp_path):
    raw = folder_of(tmp_path / "raw", [street(0), street(1)])
    out, ckpt, more = tmp_path / "out", start, []
    if case == "missing":
        raw = tmp_path / "nothing"
    elif case == "dark":
        dark = np.zeros((64, 96, 3), np.uint8)
        dark[::2, ::3] = 12
        raw = folder_of(tmp_path / "night", [dark, dark])
    elif case == "no pictures":
        raw = tmp_path / "empty"
        raw.mkdir()
    elif case == "exported":
        ckpt = tmp_path / "model.onnx"
        ckpt.write_bytes(b"x")
    elif case == "in use":
        out.mkdir()
        (out / "letter.txt").write_text("mine")
    elif case == "val":
        more = ["--val", str(raw)]
    arguments = ["adapt", *([] if case == "none" else [raw]), "--out", out, "--ckpt", ckpt, "--iterations", "1", *more]
    status, _, err = iccld(*arguments)
    assert status == (2 if case == "none" else 1)
    assert "Traceback" not in err and "internal" not in err
    if case != "none":
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
    if case in ("missing", "dark", "no pictures"):
        assert not out.exists()
    if case == "in use":
        assert [p.name for p in out.iterdir()] == ["letter.txt"]


def test_what_is_no_scene_reaches_the_frames_to_train_on_and_the_predictions(iccld, start, tmp_path):
    raw, out, region = folder_of(tmp_path / "raw", [street(i) for i in range(4)]), tmp_path / "out", np.zeros((32, 48))
    region[24:] = 255
    cv2.imwrite(str(tmp_path / "bonnet.png"), region)
    options = ("--ckpt", start, "--iterations", "1", "--ignore-mask", tmp_path / "bonnet.png")
    status, said, err = iccld("adapt", raw, "--out", out, *options)
    assert status == 0, said + err
    dataset = PreparedDataset(out / "data/raw")
    ignored = dataset.ignored(dataset.frames("train")[0])
    assert ignored[48:].all() and not ignored[:48].any()
    status, _, err = iccld("adapt", dataset.root, "--out", tmp_path / "other", *options)
    assert status == 1
    assert "has its own region to ignore or none" in err


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"options": {}, "seconds": "x"}', '{"options": 1}', "[" * 9999]
)
def test_a_damaged_record_is_one_line(content, iccld, start, tmp_path):
    raw, out = folder_of(tmp_path / "raw", [street(0), street(1)]), tmp_path / "out"
    out.mkdir()
    (out / "adapt.json").write_text(content)
    status, _, err = iccld("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "1")
    assert status == 1
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "adapt.json" in err and "internal" not in err
    assert [p.name for p in out.iterdir()] == ["adapt.json"]


def test_a_pipe_in_place_of_the_record_is_not_opened(iccld, start, tmp_path):
    raw, out = folder_of(tmp_path / "raw", [street(0), street(1)]), tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "adapt.json")
    status, _, err = iccld("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "1")
    assert status == 1 and "adapt.json" in err


def test_frames_worth_labelling_come_back_as_labels(iccld, start, tmp_path):
    raw, out = folder_of(tmp_path / "raw", [street(i) for i in range(6)]), tmp_path / "my out"
    bonnet = np.zeros((64, 96), np.uint8)
    bonnet[-8:] = 255
    cv2.imwrite(str(tmp_path / "bonnet.png"), bonnet)
    command = ("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "1", "--to-label", "4")
    command += ("--ignore-mask", tmp_path / "bonnet.png")
    status, said, err = iccld(*command)
    assert status == 0, said + err
    rows = [json.loads(line) for line in (out / "to_label.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["uncertainty"] >= max(row["uncertainty"] for row in rows)
    for row in rows:  # the very bytes that were trained on, so that they are known again
        assert (out / row["image"]).read_bytes() == (raw / Path(row["input"]).name).read_bytes()
    names = (out / "to_label/labels.txt").read_text().split("\n")
    assert names[0] == "road" and "traffic light" in names and "ignore" in names
    page = (out / "index.html").read_text()
    assert "Frames most worth labelling" in page
    assert all(Path(row["image"]).name in page for row in rows)

    marked = [(out / row["image"]).with_suffix(".json") for row in rows[:2]]
    for path, label in zip(marked, ("road", "traffic light"), strict=True):
        shape = {"label": label, "points": [[40.0, 30.0]], "group_id": None, "shape_type": "point", "flags": {}}
        tree = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": f"{path.stem}.png"}
        path.write_text(json.dumps(tree | {"imageData": None, "imageHeight": 64, "imageWidth": 96}))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "to_label").iterdir()}
    assert iccld(*command)[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "to_label").iterdir()} == before

    # As the page says to go on.
    lines = [html.unescape(line) for line in re.findall(r"<li>(iccld .*)</li>", page)]
    status, said, err = iccld(*shlex.split(lines[0])[1:])
    assert status == 0, said + err
    few = PreparedDataset(out / "labels/few")
    assert [frame.label is not None for frame in few.frames("train")] == [True, True, False, False]
    again = shlex.split(lines[1])[1:]
    assert again[again.index("--labelled") + 1] == str(few.root)
    assert again[again.index("--ignore-mask") + 1] == str(tmp_path / "bonnet.png")
    status, said, err = iccld(*again, "--iterations", "2", "--to-label", "6")
    assert status == 0, said + err
    second = tmp_path / "my out-labelled"
    logged = [json.loads(line) for line in (second / "runs/adapted/log.jsonl").read_text().splitlines()]
    assert logged[-1]["loss_labelled"] > 0
    summary = json.loads((second / "summary.json").read_text())
    assert summary["chosen"] == "adapted"
    assert "it has learnt labels of this road" in (second / "index.html").read_text()
    offered = {Path(json.loads(line)["input"]).name for line in (second / "to_label.jsonl").read_text().splitlines()}
    assert len(offered) == 4 and not offered & {Path(row["input"]).name for row in rows[:2]}

    status, _, err = iccld(*again[: again.index("--labelled")], "--iterations", "2")
    assert status == 1 and "other options (labelled)" in err


def test_labels_that_teach_nothing_are_refused_before_anything_is_done(iccld, start, tmp_path):
    raw, out = folder_of(tmp_path / "raw", [street(i) for i in range(3)]), tmp_path / "out"
    source = Images(FolderTree(raw))
    unlabelled, _ = prepare(source, tmp_path / "data", "raw", PrepareOptions())
    for given, says in ((unlabelled.root, "has no labels of the model's classes"), (raw, "no dataset.json")):
        status, _, err = iccld("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "1", "--labelled", given)
        assert status == 1 and says in err and len(err.splitlines()) == 1
        assert not out.exists()  # so that the same folder can be used without it


def test_a_damaged_list_is_one_line(iccld, start, tmp_path):
    raw, out = folder_of(tmp_path / "raw", [street(i) for i in range(3)]), tmp_path / "out"
    command = ("adapt", raw, "--out", out, "--ckpt", start, "--iterations", "1", "--to-label", "2")
    assert iccld(*command)[0] == 0
    other = '{"image": "to_label/../../raw/000.png", "uncertainty": 0.5}\n'
    for content in ("{", "[]\n", '{"image": 7}\n', other):
        (out / "to_label.jsonl").write_text(content)
        status, _, err = iccld(*command)
        assert status == 1 and "to_label.jsonl" in err and "remove it" in err
    (out / "to_label.jsonl").unlink()
    assert iccld(*command)[0] == 0
    assert len((out / "to_label.jsonl").read_text().splitlines()) == 2
