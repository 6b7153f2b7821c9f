"""`benchmarks/ensemble.py`: scores as `iccld evaluate` has them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import make_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import ensemble

from iccld_cli.checkpoint import save_segmenter
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.inference.evaluate import Scope, evaluate
from iccld_cli.inference.model import load_model
from iccld_cli.labels import CITYSCAPES


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_config, small_segmenter):
    """Two models of random weights, and one that knows another class."""
    folder, found = tmp_path_factory.mktemp("models"), []
    for seed, classes in ((0, (0, 2, 10, 13)), (1, (0, 2, 10, 13)), (2, (0, 2, 10, 11))):
        model = small_segmenter(classes=len(CITYSCAPES), denoiser=False, seed=seed)
        header = ModelHeader("stage1", small_config(), CITYSCAPES, classes)
        found.append(folder / f"{seed}.safetensors")
        save_segmenter(found[-1], model, header)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return PreparedDataset(make_dataset(tmp_path_factory.mktemp("set") / "set", (("train", 1), ("val", 3))))


def test_members_score_as_in_evaluate(files, data):
    models = [load_model(file, "cpu") for file in files[:2]]
    found = ensemble.score(models, data, "val")
    for model, scores in zip(models, found.members, strict=True):
        assert scores.miou == evaluate(model, data, Scope("val", boundary=False)).scores.miou
    assert found.frames == 3 and found.classes == ("road", "building", "sky", "car")
    assert found.gain == pytest.approx(100 * (found.mean.miou - max(m.miou for m in found.members)))


def test_the_mean_is_of_probabilities(files, data):
    """Of a model with itself it changes nothing; of two it is scored as their mean, computed here."""
    models = [load_model(file, "cpu") for file in files[:2]]
    twice = ensemble.score([models[0], models[0]], data, "val")
    assert twice.gain == 0 and np.array_equal(twice.counts[0], twice.counts[-1])
    frame = data.frames("val")[0]
    image, label = data.read_image(frame), data.read_label(frame)
    probabilities = [model.segment(image[None], ["probabilities"]).probabilities[0] for model in models]
    answer = (probabilities[0] + probabilities[1]).argmax(axis=0)
    right = [int(((answer == i) & (label == i)).sum()) for i in (0, 2, 10, 13)]
    assert ensemble.score(models, data, "val", limit=0).counts[-1, 0, 0].tolist() == right


def test_models_of_other_classes_are_refused(files, data):
    with pytest.raises(IccldError, match="different classes"):
        ensemble.score([load_model(file, "cpu") for file in files[1:]], data, "val")


def test_the_command_writes_every_split(files, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "result.json"
    given = [*map(str, files[:2]), "--data", str(data.root), "--split", "val", "train", "--classes", "road,car"]
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *given, "--device", "cpu", "--json", str(out)])
    ensemble.main()
    found = json.loads(out.read_text())["splits"]
    assert {split: one["frames"] for split, one in found.items()} == {"val": 3, "train": 1}
    assert list(found["val"]["members"]) == [str(file) for file in files[:2]]
    assert set(found["val"]["mean"]["iou"]) == {"road", "car"}
    assert found["val"]["worth_a_student"] == (found["val"]["gain"] >= 1)
    assert capsys.readouterr().out.count("The mean gains") == 2
