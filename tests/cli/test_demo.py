"""The demo, small, through the real command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import training_runs

SMALL = ["--frames", "8", "--size", "128x64", "--iterations", "2", "--seconds", "0.12"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert training_runs.run(["demo", "--out", str(out), *SMALL], timeout=600) == [0], training_runs.said(out)
    return out


def test_leaves_scores_page_video_and_runs(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    stages = ("source_only", "stage1", "stage2", "labelled")
    assert set(summary) == {*stages, "gap_closed", "seconds"}
    assert all(0 <= summary[k] <= 100 for k in stages)
    assert summary["seconds"] > 0
    page = (demo / "index.html").read_text()
    (video,) = (demo / "predictions").rglob("*.mp4")
    assert video.relative_to(demo).as_posix() in page
    runs = ("burn-in", "stage1"), ("source-only", "stage1"), ("adapted", "stage1"), ("labelled", "stage1")
    for run, model in (*runs, ("adapted", "stage2")):
        assert (demo / "runs" / run / f"{model}.safetensors").is_file()
        assert (demo / "runs" / run / "curves.png").is_file()


def test_a_finished_demo_is_not_run_again(iccld, demo: Path, next_command: Callable[[str], list[str]]) -> None:
    model = demo / "runs" / "adapted" / "stage2.safetensors"
    before = model.stat().st_mtime_ns
    status, said, error = iccld("demo", "--out", demo, *SMALL)
    assert status == 0, error
    assert model.stat().st_mtime_ns == before
    assert next_command(said) == ["predict", str(demo / "drive.mp4"), "--ckpt", str(model)]


def test_other_options_and_other_folders_are_refused(iccld, demo: Path, tmp_path: Path) -> None:
    status, _, error = iccld("demo", "--out", demo, *SMALL, "--seed", "1")
    assert status == 1
    assert "other options" in error
    assert error.count("\n") == 1
    (tmp_path / "mine.txt").write_text("keep me")
    status, _, error = iccld("demo", "--out", tmp_path, *SMALL)
    assert status == 1
    assert "is no demo" in error
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
