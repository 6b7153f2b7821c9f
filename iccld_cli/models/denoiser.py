"""Denoising UNet eps_theta: (z_t, t, z_0) becomes an estimate of the clean latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CellNorm(nn.Module):
    """Normalises each cell over its channels, in place of a group norm.

    A group norm's statistics span the image, and those of a whole frame are not those of the training crops
    (see `models.encoder.Encoder`).

    Attributes:
        fused: Whether torch's layer norm does it, which wants the channels last. Runtimes that keep them where they are
            are faster with the sums written out.
    """

    fused = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.fused:
            centred = x - x.mean(dim=1, keepdim=True)
            scale = torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + 1e-5)
            shape = (1, -1, *[1] * (x.dim() - 2))
            return centred * scale * self.weight.view(shape) + self.bias.view(shape)
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


def _norm_cells(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, CellNorm(child.num_channels))
        else:
            _norm_cells(child)


class Denoiser(nn.Module):
    """diffusers' `UNet2DModel` over [z_t ; z_0], as in the paper's figure 2.

    It always returns the clean estimate, so losses and samplers never branch on a prediction type. The network
    predicts what has to change in z_0: its last layer starts at zero, so that stage 2 begins exactly where
    stage 1 ended and can only learn improvements. (This project's decision; the paper leaves it open.)
    """

    def __init__(self, latent: int, channels: tuple[int, ...], layers: int, attention: bool) -> None:
        """Build the UNet.

        Args:
            latent: C_z.
            channels: Width of each level, from 1/8 downwards; multiples of 8.
            layers: Residual blocks a level.
            attention: Whether the deepest level attends globally.
        """
        super().__init__()
        # Here, because it takes seconds of processor time, and models of stage 1 have no UNet.
        from diffusers import UNet2DModel

        levels = len(channels)
        self.multiple = 2 ** (levels - 1)
        deepest = "Attn" if attention else ""
        self.unet = UNet2DModel(
            in_channels=2 * latent,
            out_channels=latent,
            down_block_types=(*["DownBlock2D"] * (levels - 1), f"{deepest}DownBlock2D"),
            up_block_types=(f"{deepest}UpBlock2D", *["UpBlock2D"] * (levels - 1)),
            block_out_channels=channels,
            layers_per_block=layers,
            norm_num_groups=8,
            attention_head_dim=8,
            add_attention=attention,
        )
        _norm_cells(self.unet)
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, z_t: Tensor, timesteps: Tensor, z_0: Tensor) -> Tensor:
        """Estimate the clean latent.

        Args:
            z_t: (B, C_z, h, w) noisy latent; h and w multiples of `self.multiple`.
            timesteps: (B,) int64.
            z_0: (B, C_z, h, w) the encoder's latent, the condition.

        Returns:
            (B, C_z, h, w).
        """
        return z_0 + self.unet(torch.cat([z_t, z_0], dim=1), timesteps).sample
