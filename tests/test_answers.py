"""The start's answers to the footage: what they are, and that `iccld adapt` learns them and goes on after a stop."""

import io
import json
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from iccld_cli import adapt_footage
from iccld_cli.checkpoint import save_segmenter
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.footage import answers, training
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.record import Record
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.inference.model import Sampling
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.labels import CITYSCAPES, IGNORE
from iccld_cli.models.build import build_segmenter
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree

pytestmark = pytest.mark.own_process  # signals to itself

CLASSES = tuple(range(19))


def street(seed, size=(64, 96)):
    """A picture with structure, another for each seed."""
    small = np.random.default_rng(seed).integers(40, 220, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def footage(path, count, first=0, size=(64, 96), **options):
    """A prepared set without labels."""
    raw = path.with_name(f"{path.name}-raw")
    raw.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(raw / f"{number:03d}.png"), street(first + number, size))
    return prepare(Images(FolderTree(raw)), path.parent, path.name, PrepareOptions(**options))[0]


@pytest.fixture(scope="module")
def start(tmp_path_factory, small_config):
    """A stage-1 model, small and untrained."""
    config = small_config("data.crop=[64,64]", "data.batch_size=2", "data.workers=0")
    path = tmp_path_factory.mktemp("start") / "stage1.safetensors"
    header = ModelHeader("stage1", config, CITYSCAPES, CLASSES, [], 1, {}, height=64)
    model = build_segmenter(config, 19, denoiser=False, seed=0)
    with torch.no_grad():  # answers that differ over the frame
        for part in model.decoder.modules():
            if isinstance(part, nn.Conv2d):
                part.weight *= 3
    save_segmenter(path, model, header)
    return path


@pytest.fixture
def adapt(monkeypatch, start):
    """A function: footage, folder, options of `adapt_footage` -> (summary, what was said)."""
    monkeypatch.setattr(training, "TOWN_FRAMES", 4)
    monkeypatch.setattr(training, "TOWN_SIZE", (96, 64))

    def run(target, out, **options):
        console = Console(file=io.StringIO(), width=200)
        options = {"ckpt": start, "iterations": 2, "to_label": 0, **options}
        return adapt_footage(target, out, console=console, **options), console.file.getvalue()

    return run


def answered(start, targets, out, **more):
    """The sets of answers, without the rest of a run: (roots, what was said)."""
    options = FootageOptions([target.root for target in targets], out, start, iterations=2, **more)
    console = Console(file=io.StringIO(), width=200)
    record = Record(options, read_header(start))
    return answers.learnt_answers(options, record, start, targets, console), console.file.getvalue()


def losses(out, stage="adapted"):
    return [json.loads(line) for line in (out / f"runs/{stage}/log.jsonl").read_text().splitlines()]


def test_answers_are_written_once_and_learnt(adapt, start, tmp_path):
    target, out = footage(tmp_path / "data/road", 4), tmp_path / "out"
    summary, said = adapt([target.root], out)
    assert summary["answered"] == 4 and "4 frames answered" in said
    found = PreparedDataset(out / "answers/1-road")
    assert [frame.image for frame in found.frames("train")] == [frame.image for frame in target.frames("train")]
    assert all(row["loss_labelled"] > 0 for row in losses(out))
    header = read_header(out / "runs/adapted/stage1.safetensors")
    assert [row["digest"] for row in header.datasets if row["role"] == "answers"] == [found.digest]
    assert not (out / "answers/frames").exists()
    assert "the start answered 4 of the frames" in (out / "index.html").read_text()

    # They are the mean of both views, where that is sure.
    model, both = TorchModel.open(start), Sampling(flip=True, average=True)
    whole, kept = np.zeros(19), np.zeros(19)
    for frame in target.frames("train"):
        mean = model.segment(target.read_image(frame)[None], ("probabilities",), sampling=both).probabilities[0]
        expected, label = mean.argmax(axis=0), found.read_label(frame_of(found, frame))
        assert (label == expected)[label != IGNORE].all()
        whole += np.bincount(expected.ravel(), minlength=19)
        kept += np.bincount(label[label != IGNORE], minlength=19)
    assert (kept >= 0.7 * whole - 1e-6).all() and kept.sum() < 0.75 * whole.sum()
    assert np.count_nonzero(kept) >= 2

    before = {path: path.stat().st_mtime_ns for path in (out / "answers").rglob("*")}
    adapt([target.root], out)
    assert {path: path.stat().st_mtime_ns for path in (out / "answers").rglob("*")} == before


def frame_of(dataset, frame):
    return next(one for one in dataset.iter_frames() if one.image == frame.image)


def test_they_can_be_left_out(adapt, tmp_path):
    target, out = footage(tmp_path / "data/road", 3), tmp_path / "out"
    summary, _ = adapt([target.root], out, answers=False)
    assert summary["answered"] == 0 and not (out / "answers").exists()
    assert all("loss_labelled" not in row for row in losses(out))
    assert "the start answered" not in (out / "index.html").read_text()
    with pytest.raises(IccldError, match=r"other options \(answers\)"):
        adapt([target.root], out)


@pytest.mark.parametrize("at", ["answering", "writing"])
def test_a_stopped_run_goes_on_and_answers_nothing_twice(at, start, tmp_path, monkeypatch, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    target, out, asked = footage(tmp_path / "data/road", 5), tmp_path / "out", []
    took, wrote = answers.answer, answers._Found.__iter__

    def noted(models, image):
        asked.append(image.tobytes())
        return took(models, image)

    def interrupted(models, image):
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return noted(models, image)

    def broken(self):
        for number, one in enumerate(wrote(self)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield one

    monkeypatch.setattr(answers, "answer", noted)
    with monkeypatch.context() as patch:
        if at == "writing":
            patch.setattr(answers._Found, "__iter__", broken)
        else:
            patch.setattr(answers, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answered(start, [target], out)
    assert [path.name for path in (out / "answers").iterdir()] == ["frames"]  # no part of a set
    done = 3 if at == "answering" else 5
    assert len(list((out / "answers/frames").iterdir())) == done and len(asked) == done
    (root,), _ = answered(start, [target], out)
    assert len(asked) == 5 and len(set(asked)) == 5
    assert [path.name for path in (out / "answers").iterdir()] == ["1-road"]
    (whole,), _ = answered(start, [target], tmp_path / "whole")
    assert PreparedDataset(root).digest == PreparedDataset(whole).digest


def test_a_damaged_answer_is_one_line(start, tmp_path):
    target, out = footage(tmp_path / "data/road", 3), tmp_path / "out"
    answered(start, [target], out)
    record = json.loads((out / "adapt.json").read_text())
    del record["answers"]
    (out / "adapt.json").write_text(json.dumps(record))
    shutil.rmtree(out / "answers")
    (out / "answers/frames").mkdir(parents=True)
    for number in range(3):
        (out / f"answers/frames/{number}.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(IccldError, match=r"\d.npz is damaged"):
        answered(start, [target], out)
    for number in range(3):
        (out / f"answers/frames/{number}.npz").unlink()
    assert len(answered(start, [target], out)[0]) == 1


def test_frames_of_all_cameras_and_sizes_are_answered_up_to_a_number(start, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MOST_ANSWERED", 6)
    one, other = footage(tmp_path / "a/road", 8), footage(tmp_path / "b/road", 4, first=50, size=(150, 230))
    roots, said = answered(start, [one, other], tmp_path / "out")
    assert [root.name for root in roots] == ["1-road", "2-road"] and "6 frames answered" in said
    sets = [PreparedDataset(root) for root in roots]
    assert [found.info.splits["train"] for found in sets] == [4, 2]
    for found, size in zip(sets, ((64, 96), (150, 230)), strict=True):
        assert all(found.read_label(frame).shape == size for frame in found.frames("train"))


def test_what_is_no_scene_is_not_answered(start, tmp_path):
    region = np.zeros((64, 96), np.uint8)
    region[48:] = 255
    cv2.imwrite(str(tmp_path / "bonnet.png"), region)
    target = footage(tmp_path / "data/road", 3, ignore=tmp_path / "bonnet.png")
    (root,), _ = answered(start, [target], tmp_path / "out")
    found = PreparedDataset(root)
    assert found.ignored(found.frames("train")[0])[48:].all()
    for frame in found.frames("train"):
        assert (found.read_label(frame)[48:] == IGNORE).all()


def test_where_nothing_is_known_nothing_is_learnt(adapt, small_config, tmp_path):
    """A start whose answer is everywhere a class that it was not trained on."""
    config = small_config("data.crop=[64,64]", "data.batch_size=2", "data.workers=0")
    model = build_segmenter(config, 19, denoiser=False, seed=0)
    last = [part for part in model.decoder.modules() if isinstance(part, nn.Conv2d)][-1]
    with torch.no_grad():
        last.bias[18] = 1e4
    path = tmp_path / "odd.safetensors"
    save_segmenter(path, model, ModelHeader("stage1", config, CITYSCAPES, (0, 1, 2), [], 1, {}, height=64))
    target = footage(tmp_path / "data/road", 3)
    summary, said = adapt([target.root], tmp_path / "out", ckpt=path)
    assert summary["answered"] == 0 and "no answer that could be learnt" in said
    assert all("loss_labelled" not in row for row in losses(tmp_path / "out"))


def test_a_frame_that_cannot_be_answered_is_left_out(start, tmp_path):
    target = footage(tmp_path / "data/road", 4)
    (target.root / target.frames("train")[1].image).write_bytes(b"no picture")
    (root,), said = answered(start, [target], tmp_path / "out")
    assert "1 frames were not answered: cannot read image" in said
    assert PreparedDataset(root).info.splits == {"train": 3}


def test_a_model_with_a_unet_is_asked_as_it_predicts(small_config, tmp_path):
    config = small_config("data.crop=[64,64]")
    path = tmp_path / "stage2.safetensors"
    header = ModelHeader("stage2", config, CITYSCAPES, CLASSES, [], 1, {}, height=64)
    model = build_segmenter(config, 19, denoiser=True, seed=1)
    nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.2)
    save_segmenter(path, model, header)
    (root,), _ = answered(path, [footage(tmp_path / "data/road", 2)], tmp_path / "out")
    assert PreparedDataset(root).info.splits == {"train": 2}
    opened = TorchModel.open(path)
    labels, _ = answers.answer(opened, street(0))
    views = Sampling(steps=config.diffusion.steps, flip=True, average=True)
    assert np.array_equal(labels, opened.segment(street(0)[None], sampling=views).labels[0])


def label_some(dataset, number, value):
    """A copy of a set in which the upper half of one frame is labelled."""
    root = dataset.root.with_name("few")
    shutil.copytree(dataset.root, root)
    rows = [json.loads(line) for line in (root / "index.jsonl").read_text().splitlines()]
    label = np.full((64, 96), IGNORE, np.uint8)
    label[:32] = value
    (root / "labels").mkdir()
    cv2.imwrite(str(root / "labels/one.png"), label)
    rows[number] |= {"label": "labels/one.png", "pixels": {str(value): 32 * 96, "255": 32 * 96}}
    (root / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = json.loads((root / "dataset.json").read_text()) | {"classes_known": list(CITYSCAPES.names)}
    (root / "dataset.json").write_text(json.dumps(info))
    return root


def test_a_persons_labels_go_before_answers_and_are_drawn_as_often(adapt, tmp_path, monkeypatch):
    from iccld_cli.data.annotated import AnnotatedCrops

    target, out = footage(tmp_path / "data/road", 4), tmp_path / "out"
    few = label_some(target, 2, 13)
    drawn, draw = [], AnnotatedCrops.draw

    def noted(self, rng):
        found = draw(self, rng)
        drawn.append((self.pool.datasets[0].root.name, set(np.unique(found[1]).tolist())))
        return found

    monkeypatch.setattr(AnnotatedCrops, "draw", noted)
    adapt([target.root], out, labelled=[few], iterations=4)
    found = PreparedDataset(out / "answers/1-road")
    upper = [(found.read_label(frame)[:32] == IGNORE).mean() for frame in found.frames("train")]
    assert upper[2] == 1 and max(upper[:2] + upper[3:]) < 1
    assert [name for name, _ in drawn[:8]].count("few") == 4 and {name for name, _ in drawn} == {"few", "1-road"}
    assert all(shown <= {13, IGNORE} for name, shown in drawn if name == "few")
    roles = [row["role"] for row in read_header(out / "runs/adapted/stage1.safetensors").datasets]
    assert roles == ["source", "source", "target", "labelled", "answers"]


def test_answering_has_a_share_of_the_minutes(start, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "FEWEST_ANSWERED", 4)
    target = footage(tmp_path / "data/road", 12)
    for minutes, most in ((1e-6, 4), (60.0, 12)):
        out = tmp_path / f"{most}"
        options = FootageOptions([target.root], out, start, minutes=minutes)
        record, console = Record(options, read_header(start)), Console(file=io.StringIO(), width=200)
        (root,) = answers.learnt_answers(options, record, start, [target], console)
        assert PreparedDataset(root).info.splits == {"train": most}
        kept = json.loads((out / "adapt.json").read_text())
        assert kept["answered"] == most and kept["answer_seconds"] > 0


def test_steps_are_counted_in_what_answering_leaves(start, tmp_path, monkeypatch):
    """Of ten minutes, one of which went into answers; and where answering took more than half, half."""

    def probed(*arguments, **options):
        folder = arguments[7]
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(json.dumps({"step_seconds": 1.0}) + "\n")

    monkeypatch.setattr(training, "train", probed)
    for seconds, steps in ((60.0, 486), (540.0, 270), (None, 540)):
        options = FootageOptions([], tmp_path / f"{steps}", start, minutes=10.0)
        record = Record(options, read_header(start))
        record.tree["answer_seconds"] = seconds
        console = Console(file=io.StringIO())
        assert training.count_steps("stage1", options, record, start, [], [], [], console) == steps


def test_rates_do_not_compound(small_config):
    options = FootageOptions([], "out")
    base = small_config(preset="small")
    for stage in ("stage1", "stage2"):
        first = training.training_config(base, stage, 9, options, unet=True)
        second = training.training_config(first, stage, 9, options, unet=True)
        for one in (first, second):
            assert one.optim.lr == pytest.approx(0.3e-4) and one.optim.head_lr_factor == 3
            assert one.pseudo.gate == "quantile" and one.pseudo.quantile == 0.7
            if stage == "stage2":
                assert one.adv.unet_lr == pytest.approx(0.3e-3)
    slow = small_config("optim.lr=1e-6", "optim.head_lr_factor=1", preset="small")
    assert training.training_config(slow, "stage1", 9, options).optim.lr == 1e-6  # what it was trained with is safe
    assert training.training_config(slow, "stage1", 9, options).optim.head_lr_factor == 1


@pytest.mark.parametrize(
    ("frame", "crop", "context"),
    [
        ((480, 360), (256, 256), (480, 352)),
        ((1920, 1080), (256, 256), (672, 384)),
        ((1080, 1920), (256, 256), (384, 672)),
        ((250, 200), (256, 256), (0, 0)),
        ((0, 0), (256, 256), (0, 0)),
        ((4000, 200), (256, 256), (1024, 256)),
    ],
)
def test_the_teacher_sees_whole_frames_where_they_are_not_too_large(frame, crop, context, small_config):
    config = small_config(f"data.crop={list(crop)}")
    assert training.context_of(config, frame) == context
    options = FootageOptions([], "out")
    assert training.training_config(config, "stage1", 9, options, frame=frame).data.context == context
