"""Loss of the denoising UNet's estimate of the clean latent."""

from __future__ import annotations

from torch import Tensor

from iccld_cli.losses.reduced import Reduced, total_of


def latent_error(estimate: Tensor, clean: Tensor, weight: Tensor) -> Reduced:
    """Squared error of clean-latent estimates, mean over channels.

    Args:
        estimate: (B, C_z, h, w).
        clean: (B, C_z, h, w).
        weight: (B, 1, h, w) in [0, 1].

    Returns:
        The weighted sum over cells, over the sum of the weights.
    """
    error = (estimate.float() - clean).square().mean(dim=1, keepdim=True)
    return total_of(error * weight, weight.sum())
