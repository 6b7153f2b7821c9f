"""benchmarks/gpu and gpu_pack.py: rows are kept, time limits hold, and the pack holds what is missing over there."""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from iccld_cli.data.prepared import PreparedDataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(path):
    spec = importlib.util.spec_from_file_location(f"gpu_benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results = load(BENCHMARKS / "gpu/results.py")
gpu_pack = load(BENCHMARKS / "gpu_pack.py")


def test_rows_are_kept_and_what_failed_is_tried_again(tmp_path):
    first = results.Results(tmp_path)
    first.put("speed", "a", {"seconds": 0.5})
    first.put("speed", "b", {"outcome": "failed"})
    again = results.Results(tmp_path)
    assert [again.has("speed", name) for name in "abc"] == [True, False, False]
    assert json.loads((tmp_path / "gpu.json").read_text())["pieces"]["speed"]["a"]["seconds"] == 0.5
    assert "speed | a" in (tmp_path / "gpu.log").read_text()


def test_rows_that_nothing_was_made_of_are_told_as_such(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "gpu")
    accuracy, setting = load(BENCHMARKS / "gpu/accuracy.py"), sys.modules["setting"]
    for name in ("results", "setting"):
        monkeypatch.delitem(sys.modules, name)
    where = setting.Setting(BENCHMARKS.parent, tmp_path, None, "cpu", True, (0,), 4)
    accuracy.run_first(where, results.Results(tmp_path), results.Deadline(0, 0))
    assert "accuracy-1: time was up; run again with the same --work" in (tmp_path / "gpu.log").read_text()
    monkeypatch.setattr(accuracy, "_ablate", lambda *_, **__: (0, "nothing to do"))
    with pytest.raises(RuntimeError, match=r"wrote no results .*nothing to do"):
        accuracy.run_first(where, results.Results(tmp_path), results.Deadline(600, 600))


def test_a_command_ends_with_its_time_and_so_does_what_it_started(tmp_path):
    began = time.monotonic()
    status, said = results.call(["sh", "-c", "echo begun; sleep 60 & echo $!; sleep 60"], 1, tmp_path / "log")
    assert status is None and time.monotonic() - began < 15
    word, child = said.split()[:2]
    assert word == "begun"
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert results.call(["sh", "-c", "exit 3"], 5, tmp_path / "log")[0] == 3


def test_a_stopped_program_lets_what_it_started_save_first(tmp_path):
    """The command's first process ends at once; another of its group takes a moment to save."""
    saving = "trap 'sleep 1; echo > saved; exit' TERM; echo > ready; while :; do sleep 0.1; done"
    (tmp_path / "saving.sh").write_text(saving)
    command = ["sh", "-c", "sh saving.sh & wait"]
    code = "import results, signal, sys; from pathlib import Path; signal.signal(15, results.stop_all)"
    code += f"; results.call({command!r}, float(sys.argv[1]), Path('log'))"
    start = [sys.executable, "-c", code]
    path = {**os.environ, "PYTHONPATH": str(BENCHMARKS / "gpu")}
    for seconds, stops in (("2", False), ("60", True)):
        program = subprocess.Popen([*start, seconds], cwd=tmp_path, env=path)
        while stops and not (tmp_path / "ready").exists():
            time.sleep(0.05)
        if stops:
            program.terminate()
        assert program.wait(30) == (143 if stops else 0)
        assert (tmp_path / "saved").exists()
        for name in ("saved", "ready"):
            (tmp_path / name).unlink()


def test_the_pieces_are_listed():
    done = subprocess.run([sys.executable, BENCHMARKS / "gpu", "--list"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows][:3] == ["machine", "correctness", "town"]
    assert all(float(row[1]) < 9 for row in rows)


@pytest.mark.parametrize(
    ("line", "missing"),
    [("kornia==0.9.0", False), ("kornia", False), ("kornia==0.1", True), ("kornia  0.9.0", False), ("# kornia", True)],
)
def test_the_pack_holds_what_the_other_machine_lacks(tmp_path, line, missing):
    path = tmp_path / "packages.txt"
    path.write_text(f"torch==2.11.0\nopencv-python-headless==5.0.0\n{line}\n")
    found = gpu_pack.missing_packages(argparse.Namespace(python="3.12", has=path, further=[]))
    assert ("kornia" in found) == missing
    assert "diffusers" in found
    assert not {"torch", "av", "iccld", "opencv-python"} & found.keys()


def test_packed_data_is_smaller_and_still_a_data_set(tmp_path):
    sys.path.append(str(Path(__file__).parent / "adapt"))
    from training_runs import make_dataset

    source = make_dataset(tmp_path / "source", (("train", 4), ("val", 2)), size=(80, 64))
    rows = [json.loads(line) for line in (source / "index.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {
            f"{kind}_sha256": hashlib.sha256((source / row[kind]).read_bytes()).hexdigest()
            for kind in ("image", "label")
        }
    (source / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gpu_pack.shrink(source, tmp_path / "small", (40, 32), 80, train_labels=True)
    gpu_pack.shrink(source, tmp_path / "bare", None, 80, train_labels=False)
    whole, small, bare = (PreparedDataset(tmp_path / name) for name in ("source", "small", "bare"))
    assert (gpu_pack.folder_bytes(small.root) < gpu_pack.folder_bytes(whole.root)) is True
    for frame in small.frames("train"):
        assert small.read_image(frame).shape == (32, 40, 3) and small.read_label(frame).shape == (32, 40)
        ids, counts = np.unique(small.read_label(frame), return_counts=True)
        assert frame.pixels == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert [frame.label for frame in bare.frames("train")] == [None] * 4
    assert [bare.read_image(frame).shape for frame in bare.frames("train")] == [(64, 80, 3)] * 4
    for one, other in zip(whole.frames("val"), bare.frames("val"), strict=True):
        assert (whole.root / one.image).read_bytes() == (bare.root / other.image).read_bytes()
        assert np.array_equal(cv2.imread(str(whole.root / one.label), 0), cv2.imread(str(bare.root / other.label), 0))
