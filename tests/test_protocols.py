"""The judges of benchmarks/: which frames they hold back, what a row took, and how well two orders agree."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.regression import spearman_corrcoef

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
ablation = importlib.import_module("ablation")
agreement = importlib.import_module("agreement")
protocols = importlib.import_module("protocols")


@pytest.fixture
def camvid(tmp_path):
    names = {
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]
    }  # fmt: skip
    for split, stems in names.items():
        for folder in (split, protocols.SPLITS[split]):
            (tmp_path / folder).mkdir()
            for stem in stems:
                (tmp_path / folder / f"{stem}.png").touch()
    return tmp_path


@pytest.mark.parametrize("name", ["unseen-drive", "unseen-dusk"])
def test_no_frame_of_the_judged_drive_is_adapted_to(name, camvid):
    protocol = protocols.PROTOCOLS[name]
    frames = protocols.selection(camvid, protocol.adapt)
    adapted = {protocols.drive_of(image) for split, image, _ in frames if split == "train"}
    judged = {"0016E5"} if name == "unseen-drive" else set(protocol.judges["unseen"])
    assert adapted and judged and not adapted & judged
    assert [image.stem for split, image, _ in frames if split != "train"] == ["0016E5_07959", "Seq05VD_f00000"]
    assert all(label.is_file() and label.stem == image.stem for _, image, label in frames)


def test_a_missing_drive_is_told(camvid):
    next(camvid.glob("train/0006R0*")).unlink()
    with pytest.raises(SystemExit, match="no frame of 0006R0"):
        protocols.selection(camvid, ("0001TP", "0006R0"))


def test_real_drives_and_frames():
    root = os.environ.get("ICCLD_REAL_DATA")
    if not root:
        pytest.skip("ICCLD_REAL_DATA names no folder")
    frames = protocols.selection(Path(root) / "camvid", protocols.PROTOCOLS["unseen-drive"].adapt)
    counts = [sum(split == wanted for split, _, _ in frames) for wanted in ("train", "val", "test")]
    assert counts == [163, 101, 233]
    for split in ("val", "test"):
        assert {protocols.drive_of(image) for s, image, _ in frames if s == split} == set(protocols.DRIVES[split])


def test_spearman_is_torchmetrics_with_ties():
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 6, (2, 20, 9)).astype(float)
    ours = agreement.spearman(first, second)
    theirs = [float(spearman_corrcoef(*(torch.tensor(x[i]) for x in (first, second)))) for i in range(20)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_chance_of_one_order_in_all():
    order = np.arange(5.0)
    rng = np.random.default_rng(0)
    assert agreement.chance(order, order, rng) == pytest.approx(1 / 120)
    assert agreement.chance(order, -order, rng) == 1
    assert agreement.chance(np.arange(12.0), np.arange(12.0), rng) < 1e-3


def test_judges_are_kept_by_rows_and_correlation():
    def results(val, test):
        rows = zip(val, test, strict=True)
        return {
            f"row{i}": {"title": f"row {i}", "evaluations": {"val": {"miou": [v, 0]}, "test": {"miou": [t, 0]}}}
            for i, (v, t) in enumerate(rows)
        }

    def verdict(found):
        return agreement.judges_table({"a": found}, ["a:val"], "a:test", set(), 0.5).splitlines()[2]

    good = np.linspace(40, 60, 9)
    assert verdict(results(good, good)).endswith("| yes |")
    assert verdict(results(good[:7], good[:7])).endswith("| no: too few rows |")
    assert verdict(results(good[::-1], good)).endswith("| no: below 0.8 |")
    two = {"a": results(good, good), "b": results(good + 2, good)}
    assert agreement.scores(two, "a:val+b:val")["row0"] == 41


def test_what_a_training_took_is_added_up(tmp_path):
    work = [sys.executable, "-c", "sum(range(10**6))", "--iterations", "7"]
    ablation.account(work, tmp_path)
    with pytest.raises(ablation.subprocess.CalledProcessError):
        ablation.account([sys.executable, "-c", "raise SystemExit(3)", "--iterations", "7"], tmp_path)
    ablation.account(work, tmp_path)
    found = ablation.compute(tmp_path)
    assert found["steps"] == 7 and found["unknown_parts"] == 1
    assert len(json.loads((tmp_path / "compute.json").read_text())["parts"]) == 3


def test_rows_keep_the_order_asked_for_behind_their_parents():
    names = [row.name for row in ablation.with_parents(["stage1-first", "stage2", "source-only"])]
    assert names == ["stage1-first", "stage1", "stage2", "source-only"]
