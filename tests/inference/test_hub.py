"""Models in the form of the Hugging Face hub, and on a hub."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from factories import CLASSES, make_model, scene
from fake_hub import FakeHub
from huggingface_hub import ModelCard, ModelCardData

from iccld_cli import load
from iccld_cli.errors import IccldError
from iccld_cli.header import read_header
from iccld_cli.inference.api import Predictor
from iccld_cli.inference.hub import is_hub_id, model_card, save_folder
from iccld_cli.labels import CITYSCAPES


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A model without a UNet, which a process has read sooner."""
    return make_model(tmp_path_factory.mktemp("light") / "stage1.safetensors", "stage1")


@pytest.fixture(scope="module")
def image():
    return scene(1, 64, 48)[0]


@pytest.fixture
def run(tmp_path):
    """A function: hub, arguments -> the command's process, which takes the hub for the hub."""

    def command(environment, *arguments):
        words = [sys.executable, "-m", "iccld_cli", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment})

    return command


def test_a_saved_folder_answers_as_the_model_does(path, image, tmp_path):
    model = load(path, backend="torch")
    assert model.save_pretrained(tmp_path / "m") == tmp_path / "m"
    again = Predictor.from_pretrained(tmp_path / "m", backend="torch")
    assert np.array_equal(again.predict(image).labels, model.predict(image).labels)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["id2label"]["13"] == "car"
    assert config["iccld"]["sha256"] == read_header(path).sha256


def test_the_folder_does_not_tell_where_things_lie_here(path, tmp_path):
    save_folder(path, tmp_path / "m")
    text = b"".join(p.read_bytes() for p in (tmp_path / "m").iterdir())
    assert str(path.parent).encode() not in text


def test_the_card_is_one_that_the_hub_understands(path):
    header = read_header(path)
    header.datasets[:] = [{"role": "source", "name": "My | town: 1"}, {"role": "target", "name": "camvid"}]
    header.metrics["validation"] = {"miou": 54.6}
    card = ModelCard(model_card(header, "org/roads", "cc-by-nc-4.0", ["night"]), ignore_metadata_errors=False)
    data = card.data
    assert isinstance(data, ModelCardData)
    said = data.to_dict()
    assert (said["license"], said["library_name"]) == ("cc-by-nc-4.0", "iccld")
    assert said["pipeline_tag"] == "image-segmentation"
    assert (data.datasets, data.metrics) == (["my-town-1", "camvid"], ["mean_iou"])
    assert {"iccld", "stage2", "night"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_iou", 54.6)
    assert "road, building, vegetation, sky, car" in card.text
    assert "My \\| town: 1" in card.text


def test_a_card_beside_the_model_file_is_kept(path, tmp_path):
    copy = tmp_path / "roads.safetensors"
    copy.write_bytes(path.read_bytes())
    (tmp_path / "roads.md").write_text("# Roads\n\nNot for night.\n")
    save_folder(copy, tmp_path / "out")
    assert "Not for night." in (tmp_path / "out/README.md").read_text()


def test_an_exported_file_cannot_be_saved(tmp_path):
    with pytest.raises(IccldError, match="exported file"):
        save_folder(tmp_path / "m.onnx", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("org/roads", True), ("org/roads@v1.0", True), ("org/roads.safetensors", False), ("roads", False),
        ("a/b/c", False), ("/org/roads", False), ("here/roads", False), ("../roads", False), ("org/", False),
    ],
)  # fmt: skip
def test_what_is_taken_for_an_id(tmp_path, monkeypatch, text, is_id):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_id(text) == is_id


def test_up_to_a_hub_and_down_again(run, light, image, tmp_path):
    with FakeHub() as hub:
        cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
        told = hub.environment(tmp_path / "cache")
        done = run(told, "export", "--ckpt", light, "--format", "hub", "--out", "m", "--push", "org/roads")
        assert done.returncode == 0, done.stderr
        assert f"{hub.address}/org/roads" in done.stdout
        assert set(hub.models["org/roads"]) == {"README.md", "config.json", "model.safetensors"}
        assert hub.authorization == "Bearer hf_test"
        assert hub.models["org/roads"]["model.safetensors"] == (tmp_path / "m/model.safetensors").read_bytes()

        hub.models["org/roads"] |= {"evil.py": b"import os", "pytorch_model.bin": b"pickle"}
        hub.asked.clear()
        words = ("--out", "p", "--save", "labels", "--backend", "torch")
        done = run(told, "predict", "a.png", "--ckpt", "org/roads", *words)
        assert done.returncode == 0, done.stderr
        fetched = {p.partition("?")[0].rpartition("/")[2] for method, p in hub.asked if "/resolve/" in p}
        assert fetched == {"config.json", "model.safetensors"}
        labels = cv2.imread(str(tmp_path / "p/labels/a.png"), -1)
        assert np.array_equal(labels, load(light, backend="torch").predict(image).labels)

        done = run(told, "predict", "a.png", "--ckpt", "org/gone", *words)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "no model of that name" in done.stderr
    done = run({**told, "HF_HUB_OFFLINE": "1"}, "predict", "a.png", "--ckpt", "org/roads", *words, "--overwrite")
    assert done.returncode == 0, done.stderr  # from the cache
    done = run(told, "predict", "a.png", "--ckpt", "org/other", *words)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr.splitlines()[-1]


def test_classes_survive_the_way(path, tmp_path):
    save_folder(path, tmp_path / "m")
    assert read_header(tmp_path / "m/model.safetensors").classes == CLASSES
    assert read_header(tmp_path / "m/model.safetensors").label_space == CITYSCAPES
