"""The judges of benchmarks/: which frames they hold back, what a row took, and how well two orders agree."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_files import all_ids, grey, photo
from torchmetrics.functional.regression import spearman_corrcoef

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
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


def test_judges_read_what_compare_writes(tmp_path):
    rows = [
        {
            "name": f"row{number}",
            "title": f"Row {number}",
            "columns": {
                name: {"seeds": [0], "mean": 40.0 + number, "std": None} for name in ("val", "judge", "test")
            },
            "compute": [{"seed": 0, "steps": {"seg": 400, "adv": 100}, "seconds": 300.0, "cpu_seconds": 240.0}],
        }
        for number in range(9)
    ]  # fmt: skip
    rows[0]["columns"]["val"]["mean"] = None
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    found = agreement._read(tmp_path)
    assert "val" not in found["row0"]["evaluations"] and found["row8"]["evaluations"]["test"]["miou"] == [48.0, 0.0]
    assert "| Row 8 | 48.0 | 48.0 | 500 | 5 (4) |" in agreement.rows_table({"a": found}, ["a:judge", "a:test"], set())
    assert agreement.judges_table({"a": found}, ["a:judge"], "a:test", set(), 0.5).splitlines()[2].endswith("| yes |")


def test_a_protocol_names_its_sets_for_compare(tmp_path):
    seen = protocols.Prepared(tmp_path / "dark", {"unseen": tmp_path / "bright"})
    given = protocols.options(seen)
    assert given == [
        "--data", f"camvid={tmp_path / 'dark'}", "--data", f"judge={tmp_path / 'bright'}",
        "--evaluations", "val,test,judge",
    ]  # fmt: skip
    assert protocols.options(protocols.Prepared(tmp_path, {}))[-1] == "val,test"


@pytest.mark.parametrize("name", list(protocols.PROTOCOLS))
def test_a_protocol_prints_its_options_and_nothing_else(name, tmp_path, monkeypatch, capsys):
    """With the program's own `prepare`, the first time and the next."""
    stems = [("train", f"{drive}_{n:05d}") for n, drive in enumerate(protocols.DRIVES["train"])]
    for number, (split, stem) in enumerate([*stems, ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")]):
        photo(tmp_path / f"camvid/{split}/{stem}.png", number)
        grey(tmp_path / f"camvid/{protocols.SPLITS[split]}/{stem}.png", all_ids(list(range(11))))
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["protocols.py", name, "--camvid", f"{tmp_path / 'camvid'}", "--out", f"{out}"])
    for again in (False, True):
        protocols.main()
        said = capsys.readouterr()
        words = shlex.split(said.out)
        assert words[:1] + words[-2:-1] == ["--data", "--evaluations"] and said.out.count("\n") == 1
        sets = [Path(word.partition("=")[2]) for word in words if "=" in word]
        assert len(sets) == len(words[-1].split(",")) - 1 and all((root / "dataset.json").is_file() for root in sets)
        assert ("preparing camvid-" in said.err) != again
