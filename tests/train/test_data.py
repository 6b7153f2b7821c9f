"""The data sets of a run, opened together."""

import json

import numpy as np
import pytest
from training_runs import make_dataset

from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.labels import CITYSCAPES
from iccld_cli.sections import DataConfig
from iccld_cli.train.data import open_data

ROAD, BUILDING, SKY, CAR = CITYSCAPES.ids_of(("road", "building", "sky", "car"))


@pytest.fixture
def folders(tmp_path):
    """A source that knows buildings, and a target whose labels call everything that stands sky."""
    source, target = make_dataset(tmp_path / "source"), make_dataset(tmp_path / "target", (("train", 3), ("val", 2)))
    info = json.loads((target / "dataset.json").read_text())
    info |= {"classes_known": ["road", "sky", "car"], "covers": {"building": "sky", "train": "rider"}}
    (target / "dataset.json").write_text(json.dumps(info))
    return [source], [target]


@pytest.fixture
def data(folders):
    return open_data(*folders, names=["road", "sky", "car"])


def header(*classes):
    return ModelHeader("stage1", load_config("tiny"), CITYSCAPES, CITYSCAPES.ids_of(classes))


def test_labels_of_a_target_change_nothing_that_is_learnt(folders):
    data = open_data(*folders)
    assert data.classes == (ROAD, BUILDING, SKY, CAR) and data.folds == {} and data.notes == ()
    assert data.held_back().root == folders[1][0]


def test_classes_that_are_not_learnt_fold_into_those_that_cover_them(data):
    assert data.classes == (ROAD, SKY, CAR)
    assert data.folds == {BUILDING: SKY}  # the target's rider is not trained, so nothing can become one
    assert data.resume_key()["classes"][-1] == "building as sky"


def test_classes_narrow_and_unknown_ones_are_named(folders):
    with pytest.raises(IccldError, match="truck cannot be trained here: choose among road, building, sky, car"):
        open_data(*folders, names=["road", "truck"])
    with pytest.raises(IccldError, match="did you mean 'road'"):
        open_data(*folders, names=["raod"])


def test_a_start_file_says_what_is_learnt(folders):
    data = open_data(*folders, start=header("road", "sky", "car", "person"))
    assert data.space.names_of(data.classes) == ("road", "sky", "person", "car")
    assert data.folds == {BUILDING: SKY}
    assert data.notes == ("no source knows person: only pseudo-labels keep them",)
    other = open_data(folders[0], [], start=header("road", "sky"))
    assert other.notes == ("the start file does not know building, car: these labels are ignored",)
    with pytest.raises(IccldError, match="know none of the classes"):
        open_data(*folders, start=header("person", "rider"))


def test_another_set_is_scored(folders, tmp_path):
    scored = make_dataset(tmp_path / "scored", (("val", 2),))
    assert open_data(*folders, val=scored).held_back().root == scored
    unlabelled = make_dataset(tmp_path / "unlabelled", (("val", 2),), labelled=False)
    with pytest.raises(IccldError, match=r"no labelled frames in a split `val`.*--val"):
        open_data(*folders, val=unlabelled)


def test_a_resumed_run_keeps_the_classes_of_its_state(folders):
    whole = open_data(*folders)
    older = whole.with_recorded_classes(["road", "sky", "car", "building as sky"])
    assert (older.classes, older.folds) == ((ROAD, SKY, CAR), {BUILDING: SKY})
    assert whole.with_recorded_classes(whole.resume_key()["classes"]) == whole


def test_folded_pixels_are_trained_and_drawn_as_the_class_that_takes_them_in(data):
    config = DataConfig(crop=(64, 64), batch_size=4, workers=0, source_scale=(1.0, 1.0))
    pools = FramePool.of(data.sources), FramePool.of(data.targets)
    folded = TrainingBatches(config, 0, *pools, data.classes, folds=data.folds)
    plain = TrainingBatches(config, 0, *pools, data.classes)
    frames = [f.pixels for _, f in pools[0].frames]
    sky = np.exp((1 - _share(frames, SKY, BUILDING)) / 0.1)
    road = np.exp((1 - _share(frames, ROAD)) / 0.1)
    drawn = folded.sampler.probabilities
    assert drawn[1] / drawn[0] == pytest.approx(sky / road)
    assert drawn[1] < plain.sampler.probabilities[1]
    labels = {name: np.unique(b[0].label).tolist() for name, b in (("folded", folded), ("plain", plain))}
    assert labels == {"folded": [ROAD, SKY, CAR, 255], "plain": [ROAD, SKY, CAR, 255]}
    assert folded[0].labelled > plain[0].labelled


def _share(frames, *wanted):
    everything = sum(f[c] for f in frames for c in (ROAD, BUILDING, SKY, CAR))
    return sum(f[c] for f in frames for c in wanted) / everything
