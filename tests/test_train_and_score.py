"""`benchmarks/train_and_score.py`: a training and its scores in one process, done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from training_runs import make_dataset

ROOT = Path(__file__).parents[1]


def test_a_training_is_scored_once(tmp_path, small_settings):
    source, target = (make_dataset(tmp_path / name, (("train", 3), ("val", 1))) for name in ("source", "target"))
    command = [sys.executable, str(ROOT / "benchmarks/train_and_score.py"), "--out", str(tmp_path / "out")]
    command += ["--score", f"{target}:val", "--score", f"{target}:train", "--classes", "road,building,sky,car", "--"]
    command += ["adapt-seg", "--source", str(source), "--target", str(target), "--preset", "tiny", "--device", "cpu"]
    command += ["--iterations", "2", *(part for setting in small_settings for part in ("--set", setting))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out/result.json").read_text("utf-8"))
    assert [0 <= found["scores"][f"{target}:{split}"]["miou"] <= 100 for split in ("val", "train")] == [True, True]
    assert found["model"] == "stage1.safetensors" and found["command"][0] == "adapt-seg" and not found["resumed"]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and not again.stdout  # nothing is done twice
    wrong = [part.replace("adapt-seg", "adapt-sag") for part in command]
    wrong[wrong.index("--out") + 1] = str(tmp_path / "other")
    assert subprocess.run(wrong, cwd=ROOT, env=environment, capture_output=True).returncode == 2
