"""Segmentation losses against loops and torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from iccld_cli.labels import IGNORE
from iccld_cli.losses.segmentation import feature_distance, pixel_cross_entropy
from iccld_cli.train.memory import saved_for_backward


@pytest.fixture
def logits():
    return torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def labels():
    labels = torch.randint(0, 4, (2, 6, 8), generator=torch.Generator().manual_seed(1))
    labels[0, :3] = IGNORE
    return labels


def test_cross_entropy_is_that_of_torch(logits, labels):
    torch.testing.assert_close(
        pixel_cross_entropy(logits, labels).mean(), F.cross_entropy(logits, labels, ignore_index=IGNORE)
    )


def test_golden_value():
    logits = torch.tensor([[[[2.0]], [[0.0]]]])  # (1, 2, 1, 1)
    loss = pixel_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).mean()
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))


def test_pixels_of_no_weight_count_in_the_mean(logits, labels):
    weights = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(2)).round()
    total, count = 0.0, 0
    for b in range(2):
        for y in range(6):
            for x in range(8):
                if labels[b, y, x] != IGNORE:
                    count += 1
                    total -= float(weights[b, y, x] * logits[b, :, y, x].detach().log_softmax(0)[labels[b, y, x]])
    assert pixel_cross_entropy(logits, labels, weights).mean().item() == pytest.approx(total / count, rel=1e-5)


def test_coarse_logits_are_upsampled(labels):
    coarse = torch.randn(2, 4, 3, 4)
    fine = F.interpolate(coarse, size=(6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixel_cross_entropy(coarse, labels).mean(), pixel_cross_entropy(fine, labels).mean())


@pytest.mark.parametrize("weights", [None, torch.ones(2, 6, 8)])
def test_nothing_labelled_is_zero_and_not_nan(logits, weights):
    loss = pixel_cross_entropy(logits, torch.full((2, 6, 8), IGNORE), weights).mean()
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_half_precision_logits_are_summed_in_full_precision(labels):
    logits = 50 * torch.randn(2, 4, 6, 8)
    assert pixel_cross_entropy(logits.bfloat16(), labels).mean().dtype == torch.float32


def test_parts_add_up_to_the_whole(logits, labels):
    # With the whole batch's count, the mean over parts is the loss of the whole.
    count = (labels != IGNORE).sum() / 2
    parts = [pixel_cross_entropy(logits[i : i + 1], labels[i : i + 1]).over(count).mean() for i in range(2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, pixel_cross_entropy(logits, labels).mean())


def test_feature_distance_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    features, reference = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (2, 12, 16), generator=generator)
    labels[0, :4, :4] = 2  # a cell of one thing
    labels[0, 4:8, :3] = 1  # three quarters of a cell: just enough
    labels[0, 4:8, 3] = 0
    labels[1, :4, 4:8] = IGNORE
    things = torch.tensor([False, True, True])
    total, count = 0.0, 0
    for b in range(2):
        for y in range(3):
            for x in range(4):
                cell = labels[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                if max(float((cell == c).float().mean()) for c in (1, 2)) >= 0.75:
                    count += 1
                    total += float((features[b, :, y, x] - reference[b, :, y, x]).norm())
    assert count >= 2
    loss = feature_distance(features, reference, labels, things).mean()
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_the_weighted_cross_entropy_is_that_of_torch(layout):
    torch.manual_seed(0)
    coarse = (5 * torch.randn(2, 4, 5, 7, dtype=torch.float64)).contiguous(memory_format=layout).requires_grad_()
    labels, weights = torch.randint(0, 4, (2, 20, 28)), torch.rand(2, 20, 28, dtype=torch.float64)
    labels[:, :3] = IGNORE
    fine = F.interpolate(coarse, (20, 28), mode="bilinear", align_corners=False)
    wanted = (F.cross_entropy(fine, labels, ignore_index=IGNORE, reduction="none") * weights).sum()
    found = pixel_cross_entropy(coarse, labels, weights).sum
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    gradients = [torch.autograd.grad(3 * loss, coarse)[0] for loss in (wanted, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(pixel_cross_entropy(coarse, labels, weights).sum, found)


def test_cross_entropy_keeps_nothing_of_the_labels_size_for_the_backward_pass():
    logits, labels = torch.randn(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 32, 32, dtype=torch.int64)
    kept = saved_for_backward(lambda: pixel_cross_entropy(logits, labels, torch.rand(2, 32, 32)).sum)
    assert kept <= logits.numel() * logits.element_size()


def test_cross_entropy_of_extreme_logits_stays_finite_and_that_of_broken_ones_does_not():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0], logits[0, 2, 1] = 1e4, 1e4
    logits.requires_grad_()
    loss = pixel_cross_entropy(logits, labels).mean()
    loss.backward()
    assert 1e3 < loss.item() < 1e4 and torch.isfinite(logits.grad).all()
    with torch.no_grad():
        logits[0, 0, 0, 0] = torch.nan
    assert not torch.isfinite(pixel_cross_entropy(logits, labels).mean())


def test_feature_distance_without_things_is_zero_and_not_nan():
    features = torch.randn(1, 5, 3, 4, requires_grad=True)
    labels = torch.zeros(1, 12, 16, dtype=torch.int64)
    loss = feature_distance(features, torch.randn(1, 5, 3, 4), labels, torch.tensor([False, True])).mean()
    loss.backward()
    assert loss.item() == 0
    assert (features.grad == 0).all()


def test_feature_distance_at_equal_features_has_a_finite_gradient():
    # The first step of a run: the trained encoder is still the frozen one.
    reference = torch.randn(1, 5, 3, 4)
    features = reference.clone().requires_grad_()
    labels = torch.ones(1, 12, 16, dtype=torch.int64)
    loss = feature_distance(features, reference, labels, torch.tensor([False, True])).mean()
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(features.grad).all()


def test_a_label_that_stands_for_several_classes_takes_no_side_between_them(logits, labels):
    """Against a loop over pixels: -log of the sum of the probabilities that the label allows."""
    labels[1, 2:4], labels[1, 4:] = 4, 5
    groups, total = ((0, 2), (1, 2, 3)), 0.0
    probabilities = logits.softmax(dim=1)
    for b, row, column in (labels != IGNORE).nonzero().tolist():
        label = int(labels[b, row, column])
        shown = groups[label - 4] if label >= 4 else (label,)
        total -= probabilities[b, list(shown), row, column].sum().log()
    found = pixel_cross_entropy(logits, labels, groups=groups)
    torch.testing.assert_close(found.sum, total)
    assert int(found.count) == int((labels != IGNORE).sum())
    loss = pixel_cross_entropy(logits, torch.full_like(labels, 4), groups=groups)
    (gradient,) = torch.autograd.grad(loss.sum, logits)
    assert (gradient[:, [0, 2]] < 0).all() and (gradient[:, [1, 3]] > 0).all()
