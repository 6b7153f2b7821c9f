"""What arrives at TensorBoard, W&B and MLflow; each is tried where it is installed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import pytest
import training_runs as runs


def arguments(tmp_path, tracker):
    """Three steps of stage 1 with a tracker."""
    for name, labelled in (("source", True), ("target", False)):
        runs.make_dataset(tmp_path / name, labelled=labelled)
    return runs.seg_arguments(tmp_path, tmp_path / "run", f'run.trackers=["{tracker}"]', steps=3)


def train(tmp_path, tracker, **environment):
    """Train in a process of the given environment; what the run said."""
    done = subprocess.run(
        [sys.executable, "-m", "iccld_cli", *arguments(tmp_path, tracker)],
        env={**os.environ, **environment}, cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert runs.run(arguments(tmp_path, "tensorboard")) == [0], runs.said(out)
    (file,) = out.rglob("events.out.tfevents*.0")
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.step for event in events.Scalars("stage1/loss")] == [1, 2, 3]


def test_wandb_without_a_network(tmp_path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    train(tmp_path, "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true")
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    for word in (b"stage1/loss", b"run-stage1", b"model.latent_channels"):
        assert word in content


def test_mlflow(tmp_path):
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    base = tmp_path / "mlflow.db"
    train(tmp_path, "mlflow", MLFLOW_TRACKING_URI=f"sqlite:///{base}")
    with sqlite3.connect(base) as connection:
        steps = connection.execute("SELECT step FROM metrics WHERE key = 'stage1/loss' ORDER BY step").fetchall()
        settings = dict(connection.execute("SELECT key, value FROM params").fetchall())
    assert steps == [(1,), (2,), (3,)]
    assert settings["model.latent_channels"] == "8"
