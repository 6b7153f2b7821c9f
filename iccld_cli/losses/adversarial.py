"""Least-squares adversarial losses on latent estimates (Mao et al. 2017, equation 2).

The discriminator scores a source estimate 1 and mixed and target estimates 0; the UNet is trained to have
the latter scored 1, so that the estimates of all three domains share one distribution (arXiv 2412.16859, method).
"""

from __future__ import annotations

import torch
from torch import Tensor


def generator_loss(scores: Tensor) -> Tensor:
    """Loss of the UNet on mixed or target estimates: mean (D(z) - 1)^2."""
    return (scores.float() - 1).square().mean()


def discriminator_loss(source: Tensor, other: Tensor, counts: Tensor | None = None) -> Tensor:
    """Loss of the discriminator: mean (D(source) - 1)^2 / 2 + mean D(other)^2 / 2.

    Args:
        source: Scores of source estimates; without any the loss is 0, for one domain alone teaches nothing.
        other: Scores of mixed and target estimates.
        counts: Numbers of scores of both kinds (2,) to divide by, where these are only a part of the batch.
    """
    if counts is None:
        counts = torch.tensor([source.numel(), other.numel()], device=other.device)
    on_source = (source.float() - 1).square().sum() / counts[0].clamp(min=1)
    on_other = other.float().square().sum() / counts[1].clamp(min=1)
    return 0.5 * (on_source + on_other) * (counts[0] > 0)


def gradient_penalty(scores: Tensor, latents: Tensor) -> Tensor:
    """R1 penalty: mean squared norm of the score's gradient on source latents (Mescheder et al. 2018, equation 9).

    Args:
        scores: Scores of `latents`.
        latents: (B, C_z, h, w) that require gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), latents, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
