"""`adapt-seg --labelled`: what it learns, writes, resumes and refuses."""

import json
import shutil

import cv2
import numpy as np
import pytest
import training_runs as runs

from iccld_cli.config import load_config
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.labels import CITYSCAPES, IGNORE
from iccld_cli.train.data import open_data


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two frames with three labelled pixels each, of the classes road, building and person (which no source knows)."""
    root = runs.make_dataset(tmp_path_factory.mktemp("sets") / "few", (("train", 2),), seed=9)
    lines = []
    for line in (root / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        label = np.full((64, 80), IGNORE, np.uint8)
        label[50, 3:5], label[30, 4] = (0, 11), 2
        cv2.imwrite(str(root / row["label"]), label)
        row["pixels"] = {"0": 1, "2": 1, "11": 1, "255": label.size - 3}
        lines.append(json.dumps(row))
    (root / "index.jsonl").write_text("\n".join(lines) + "\n")
    info = json.loads((root / "dataset.json").read_text()) | {"classes_known": list(CITYSCAPES.names)}
    (root / "dataset.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="module")
def labelled_run(world, few, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    command = runs.seg_arguments(world, out, "--labelled", str(few), "--save-every", "4", "run.keep_states=9")
    assert runs.run(command) == [0], runs.said(out)
    return command, out


def test_labelled_pixels_of_the_target_join_every_step(labelled_run, few):
    _, out = labelled_run
    rows = runs.numbers(out)
    assert all(row["loss_labelled"] > 0 for row in rows)  # in the burn-in too
    first = rows[0]
    assert first["loss"] == pytest.approx(first["loss_source"] + first["loss_labelled"])
    header = read_header(out / "stage1.safetensors")
    assert [row["role"] for row in header.datasets] == ["source", "target", "labelled"]
    assert header.datasets[2]["digest"] == PreparedDataset(few).digest
    assert header.label_space.names_of(header.classes) == ("road", "building", "sky", "person", "car")


def test_a_resumed_run_with_labels_is_the_whole_one_to_the_bit(labelled_run, tmp_path):
    command, whole = labelled_run
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "stage1.safetensors").unlink()
    shutil.rmtree(out / "state" / "stage1-00000006")
    again = [str(out) if part == str(whole) else part for part in command]
    assert runs.run([*again, "--resume"]) == [0], runs.said(out)
    assert "resuming stage1 after step 4" in runs.said(out)
    assert runs.numbers(out) == runs.numbers(whole)
    assert read_header(out / "stage1.safetensors").sha256 == read_header(whole / "stage1.safetensors").sha256


def test_other_labels_are_no_resume(labelled_run, tmp_path):
    command, whole = labelled_run
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    at = command.index("--labelled")
    again = [str(out) if part == str(whole) else part for part in (*command[:at], *command[at + 2 :])]
    assert runs.run([*again, "--resume"]) == [1]
    assert "what differs from the run is data.labelled 2 (few)" in runs.said(out).splitlines()[-1]


def test_a_state_of_before_a_key_was_there_is_resumed(world, stage1, tmp_path):
    from iccld_cli.train.state import _record_digest

    out = tmp_path / "run"
    shutil.copytree(stage1, out)
    (out / "stage1.safetensors").unlink()
    path = out / "state" / "stage1-00000006" / "state.json"
    record = json.loads(path.read_text())
    del record["facts"]["config"]["seg"]["labelled_weight"]
    path.write_text(json.dumps(record | {"record_sha256": _record_digest(record)}))
    assert runs.run([*runs.seg_arguments(world, out), "--resume"]) == [0], runs.said(out)
    record["facts"]["config"]["seg"]["labelled_weight"] = 3.0
    path.write_text(json.dumps(record | {"record_sha256": _record_digest(record)}))
    assert runs.run([*runs.seg_arguments(world, out), "--resume"]) == [1]
    assert "config.seg.labelled_weight (3.0 -> 1.0)" in runs.said(out).splitlines()[-1]


def test_two_processes_train_as_one(world, few, labelled_run, tmp_path):
    command = runs.seg_arguments(world, tmp_path / "pair", "--labelled", str(few), batch=1)
    assert runs.run(command, ranks=2) == [0, 0], runs.said(tmp_path / "pair", 1)
    one, two = runs.numbers(labelled_run[1])[0], runs.numbers(tmp_path / "pair")[0]
    assert two["loss_labelled"] == pytest.approx(one["loss_labelled"], rel=2e-3)


def test_what_cannot_be_learnt_is_one_line(world, few, tmp_path):
    blank = runs.make_dataset(tmp_path / "blank", labelled=False)
    with pytest.raises(IccldError, match=r"blank has no labelled frame in its split `train`.*--masks"):
        open_data([world / "source"], [world / "target"], labelled=[blank])
    header = ModelHeader("stage1", load_config("tiny"), CITYSCAPES, CITYSCAPES.ids_of(("road", "sky")))
    data = open_data([world / "source"], [world / "target"], labelled=[few], start=header)
    assert data.notes == ("the start file does not know building, person, car: these labels are ignored",)
    out = tmp_path / "run"
    assert runs.run(runs.seg_arguments(world, out, "--labelled", str(few), "--source-only")) == [1]
    assert "--source-only learns from no labelled target: give the set as another --source" in runs.said(out)
    assert not out.exists()


def test_stage_2_goes_on_with_the_labels_of_stage_1(labelled_run, few, tmp_path):
    out = tmp_path / "stage2"
    command = runs.adv_arguments(labelled_run[1] / "stage1.safetensors", out, steps=2)
    assert runs.run(command) == [0], runs.said(out)
    assert all(row["loss_labelled"] > 0 for row in runs.numbers(out))
    assert read_header(out / "stage2.safetensors").datasets[2]["path"] == str(few.resolve())
