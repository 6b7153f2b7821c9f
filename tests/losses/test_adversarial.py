"""Least-squares adversarial losses and the R1 penalty."""

import pytest
import torch
from torch import nn

from iccld_cli.losses.adversarial import gradient_penalty, scored_as_other, scored_as_source


def test_golden_values():
    assert float(scored_as_source(torch.tensor([1.0, 0.0, 3.0])).mean()) == pytest.approx((0 + 1 + 4) / 3)
    assert float(scored_as_other(torch.tensor([0.0, 2.0])).mean()) == pytest.approx(2.0)


def test_the_best_discriminator_has_no_loss():
    assert float(scored_as_source(torch.ones(3, 1, 2, 2)).mean()) == 0
    assert float(scored_as_other(torch.zeros(5, 1, 2, 2)).mean()) == 0


def test_no_scores_are_zero_and_not_nan():
    assert float(scored_as_source(torch.zeros(0, 1, 2, 2)).mean()) == 0


def test_penalty_of_a_linear_score():
    # D(z) = w . z has the gradient w everywhere.
    latents = torch.randn(3, 2, 4, 4, requires_grad=True)
    weight = torch.randn(2, 4, 4)
    scores = (latents * weight).sum(dim=(1, 2, 3))
    assert float(gradient_penalty(scores, latents).mean()) == pytest.approx(float(weight.square().sum()), rel=1e-5)


def test_penalty_and_its_gradient_against_finite_differences():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 1, 1)).double()
    latents = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def by_differences():
        total = 0.0
        with torch.no_grad():
            for index in range(latents.numel()):
                step = torch.zeros_like(latents).view(-1)
                step[index] = 1e-5
                step = step.view_as(latents)
                slope = (discriminator(latents + step).sum() - discriminator(latents - step).sum()) / 2e-5
                total += float(slope) ** 2
        return total / len(latents)

    penalty = gradient_penalty(discriminator(latents), latents).mean()
    assert penalty.item() == pytest.approx(by_differences(), rel=1e-6)
    weight = discriminator[0].weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    before = weight[1, 0, 1, 1].item()
    values = []
    for delta in (1e-4, -1e-4):
        with torch.no_grad():
            weight[1, 0, 1, 1] = before + delta
        values.append(by_differences())
    assert float(gradient[1, 0, 1, 1]) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4)
