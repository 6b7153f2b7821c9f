"""Calibration and error detection against independent implementations."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryAUROC, MulticlassCalibrationError

from iccld_cli.metrics.calibration import CalibrationError, ErrorDetection


def test_ece_matches_torchmetrics_when_streamed():
    generator = torch.Generator().manual_seed(0)
    reference = MulticlassCalibrationError(6, n_bins=15, norm="l1")
    ours = CalibrationError(bins=15)
    for size in (500, 3, 2000):
        probabilities = torch.softmax(3 * torch.randn(size, 6, generator=generator), dim=1)
        label = torch.randint(0, 6, (size,), generator=generator)
        reference.update(probabilities, label)
        confidence, prediction = probabilities.max(dim=1)
        ours.update(confidence.numpy(), (prediction == label).numpy())
    assert ours.value() == pytest.approx(reference.compute().item(), abs=1e-6)


def test_ece_golden():
    ours = CalibrationError(bins=10)
    ours.update(np.array([0.95, 0.95, 0.55, 1.0]), np.array([True, False, True, True]))
    # Last bin: 2 of 3 right at mean confidence 0.9667; sixth bin: right at 0.55.
    assert ours.value() == pytest.approx((3 * abs(2 / 3 - 2.9 / 3) + 0.45) / 4)
    assert [n for _, _, n in ours.curve()] == [1, 3]


def test_ece_of_nothing_is_nan():
    assert np.isnan(CalibrationError().value())


def test_auroc_matches_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(20000, generator=generator) < 0.2
    score = torch.rand(20000, generator=generator) ** torch.where(wrong, 2.0, 9.0)
    reference = BinaryAUROC()(score, wrong.int()).item()
    ours = ErrorDetection()
    for part in range(0, 20000, 3000):
        ours.update(score[part : part + 3000].numpy(), ~wrong[part : part + 3000].numpy())
    assert ours.value() == pytest.approx(reference, abs=2e-4)


def test_auroc_limits():
    perfect, tied, one_sided = ErrorDetection(), ErrorDetection(), ErrorDetection()
    perfect.update(np.array([0.0, 0.1, 0.9, 1.0]), np.array([True, True, False, False]))
    tied.update(np.full(6, 0.3), np.array([True, False] * 3))
    one_sided.update(np.array([0.1, 0.2]), np.array([True, True]))
    assert perfect.value() == 1.0
    assert tied.value() == 0.5
    assert np.isnan(one_sided.value())
