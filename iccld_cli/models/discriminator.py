"""Discriminator: does an estimate, or what is decoded from it, come from the virtual source?"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Sequential):
    """One score a patch, strides of 4 cells, over latents or maps of class probabilities.

    Spectral norm bounds its gradient (Miyato et al. 2018), which keeps the adversarial term from drowning the
    segmentation losses when the discriminator is far ahead.

    Input (B, C, h, w), output (B, 1, h/4, w/4) unbounded scores, high = source.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        """Build it.

        Args:
            inputs: C, channels of the input.
            channels: Width of the first two layers.
        """
        super().__init__(
            spectral_norm(nn.Conv2d(inputs, channels, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, channels, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * channels, 1, 3, padding=1)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Score latents or probabilities (B, C, h, w) -> (B, 1, h/4, w/4)."""
        return super().forward(maps)


class ClassDiscriminator(nn.Sequential):
    """For every cell a score of each class of the source and of each class of the others (FADA's code).

    Input (B, C, h, w), output logits (B, 2K, h, w), the source's classes first.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        """Build it.

        Args:
            inputs: C, channels of the input.
            classes: K.
        """
        super().__init__(
            nn.Conv2d(inputs, 256, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(256, 128, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 2 * classes, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Score latents (B, C, h, w) -> (B, 2K, h, w)."""
        return super().forward(maps)
