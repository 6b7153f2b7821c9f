"""The training commands as users type them: what they write, print and refuse."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))

import training_runs as runs

from iccld_cli.header import read_header
from iccld_cli.reading import tomllib


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    runs.make_dataset(root / "source", seed=1)
    runs.make_dataset(root / "target", (("train", 4), ("val", 2)), size=(72, 64), seed=2)
    return root


@pytest.fixture(scope="module")
def run(world):
    """A finished stage 1 with everything switched on that a run can write."""
    out = world / "run"
    options = ("run.validate_every=2", "run.overlay_every=2", "run.accumulate=2", "run.checkpointing=true")
    assert runs.run(runs.seg_arguments(world, out, *options, steps=4, batch=1)) == [0], runs.said(out)
    return out


def refused(arguments, out):
    """The one line that a refused command prints."""
    assert runs.run(arguments) == [1], runs.said(out)
    assert "Traceback" not in runs.said(out)
    line = runs.said(out).splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_a_run_folder_holds_what_is_promised(run, next_command):
    assert {p.name for p in run.iterdir()} == {
        "config.toml", "config-stage1.toml", "log.jsonl", "curves.png", "overlays", "state", "stage1.safetensors",
        "stage1.best.safetensors",
    }  # fmt: skip
    assert [p.name for p in sorted((run / "overlays").iterdir())] == ["stage1-0000002.jpg", "stage1-0000004.jpg"]
    rows = runs.numbers(run)
    assert all({"step", "loss", "stage"} <= row.keys() for row in rows)
    best = max(row["miou"] for row in rows if "miou" in row)
    kept = read_header(run / "stage1.best.safetensors")
    assert kept.metrics["validation"]["best_miou"] == best
    assert next(row["step"] for row in rows if row.get("miou") == best) == kept.iterations
    assert "peak memory" in runs.said(run)
    assert next_command(runs.said(run)) == ["adapt-adv", "--ckpt", str(run / "stage1.safetensors")]
    assert read_header(run / "stage1.safetensors").working_height == 64  # the target's frames are 72x64


def test_the_saved_configuration_reproduces_the_run(run, world):
    again = world / "again"
    data = ["--source", str(world / "source"), "--target", str(world / "target")]
    arguments = ["adapt-seg", *data, "--out", str(again), "--config", str(run / "config.toml")]
    assert runs.run(arguments) == [0], runs.said(again)
    assert runs.numbers(again) == runs.numbers(run)


def test_a_refused_resume_names_what_differs_and_touches_nothing(run, world):

    def content():
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}  # says who holds the run

    before = content()
    line = refused(
        runs.seg_arguments(world, run, "--resume", "optim.lr=0.5", "run.accumulate=2", steps=4, batch=1), run
    )
    assert "config.optim.lr (" in line
    assert "-> 0.5)" in line
    assert content() == before
    assert "already holds a stage1 run" in refused(runs.seg_arguments(world, run), run)


def test_a_changed_data_set_is_refused_by_name(run, world, tmp_path):
    runs.make_dataset(tmp_path / "target", (("train", 3), ("val", 2)), size=(72, 64), seed=2)
    arguments = runs.seg_arguments(world, run, "--resume", "run.accumulate=2", steps=4, batch=1)
    arguments[arguments.index("--target") + 1] = str(tmp_path / "target")
    assert "data.target 1 (target)" in refused(arguments, run)


def test_resuming_a_finished_run_does_nothing(run, world):
    before = (run / "stage1.safetensors").stat().st_mtime_ns
    options = ("--resume", "run.accumulate=2", "run.validate_every=2", "run.overlay_every=2")
    assert runs.run(runs.seg_arguments(world, run, *options, steps=4, batch=1)) == [0], runs.said(run)
    assert "is complete" in runs.said(run)
    assert (run / "stage1.safetensors").stat().st_mtime_ns == before


def test_a_broken_training_names_the_term_and_keeps_no_broken_state(world):
    out = world / "broken"
    line = refused(
        runs.seg_arguments(
            world, out, "optim.lr=1000", "optim.head_lr_factor=1000", "optim.grad_clip=0", "--save-every", "1"
        ),
        out,
    )
    assert "training broke" in line
    assert "--resume" in line
    for state in (out / "state").glob("stage1-*"):  # what was saved before is finite, and so is the log
        assert json.loads((state / "state.json").read_text())["step"] < 6
    assert not (out / "stage1.safetensors").exists()


def test_batch_size_auto_says_what_fits_and_writes_the_number(world):
    out = world / "auto"
    assert runs.run(runs.seg_arguments(world, out, steps=1, batch="auto")) == [0], runs.said(out)
    number = tomllib.loads((out / "config.toml").read_text())["data"]["batch_size"]
    assert f"batch size {number}: about" in runs.said(out)
    assert number >= 2


def test_dry_run_prints_configuration_parameters_and_memory_and_writes_nothing(world):
    out = world / "dry"
    assert runs.run(runs.seg_arguments(world, out, "--dry-run")) == [0], runs.said(out)
    text = runs.said(out)
    settings = tomllib.loads("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert settings["data"]["crop"] == [64, 64]
    assert "M parameters" in text
    assert "# memory: about" in text
    assert not out.exists()


def test_what_cannot_work_is_one_line(world):
    out = world / "wrong"
    assert "did you mean 'optim.lr'" in refused(runs.seg_arguments(world, out, "optim.lrr=1"), out)
    if importlib.util.find_spec("mlflow") is None:
        line = refused(runs.seg_arguments(world, out, 'run.trackers=["mlflow"]'), out)
        assert "mlflow, which is not installed" in line
    assert "exclude each other" in refused(runs.seg_arguments(world, out, "--compile", "run.checkpointing=true"), out)
    assert runs.run(runs.seg_arguments(world, out, batch="many")) == [2]
    assert not out.exists()


def test_the_best_teacher_can_be_chosen_without_labels(world, tmp_path):
    runs.make_dataset(tmp_path / "bare", (("train", 4),), size=(72, 64), labelled=False, seed=2)
    out = tmp_path / "run"
    arguments = runs.seg_arguments(world, out, "run.validate_every=2", steps=4, batch=1)
    place = arguments.index(next(word for word in arguments if str(word) == str(world / "target")))
    arguments[place] = str(tmp_path / "bare")
    assert runs.run([*arguments, "--select", "labels-free"]) == [0], runs.said(out)
    rows = [row for row in runs.numbers(out) if "labels_free" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert not any("miou" in row for row in rows)
    kept = read_header(out / "stage1.best.safetensors")
    best = max(row["labels_free"] for row in rows)
    assert kept.metrics["validation"]["best_labels_free"] == best
    assert next(row["step"] for row in rows if row["labels_free"] == best) == kept.iterations


def test_choosing_without_labels_needs_a_target(world, tmp_path):
    out = tmp_path / "run"
    arguments = ["adapt-seg", "--source", str(world / "source"), "--out", str(out), "--source-only", "--preset", "tiny"]
    assert "needs frames of a target" in refused([*arguments, "--select", "labels-free"], out)
