"""Evaluation against scores computed independently from the same predictions."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from factories import CLASSES, make_dataset, make_model
from torchmetrics.classification import MulticlassCalibrationError, MulticlassJaccardIndex

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.evaluate import check_label_space, evaluate, labelled_frames, scored_classes
from iccld_cli.labels import CITYSCAPES, LabelSpace


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return load_segmenter(make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors"))[0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return PreparedDataset(make_dataset(tmp_path_factory.mktemp("data") / "camvid", sizes=((64, 48), (61, 45))))


def test_scores_match_an_independent_implementation(segmenter, dataset):
    classes = scored_classes(CLASSES, dataset)
    assert CITYSCAPES.names_of(classes) == ("road", "building", "sky", "car")
    seen = []
    result = evaluate(segmenter, dataset, "val", classes=classes, progress=lambda *p: seen.append(p))

    jaccard = MulticlassJaccardIndex(19, ignore_index=255, validate_args=False, average="none")
    calibration = MulticlassCalibrationError(19, n_bins=15, ignore_index=255)
    for frame in dataset.frames("val"):
        image = torch.from_numpy(dataset.read_image(frame)).permute(2, 0, 1)[None] / 255
        label = dataset.read_label(frame)
        label = torch.from_numpy(np.where(np.isin(label, classes), label, 255)).long()[None]
        probabilities = segmenter.probabilities(image)
        jaccard.update(probabilities.argmax(1), label)
        calibration.update(probabilities, label)
    iou = jaccard.compute()[list(classes)]
    assert result.miou == pytest.approx(100 * iou.mean().item(), abs=1e-3)
    assert result.ece == pytest.approx(calibration.compute().item(), abs=1e-4)
    assert seen[-1] == (3, 3)


def test_json_holds_the_documented_fields(segmenter, dataset):
    raw = json.loads(json.dumps(evaluate(segmenter, dataset, "val").to_json(), allow_nan=False))
    assert {"miou", "pixel_accuracy", "classes", "subset", "images", "split", "steps", "ece"} <= raw.keys()
    assert raw["subset"] == ["road", "building", "pole", "sky", "car"]
    assert raw["images"] == 3
    assert raw["split"] == "val"
    assert raw["steps"] == 1
    assert raw["seconds_per_image"] > 0
    assert set(raw["classes"]["road"]) >= {"iou", "pixels"}
    assert raw["classes"]["pole"]["pixels"] == 0


def test_result_does_not_depend_on_batch_size(segmenter, dataset):
    one, many = (evaluate(segmenter, dataset, "val", batch_size=b) for b in (1, 8))
    assert abs(one.confusion - many.confusion).sum() <= 2  # rounding may turn a pixel that was a tie
    assert one.ece == pytest.approx(many.ece, abs=1e-5)


def test_samples_add_the_disagreement(dataset, tmp_path):
    # A model that is right in places and wrong in others; with one answer everywhere there is nothing to detect.
    segmenter, _ = load_segmenter(make_model(tmp_path / "m.safetensors", seed=4))
    one = evaluate(segmenter, dataset, "val", limit=1)
    three = evaluate(segmenter, dataset, "val", limit=1, samples=3)
    assert one.auroc_disagreement is None
    assert 0 <= three.auroc_disagreement <= 1


def test_limit_is_spread_evenly(dataset):
    assert [f.image[-7:] for f in labelled_frames(dataset, "val", 2)] == ["000.png", "001.png"]
    assert len(labelled_frames(dataset, "val", 0)) == 3


def test_training_mode_is_restored(segmenter, dataset):
    segmenter.train()
    evaluate(segmenter, dataset, "test", limit=1)
    assert segmenter.training
    segmenter.eval()


def test_a_model_that_knows_the_answer_scores_100(dataset):
    class Oracle(torch.nn.Module):
        default_steps = 0
        frames = iter(dataset.frames("val"))

        def segment(self, images, **options):
            label = dataset.read_label(next(self.frames)).astype(np.int64)
            onehot = torch.nn.functional.one_hot(torch.from_numpy(np.where(label == 255, 0, label)), 19)
            found = onehot.permute(2, 0, 1)[None].float()
            return type("Out", (), {"probabilities": found, "disagreement": None})

    result = evaluate(Oracle(), dataset, "val")
    raw = result.to_json()
    assert raw["miou"] == 100
    assert raw["pixel_accuracy"] == 100
    assert raw["ece"] == 0
    assert raw["classes"]["pole"]["iou"] is None  # neither labelled nor predicted: left out of the mean
    assert raw["auroc"] is None


def test_wrong_input_is_one_error(segmenter, dataset, tmp_path):
    with pytest.raises(IccldError, match=r"no frames in split 'train'.*val \(3\)"):
        evaluate(segmenter, dataset, "train")
    unlabelled = PreparedDataset(make_dataset(tmp_path / "own", labelled=False))
    with pytest.raises(IccldError, match="no labels in split 'val'"):
        evaluate(segmenter, unlabelled, "val")
    other = LabelSpace("mine", (*CITYSCAPES.names[:18], "tram"), CITYSCAPES.colors)
    with pytest.raises(IccldError, match="label space"):
        check_label_space(other, dataset)
    small = PreparedDataset(make_dataset(tmp_path / "small"))
    space = LabelSpace("three", CITYSCAPES.names[:14], CITYSCAPES.colors[:14])
    small.info = dataclasses.replace(small.info, label_space=space)
    with pytest.raises(IccldError, match="the model predicts 19 classes"):
        evaluate(segmenter, small, "val")


def test_bad_label_value_names_the_file(segmenter, tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "bad"))
    cv2.imwrite(str(data.root / "labels/val/001.png"), np.full((48, 64), 77, np.uint8))
    with pytest.raises(IccldError, match=r"001\.png: it holds the label value 77"):
        evaluate(segmenter, data, "val")


def test_missing_image_names_the_file(segmenter, tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "gone"))
    (data.root / "images/val/002.png").unlink()
    with pytest.raises(IccldError, match=r"002\.png"):
        evaluate(segmenter, data, "val")
