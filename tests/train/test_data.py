"""The data sets of a run, opened together."""

import json

import numpy as np
import pytest
from training_runs import make_dataset

from iccld_cli.data.batches import Pool, TrainingBatches
from iccld_cli.labels import CITYSCAPES
from iccld_cli.sections import DataConfig
from iccld_cli.train.data import open_data

ROAD, BUILDING, SKY, CAR = CITYSCAPES.ids_of(("road", "building", "sky", "car"))


@pytest.fixture
def data(tmp_path):
    """A source that knows buildings, and a target whose labels call everything that stands sky."""
    source, target = make_dataset(tmp_path / "source"), make_dataset(tmp_path / "target")
    info = json.loads((target / "dataset.json").read_text())
    info |= {"classes_known": ["road", "sky", "car"], "covers": {"building": "sky", "train": "rider"}}
    (target / "dataset.json").write_text(json.dumps(info))
    return open_data([source], [target])


def test_classes_that_the_target_does_not_tell_apart_fold(data):
    assert data.classes == (ROAD, SKY, CAR)
    assert data.folds == {BUILDING: SKY}  # the target's rider is not trained, so nothing can become one
    assert data.facts()["classes"][-1] == "building as sky"


def test_folded_pixels_are_trained_and_drawn_as_the_class_that_takes_them_in(data):
    config = DataConfig(crop=(64, 64), batch_size=4, workers=0, source_scale=(1.0, 1.0))
    pools = Pool.of(data.sources), Pool.of(data.targets)
    folded = TrainingBatches(config, 0, *pools, data.classes, folds=data.folds)
    plain = TrainingBatches(config, 0, *pools, data.classes)
    frames = [f.pixels for _, f in pools[0].frames]
    sky = np.exp((1 - _share(frames, SKY, BUILDING)) / 0.1)
    road = np.exp((1 - _share(frames, ROAD)) / 0.1)
    drawn = folded.sampler.probabilities
    assert drawn[1] / drawn[0] == pytest.approx(sky / road)
    assert drawn[1] < plain.sampler.probabilities[1]
    labels = {name: np.unique(b[0]["label"]).tolist() for name, b in (("folded", folded), ("plain", plain))}
    assert labels == {"folded": [ROAD, SKY, CAR, 255], "plain": [ROAD, SKY, CAR, 255]}
    assert folded[0]["labelled"] > plain[0]["labelled"]


def _share(frames, *wanted):
    everything = sum(f[c] for f in frames for c in (ROAD, BUILDING, SKY, CAR))
    return sum(f[c] for f in frames for c in wanted) / everything
