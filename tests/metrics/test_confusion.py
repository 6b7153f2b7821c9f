"""The confusion matrix against hand-made numbers and an independent implementation."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from iccld_cli.metrics.confusion import ConfusionMatrix


def random_batches(classes, seed=0):
    rng = np.random.default_rng(seed)
    for size in ((2, 17, 23), (1, 40, 31), (3, 8, 8)):
        label = rng.integers(0, classes, size).astype(np.uint8)
        wrong = rng.integers(0, classes, size).astype(np.uint8)
        prediction = np.where(rng.random(size) < 0.7, label, wrong)
        label[rng.random(size) < 0.15] = 255
        yield prediction, label


def test_golden_two_by_two():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1], [1, 2]]), np.array([[0, 0], [1, 255]]))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = matrix.scores()
    assert scores.iou[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores.iou[2])  # neither labelled nor predicted on a pixel that counts
    assert scores.miou == 0.5
    assert scores.pixel_accuracy == pytest.approx(2 / 3)
    assert scores.pixels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("classes", [2, 19])
def test_pooled_iou_matches_torchmetrics(classes):
    reference = MulticlassJaccardIndex(classes, ignore_index=255, validate_args=False, average="none")
    matrix = ConfusionMatrix(classes)
    for prediction, label in random_batches(classes):
        matrix.update(prediction, label)
        reference.update(torch.from_numpy(prediction).long(), torch.from_numpy(label).long())
    np.testing.assert_allclose(matrix.scores().iou, reference.compute().numpy(), rtol=1e-6)
    np.testing.assert_allclose(matrix.scores().miou, reference.compute().mean().item(), rtol=1e-6)


def test_subset_ignores_other_labels_and_keeps_other_predictions_as_errors():
    subset = (0, 2, 5)
    matrix = ConfusionMatrix(7)
    reference = MulticlassJaccardIndex(7, ignore_index=255, validate_args=False, average="none")
    for prediction, label in random_batches(7, seed=3):
        matrix.update(prediction, label)
        masked = np.where(np.isin(label, subset), label, 255)
        reference.update(torch.from_numpy(prediction).long(), torch.from_numpy(masked).long())
    np.testing.assert_allclose(matrix.scores(subset).iou, reference.compute().numpy()[list(subset)], rtol=1e-6)


def test_predictions_outside_the_subset_lower_the_score():
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 3, 3, 1]), np.array([0, 0, 0, 0, 3]))
    scores = matrix.scores((0, 1))
    assert scores.iou[0] == 0.5
    assert scores.pixel_accuracy == 0.5
    assert np.isnan(scores.iou[1])  # predicted, but only where the label is outside the subset


def test_counts_do_not_depend_on_batching():
    prediction, label = np.arange(1000) % 5, (np.arange(1000) // 3) % 5
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(prediction, label)
    for part in range(0, 1000, 7):
        parts.update(prediction[part : part + 7], label[part : part + 7])
    assert (whole.counts == parts.counts).all()
    assert whole.counts.dtype == np.int64


def test_all_ignored_gives_nan_not_an_error():
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    scores = matrix.scores()
    assert np.isnan(scores.miou)
    assert np.isnan(scores.pixel_accuracy)


@pytest.mark.parametrize(
    ("prediction", "label", "words"),
    [
        ([0, 1], [0], "2 predictions for 1 labels"),
        ([0, 1], [0, 9], "label value 9"),
        ([0, 9], [0, 1], "prediction value 9"),
    ],
)
def test_values_outside_the_label_space_are_refused(prediction, label, words):
    with pytest.raises(ValueError, match=words):
        ConfusionMatrix(3).update(np.array(prediction), np.array(label))
