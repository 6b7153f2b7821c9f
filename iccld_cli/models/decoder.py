"""Mask decoder D: a latent at 1/8 and inter-coder features at 1/4 become class logits at 1/4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.models.encoder import ConvNormAct, KeepsStatistics


class Decoder(KeepsStatistics):
    """D: (z, inter-coder features) -> logits."""

    def __init__(self, latent: int, skip: int, channels: int, classes: int) -> None:
        """Build the decoder.

        Args:
            latent: C_z, channels of the latent.
            skip: S, channels of the inter-coder features; 0 for none.
            channels: Width.
            classes: K, number of classes.
        """
        super().__init__()
        self.skip_channels = skip
        self.coarse = ConvNormAct(latent, channels)
        self.merge = ConvNormAct(channels + skip, channels)
        self.refine = ConvNormAct(channels, channels)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, z: Tensor, skip: Tensor | None, keep_skip: Tensor | None = None) -> Tensor:
        """Decode latents.

        Args:
            z: (B, C_z, H/8, W/8), z_0 or z̄_0.
            skip: (B, S, H/4, W/4) inter-coder features, or None where the connection is cut.
            keep_skip: (B,) bool; False drops an image's inter-coder features. None keeps all.

        Returns:
            (B, K, H/4, W/4) logits.
        """
        x = self.coarse(z)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if skip is not None:
            if keep_skip is not None:
                skip = skip * keep_skip.to(skip.dtype).view(-1, 1, 1, 1)
            x = torch.cat([x, skip], dim=1)
        return self.classify(self.refine(self.merge(x)))
