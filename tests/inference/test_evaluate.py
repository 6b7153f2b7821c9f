"""Evaluation against scores computed independently from the same predictions."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from factories import CLASSES, make_dataset, make_model
from torchmetrics.classification import MulticlassCalibrationError, MulticlassJaccardIndex

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.evaluate import (
    Scope,
    Scoring,
    check_label_space,
    evaluate,
    folded_predictions,
    labelled_frames,
    scored_classes,
)
from iccld_cli.inference.model import Sampling, Segmentation, load_model
from iccld_cli.labels import CITYSCAPES, LabelSpace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return PreparedDataset(make_dataset(tmp_path_factory.mktemp("data") / "camvid", sizes=((64, 48), (61, 45))))


def test_scores_match_an_independent_implementation(model, dataset):
    classes = scored_classes(CLASSES, dataset)
    assert CITYSCAPES.names_of(classes) == ("road", "building", "sky", "car")
    seen = []
    result = evaluate(model, dataset, Scope("val", classes), progress=lambda *p: seen.append(p))

    jaccard = MulticlassJaccardIndex(19, ignore_index=255, validate_args=False, average="none")
    calibration = MulticlassCalibrationError(19, n_bins=15, ignore_index=255)
    for frame in dataset.frames("val"):
        image = torch.from_numpy(dataset.read_image(frame)).permute(2, 0, 1)[None] / 255
        label = dataset.read_label(frame)
        label = torch.from_numpy(np.where(np.isin(label, classes), label, 255)).long()[None]
        probabilities = model.segmenter.probabilities(image)
        jaccard.update(probabilities.argmax(1), label)
        calibration.update(probabilities, label)
    iou = jaccard.compute()[list(classes)]
    assert result.miou == pytest.approx(100 * iou.mean().item(), abs=1e-3)
    assert result.ece == pytest.approx(calibration.compute().item(), abs=1e-4)
    assert seen[-1] == (3, 3)


def test_json_holds_the_documented_fields(model, dataset):
    raw = json.loads(
        json.dumps(evaluate(model, dataset, Scope(classes=dataset.info.known_ids())).to_json(), allow_nan=False)
    )
    assert {"miou", "pixel_accuracy", "classes", "subset", "images", "split", "steps", "ece"} <= raw.keys()
    assert raw["subset"] == ["road", "building", "pole", "sky", "car"]
    assert raw["images"] == 3
    assert raw["split"] == "val"
    assert raw["steps"] == 1
    assert raw["seconds_per_image"] > 0
    assert set(raw["classes"]["road"]) >= {"iou", "pixels"}
    assert raw["classes"]["pole"]["pixels"] == 0


def test_batches_of_one_run_are_as_large_as_asked(model, tmp_path, monkeypatch):
    frames = make_dataset(tmp_path / "camvid", counts=(("val", 40),), sizes=((32, 24),))
    sizes, segment = [], model.segment
    monkeypatch.setattr(model, "segment", lambda images, *rest: sizes.append(len(images)) or segment(images, *rest))
    evaluate(model, PreparedDataset(frames), Scope(batch_size=32))
    assert sizes == [32, 8]
    sizes.clear()
    work = Scoring(model, PreparedDataset(frames), Scope(batch_size=12))
    work.run(range(3), keep=lambda piece, state: None)
    assert sizes == [12, 4, 12, 4, 8]


def test_result_does_not_depend_on_batch_size(model, dataset):
    one, many = (evaluate(model, dataset, Scope(batch_size=b)) for b in (1, 8))
    assert abs(one.confusion - many.confusion).sum() <= 2  # rounding may turn a pixel that was a tie
    assert one.ece == pytest.approx(many.ece, abs=1e-5)


def test_further_passes_change_the_uncertainty_and_no_answer(dataset, tmp_path):
    # A model that is right in places and wrong in others; with one answer everywhere there is nothing to detect.
    model = load_model(make_model(tmp_path / "m.safetensors", seed=4))
    one = evaluate(model, dataset, Scope(limit=1))
    more = evaluate(model, dataset, Scope(limit=1), Sampling(samples=3, flip=True))
    mean = evaluate(model, dataset, Scope(limit=1), Sampling(samples=3, flip=True, average=True))
    assert (one.confusion == more.confusion).all()
    assert one.ece == more.ece
    assert one.auroc != more.auroc
    assert (mean.confusion != one.confusion).any()
    assert (one.to_json()["average"], mean.to_json()["average"]) == (False, True)


def test_limit_is_spread_evenly(dataset):
    assert [f.image[-7:] for f in labelled_frames(dataset, "val", 2)] == ["000.png", "001.png"]
    assert len(labelled_frames(dataset, "val", 0)) == 3


def test_training_mode_is_restored(model, dataset):
    model.segmenter.train()
    evaluate(model, dataset, Scope("test", limit=1))
    assert model.segmenter.training
    model.segmenter.eval()


class Oracle:
    """Answers with the labels themselves, or with what a function makes of them."""

    backend, precision, device, digest = "labels", "exact", "cpu", ""

    def __init__(self, header, dataset, change=lambda label: label):
        self.header, self.change = header, change
        self.labels = iter([dataset.read_label(frame) for frame in dataset.frames("val")])

    def settle(self, sampling):
        return dataclasses.replace(sampling, steps=0, seed=0, height=0)

    def batch_size(self, size, sampling):
        return 1

    def segment(self, frames, want=(), size=None, sampling=None):
        label = next(self.labels)
        label = self.change(np.where(label == 255, 0, label).astype(np.uint8))[None]
        return Segmentation(label, np.ones(label.shape, np.float32), np.zeros(label.shape, np.float32))


def test_a_model_that_knows_the_answer_scores_100(model, dataset):
    scope = Scope(classes=dataset.info.known_ids())
    raw = evaluate(Oracle(model.header, dataset), dataset, scope).to_json()
    assert raw["miou"] == 100
    assert raw["pixel_accuracy"] == 100
    assert raw["ece"] == 0
    assert raw["classes"]["pole"]["iou"] is None  # neither labelled nor predicted: left out of the mean
    assert raw["auroc"] is None


def test_answers_that_the_labels_do_not_tell_apart_are_folded(model, tmp_path):
    """A truck is right where the labels know cars alone; a terrain is not, where no class covers it."""
    data = PreparedDataset(make_dataset(tmp_path / "camvid"))
    car, truck = CITYSCAPES.id_of("car"), CITYSCAPES.id_of("truck")
    covers = {"truck": "car", "terrain": "vegetation", "road": "car"}
    data.info = dataclasses.replace(data.info, covers=covers)
    header = dataclasses.replace(model.header, classes=(0, 2, 9, 10, truck))  # no car, and terrain for vegetation
    assert folded_predictions(header.classes, data) == {truck: car}  # vegetation is not labelled; road is told apart
    assert CITYSCAPES.names_of(scored_classes(header.classes, data)) == ("road", "building", "sky", "car")
    trucks = Oracle(header, data, lambda label: np.where(label == car, truck, label).astype(np.uint8))
    result = evaluate(trucks, data, Scope())
    assert (result.miou, result.folded) == (100, {"truck": "car"})
    unfolded = dataclasses.replace(header, classes=(0, 2, 10, car))  # it answers what it does not know
    trucks = Oracle(unfolded, data, lambda label: np.where(label == car, truck, label).astype(np.uint8))
    assert evaluate(trucks, data, Scope()).to_json()["classes"]["car"]["iou"] == 0


def test_wrong_input_is_one_error(model, dataset, tmp_path):
    with pytest.raises(IccldError, match=r"no frames in split 'train'.*val \(3\)"):
        evaluate(model, dataset, Scope("train"))
    unlabelled = PreparedDataset(make_dataset(tmp_path / "own", labelled=False))
    with pytest.raises(IccldError, match="no labels in split 'val'"):
        evaluate(model, unlabelled, Scope())
    other = LabelSpace("mine", (*CITYSCAPES.names[:18], "tram"), CITYSCAPES.colors)
    with pytest.raises(IccldError, match="label space"):
        check_label_space(other, dataset)
    small = PreparedDataset(make_dataset(tmp_path / "small"))
    space = LabelSpace("three", CITYSCAPES.names[:14], CITYSCAPES.colors[:14])
    small.info = dataclasses.replace(small.info, label_space=space)
    with pytest.raises(IccldError, match=r"'three' \(14 classes\), the model .*19"):
        evaluate(model, small, Scope())


def test_bad_label_value_names_the_file(model, tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "bad"))
    cv2.imwrite(str(data.root / "labels/val/001.png"), np.full((48, 64), 77, np.uint8))
    with pytest.raises(IccldError, match=r"001\.png: it holds the label value 77"):
        evaluate(model, data, Scope())


def test_missing_image_names_the_file(model, tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "gone"))
    (data.root / "images/val/002.png").unlink()
    with pytest.raises(IccldError, match=r"002\.png"):
        evaluate(model, data, Scope())
