"""Latent discriminator: does an estimate z̄_0 come from the virtual source?"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class LatentDiscriminator(nn.Sequential):
    """A patch discriminator on latents; one score a patch of 8 x 8 cells.

    Spectral norm bounds its gradient (Miyato et al. 2018), which keeps the adversarial term from drowning the
    segmentation losses when the discriminator is far ahead.

    Input (B, C_z, h, w), output (B, 1, h/4, w/4) unbounded scores, high = source.
    """

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__(
            spectral_norm(nn.Conv2d(latent, channels, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, channels, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * channels, 1, 3, padding=1)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Score latents (B, C_z, h, w) -> (B, 1, h/4, w/4)."""
        return super().forward(latents)
