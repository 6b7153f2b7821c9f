"""The running mean of the source latents of each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iccld_cli.diffusion.latent import prototype_sums
from iccld_cli.parallel.ranks import sum_over_ranks

_MEMORY = 0.99


class Prototypes(nn.Module):
    """Exponential moving averages of the source latents of each class."""

    sums: Tensor
    counts: Tensor

    def __init__(self, classes: int, latent: int) -> None:
        """Start without history.

        Args:
            classes: K.
            latent: C_z.
        """
        super().__init__()
        self.register_buffer("sums", torch.zeros(classes, latent))
        self.register_buffer("counts", torch.zeros(classes))

    @torch.no_grad()
    def update(self, latent: Tensor, shares: Tensor) -> None:
        """Update with source latents (B, C_z, h, w) and the class shares (B, K, h, w) of their cells."""
        sums, counts = (sum_over_ranks(t) for t in prototype_sums(latent.float(), shares))
        self.sums.mul_(_MEMORY).add_(sums)
        self.counts.mul_(_MEMORY).add_(counts)

    def means(self) -> tuple[Tensor, Tensor]:
        """Prototypes (K, C_z), and which classes have been seen, bool (K,)."""
        return self.sums / self.counts.clamp(min=1e-3).unsqueeze(1), self.counts >= 1
