"""Loss of the denoising UNet's estimate of the clean latent."""

from __future__ import annotations

from torch import Tensor


def latent_loss(estimate: Tensor, clean: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean squared error of clean-latent estimates.

    Args:
        estimate: (B, C_z, h, w).
        clean: (B, C_z, h, w).
        weight: (B, 1, h, w) in [0, 1].
        count: What to divide by instead of the sum of the weights, where these latents are only a part of the batch.

    Returns:
        Scalar.
    """
    error = (estimate.float() - clean).square().mean(dim=1, keepdim=True)
    return (error * weight).sum() / (weight.sum() if count is None else count).clamp(min=1)
