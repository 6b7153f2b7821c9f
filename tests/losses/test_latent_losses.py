"""Loss of the clean latent's estimate."""

import torch

from iccld_cli.losses.latent import latent_error


def test_latent_error_against_numbers():
    estimate, clean = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    one = torch.ones(1, 1, 1, 1)
    assert float(latent_error(estimate, clean, one).mean()) == 5.0  # (1 + 9) / 2
    wide = estimate.expand(1, 2, 2, 2)
    weight = torch.tensor([[1.0, 0.5], [0.0, 0.5]]).view(1, 1, 2, 2)
    assert float(latent_error(wide, torch.zeros(1, 2, 2, 2), weight).mean()) == 5.0  # the weighted mean of equal errors


def test_latent_error_without_weight_is_zero_and_not_nan():
    estimate = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = latent_error(estimate, torch.randn(1, 2, 3, 3), torch.zeros(1, 1, 3, 3)).mean()
    loss.backward()
    assert loss.item() == 0 and (estimate.grad == 0).all()
