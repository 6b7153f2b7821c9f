"""The last line of a command is a command that goes on from there."""

import sys
from pathlib import Path

import cv2
import pytest

sys.path.append(str(Path(__file__).parents[1]))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.cli.hints import after_predict, after_training
from iccld_cli.data.prepared import PreparedDataset


@pytest.fixture
def sets(tmp_path):
    """A labelled set and one of footage, in a folder whose name wants quotes."""
    root = tmp_path / "my data"
    source = make_dataset(root / "town", "town", (("train", 2), ("val", 2)))
    return source, make_dataset(root / "road", "road", (("train", 2),), labelled=False)


def test_of_prepared_sets(iccld, next_command, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target = map(str, sets)
    status, said, _ = iccld("inspect", source, target)
    assert status == 0
    assert next_command(said) == ["adapt-seg", "--source", source, "--target", target, "--out", "runs/town-road"]
    assert next_command(iccld("inspect", source)[1]) == ["evaluate", "--data", source, "--split", "val"]
    assert next_command(iccld("inspect", target)[1]) == ["adapt", target, "--out", "road-model"]


def test_of_prepare(iccld, next_command, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), scene(0, 64, 48)[0])
    out = tmp_path / "data"
    status, said, err = iccld("prepare", "--images", tmp_path / "one", "--out", out)
    assert status == 0, err
    assert next_command(said) == ["inspect", str(out / "one")]
    assert f"open {out / 'one/index.html'}" in said.splitlines()
    mixed = "prepare", "--images", tmp_path / "two", "--virtual", 2, "--look", "game", "--size", "64x32", "--out", out
    status, said, err = iccld(*mixed)
    assert status == 0, err
    assert next_command(said) == ["inspect", str(out / "virtual-game"), str(out / "two")]


def test_of_evaluate_and_predict(iccld, next_command, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = make_model(tmp_path / "m.safetensors"), sets[0]
    status, said, err = iccld("evaluate", "--data", data, "--ckpt", model)
    assert status == 0, err
    assert next_command(said) == ["predict", str(data / "images"), "--ckpt", str(model)]
    status, said, err = iccld("predict", data / "images", "--ckpt", model, "--save", "dataset")
    assert status == 0, err
    assert next_command(said) == ["inspect", "predictions/dataset"]
    status, said, err = iccld("predict", data / "images", "--ckpt", model, "--save", "labels", "--backend", "torch")
    assert status == 0, err
    assert next_command(said) == ["export", "--ckpt", str(model), "--format", "openvino", "--out", "m.xml"]


def test_a_shipped_model_is_adapted_to_footage_alone(tmp_path):
    video, photo = str(make_video(tmp_path / "v.mp4", frames=2)), tmp_path / "a.png"
    photo.write_bytes(b"")
    file = Path("iccld-roads.safetensors")
    assert after_predict([video], None, file) == ["adapt", video, "--out", "my-road"]
    assert after_predict([str(tmp_path)], Path("roads"), file)[-2:] == ["--ckpt", Path("roads")]
    for given in (str(photo), "rtsp://cam/1", "https://host/v.mp4", f"{tmp_path}/*.mp4", "-", "0"):
        assert after_predict([video, given], None, file) == []
    assert after_predict([video], Path("m.onnx"), Path("m.onnx")) == []


def test_a_trained_model_is_scored_where_there_are_labels(sets):
    source, target = map(PreparedDataset, sets)
    assert after_training(Path("m"), source, [target]) == ["evaluate", "--ckpt", Path("m"), "--data", source.root]
    assert after_training(Path("m"), None, [target]) == ["predict", target.root / "images", "--ckpt", Path("m")]
    assert after_training(Path("m"), None, []) == []
