"""Intervals from counts of images."""

import numpy as np
import pytest

from iccld_cli.metrics.bootstrap import interval, mean_of_classes, resampled_iou


def counts(images, seed=0):
    rng = np.random.default_rng(seed)
    labelled = rng.integers(100, 200, (images, 4))
    predicted = rng.integers(100, 200, (images, 4))
    right = (np.minimum(labelled, predicted) * rng.uniform(0.5, 1, (images, 4))).astype(np.int64)
    return np.stack([right, labelled, predicted], axis=1)


def test_resamples_are_pooled_scores_of_images_drawn_with_replacement():
    given = counts(3)
    drawn = np.random.default_rng(0).multinomial(3, [1 / 3] * 3, 250)[0]
    right, labelled, predicted = np.repeat(given, drawn, axis=0).sum(axis=0)
    np.testing.assert_allclose(resampled_iou(given)[0], right / (labelled + predicted - right))


def test_intervals_hold_the_score_shrink_with_images_and_repeat():
    widths = []
    for images in (10, 160):
        given = counts(images)
        found = mean_of_classes(resampled_iou(given))
        low, high = interval(found)
        right, labelled, predicted = given.sum(axis=0)
        assert low < (right / (labelled + predicted - right)).mean() < high
        assert interval(mean_of_classes(resampled_iou(given))) == (low, high)
        widths.append(high - low)
    assert widths[0] > 2.5 * widths[1]  # by the square root of 16, were the resamples infinitely many


def test_a_width_close_to_the_true_spread():
    """The spread of the mean over other sets of images of the same kind, against the interval from one of them."""
    true = np.std([_score(counts(60, seed)) for seed in range(300)])
    low, high = interval(mean_of_classes(resampled_iou(counts(60, 1000))))
    assert (high - low) / (2 * 1.96) == pytest.approx(true, rel=0.3)


def _score(given):
    right, labelled, predicted = given.sum(axis=0)
    return (right / (labelled + predicted - right)).mean()


def test_absent_classes_are_left_out():
    given = counts(5)
    given[..., 3] = 0
    found = resampled_iou(given)
    assert np.isnan(found[:, 3]).all()
    np.testing.assert_allclose(mean_of_classes(found), found[:, :3].mean(axis=1))
    assert interval(found[:, 3]) is None
