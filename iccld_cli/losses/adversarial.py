"""Least-squares adversarial losses on latent estimates (Mao et al. 2017, equation 2).

The discriminator scores a source estimate 1 and mixed and target estimates 0; the UNet is trained to have
the latter scored 1, so that the estimates of all three domains share one distribution (arXiv 2412.16859, method).
"""

from __future__ import annotations

import math

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


def scored_as_classes(scores: Tensor, shares: Tensor, source: bool) -> Reduced:
    """Cross-entropy with classes of one domain: FADA's loss (Wang et al. 2020, equations 4 and 5).

    Args:
        scores: Logits (B, 2K, h, w), the source's classes first.
        shares: How much of a cell is of each class, (B, K, h, w); their sum may be below 1.
        source: Whether the classes are the source's or the others'.

    Returns:
        The sum over cells, over their number.
    """
    nothing = torch.zeros_like(shares)
    wanted = torch.cat([shares, nothing] if source else [nothing, shares], dim=1)
    loss = -(wanted * scores.float().log_softmax(dim=1)).sum(dim=1)
    return total_of(loss)


def self_information(probabilities: Tensor) -> Tensor:
    """-p log p / log K of each class: what AdvEnt's discriminator sees (Vu et al. 2019, section 3.2).

    Args:
        probabilities: (B, K, h, w).

    Returns:
        (B, K, h, w), in [0, 1 / (e log K)].
    """
    return -probabilities * (probabilities + 1e-30).log() / math.log(probabilities.shape[1])
