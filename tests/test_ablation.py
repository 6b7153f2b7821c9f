"""The table of trainings in benchmarks/ablation.py: every row is a configuration that exists."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from iccld_cli.config import load_config

_PATH = Path(__file__).parents[1] / "benchmarks/ablation.py"
_SPEC = importlib.util.spec_from_file_location("ablation", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
ablation = importlib.util.module_from_spec(_SPEC)
sys.modules["ablation"] = ablation
_SPEC.loader.exec_module(ablation)


def settings(command):
    return [command[i + 1] for i, word in enumerate(command) if word == "--set"]


@pytest.fixture
def options(tmp_path):
    known = {"carla": ["road", "truck"], "town": ["road", "sky"], "camvid": ["sky", "road", "bicycle"]}
    for name, classes in known.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps({"classes_known": classes}))
    target = tmp_path / "camvid"
    return argparse.Namespace(
        source=[tmp_path / "carla", tmp_path / "town"], target=[target], scored=target, out=Path("runs"),
        preset="small", encoder="folder", all_classes=False,
        seg_iterations=100, adv_iterations=50, device="cpu", precision="fp32", set=["data.workers=0"],
    )  # fmt: skip


@pytest.mark.parametrize("row", ablation.ROWS, ids=lambda row: row.name)
def test_every_row_changes_what_it_says(row, options):
    command = ablation.training(row, options, seed=3)
    changed = load_config("small", assignments=settings(command))
    plain = load_config("small", assignments=options.set)
    assert (changed != plain) == bool(row.settings)
    assert command[command.index("--seed") + 1] == "3"
    if row.parent is None:
        used = [command[i + 1] for i, word in enumerate(command) if word == "--source"]
        assert used and (str(options.scored) in used) == row.oracle
        learnt = {1: "road", 2: "sky,road"}[1 if row.first_source else 2] if not row.oracle else "sky,road,bicycle"
        assert row.last_sources or command[command.index("--classes") + 1] == learnt
    else:
        parent = ablation.BY_NAME[row.parent]
        assert parent.parent is None
        assert ablation.ROWS.index(parent) < ablation.ROWS.index(row)
        assert f"runs/{row.parent}/seed3/stage1.safetensors" in command


def test_the_table_has_mean_and_spread_and_a_line_an_evaluation(tmp_path):
    for seed, miou in ((0, 40.0), (1, 44.0)):
        for name in ("val", "val-0-steps"):
            path = tmp_path / f"stage2/seed{seed}/{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f'{{"miou": {miou}, "ece": 0.1, "auroc": null, "subset": ["road"],'
                f' "classes": {{"road": {{"iou": {miou + 1}}}}}}}'
            )
    lines = ablation.table(ablation.collect(tmp_path)).splitlines()
    assert lines[2] == "| stage 2 | 2 | 42.0 ± 2.8 | 0.100 | - | 43.0 ± 2.8 |"
    assert lines[3].startswith("| stage 2, 0 steps | 2 |")
    ablation.chart(ablation.collect(tmp_path), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5000
