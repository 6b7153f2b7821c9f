"""Least-squares adversarial losses on latent estimates (Mao et al. 2017, equation 2).

The discriminator scores a source estimate 1 and mixed and target estimates 0; the UNet is trained to have
the latter scored 1, so that the estimates of all three domains share one distribution (arXiv 2412.16859, method).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iccld_cli.losses.reduced import Reduced, total_of


def scored_as_source(scores: Tensor) -> Reduced:
    """(D(z) - 1)^2: the UNet's loss on mixed and target estimates, and the discriminator's on source estimates."""
    return total_of((scores.float() - 1).square())


def scored_as_other(scores: Tensor) -> Reduced:
    """D(z)^2: the discriminator's loss on mixed and target estimates."""
    return total_of(scores.float().square())


def gradient_penalty(scores: Tensor, latents: Tensor) -> Reduced:
    """R1 penalty: squared norm of the score's gradient on source latents (Mescheder et al. 2018, equation 9).

    Args:
        scores: Scores of `latents`.
        latents: (B, C_z, h, w) that require gradients.

    Returns:
        The sum over latents, over their number.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), latents, create_graph=True)
    return total_of(gradient.square().sum(dim=(1, 2, 3)))
