"""Boundary IoU against the paper's own way of computing it: one erosion a class."""

import cv2
import numpy as np
import pytest

from iccld_cli.metrics.boundary import boundary_band, boundary_counts


def by_erosion(mask, distance):
    """The paper's `mask_to_boundary`: what a mask loses when it is eroded, the outside of the image being no mask."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask.astype(bool) & ~eroded.astype(bool)


def blobs(seed, size, classes=5):
    rng = np.random.default_rng(seed)
    smooth = [cv2.GaussianBlur(rng.normal(size=size), (0, 0), 4) for _ in range(classes)]
    return np.argmax(smooth, axis=0).astype(np.uint8)


@pytest.mark.parametrize("distance", [1, 3])
def test_the_band_of_all_classes_is_that_of_each(distance):
    labels = blobs(0, (40, 61))
    band = boundary_band(labels, distance)
    for value in range(5):
        np.testing.assert_array_equal(band & (labels == value), by_erosion(labels == value, distance))


@pytest.mark.parametrize("size", [(90, 131), (7, 5)])
def test_counts_match_the_paper(size):
    label, prediction = blobs(1, size), blobs(2, size)
    prediction[: size[0] // 2] = label[: size[0] // 2]
    label[-2:] = 255
    distance = max(1, round(0.02 * np.hypot(*size)))
    inner, outer = boundary_counts(prediction, label, 5)
    prediction = np.where(label == 255, 255, prediction)
    for value in range(5):
        expected, found = by_erosion(label == value, distance), by_erosion(prediction == value, distance)
        assert inner[value] == (expected & found).sum()
        assert outer[value] == (expected | found).sum()


def test_a_perfect_answer_has_full_overlap_and_a_shifted_outline_little():
    label = np.zeros((100, 100), np.uint8)
    label[:, 50:] = 1
    inner, outer = boundary_counts(label, label, 2)
    assert (inner == outer).all() and (inner > 0).all()
    inner, outer = boundary_counts(np.roll(label, 2, axis=1), label, 2)
    assert (inner / outer < 0.95).all()  # though 98 % of the pixels are right
