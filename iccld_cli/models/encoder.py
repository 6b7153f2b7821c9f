"""Image encoder E: an image becomes a latent at 1/8 and inter-coder features at 1/4.

Shapes: B batch, H x W image (multiples of 32), C_z latent channels, S inter-coder channels.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.diffusion.latent import normalise_latent

PYRAMID_STRIDES = (4, 8, 16, 32)


def keep_statistics(module: nn.Module) -> None:
    """Let the batch norms of a module use their running statistics, and leave them as they are, while it trains."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


class KeepsStatistics(nn.Module):
    """A network whose batch norms can keep their running statistics in training."""

    keeps_statistics = False

    def keep_statistics(self) -> None:
        """From now on the batch norms use their statistics as they are, whatever `train` is called with."""
        self.keeps_statistics = True
        keep_statistics(self)

    def train(self, mode: bool = True) -> KeepsStatistics:
        """As of every module; the batch norms stay in evaluation mode where they keep their statistics."""
        super().train(mode)
        if self.keeps_statistics:
            keep_statistics(self)
        return self


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class TinyBackbone(nn.Module):
    """A small convolutional pyramid trained from scratch, for the demo and the tests.

    Attributes:
        channels: Widths of the pyramid at 1/4, 1/8, 1/16 and 1/32.
    """

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.stem = ConvNormAct(3, channels[0], stride=2)
        widths = (channels[0], *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNormAct(a, b, stride=2), _Residual(b)) for a, b in itertools.pairwise(widths)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> features at 1/4, 1/8, 1/16 and 1/32."""
        x = self.stem(images * 4 - 2)
        pyramid = []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return pyramid


class Encoder(KeepsStatistics):
    """E: backbone pyramid -> (z_0, inter-coder features).

    The pyramid is fused at 1/8 and every cell is normalised over its channels, so that the latent has unit variance
    without a measured scale factor (latent diffusion needs one elsewhere: Rombach et al. 2022, section G).
    No norm here looks at the rest of an image while predicting: statistics of a whole frame are not those of the
    training crops, in which rare classes are frequent, and a group norm loses just these classes for it.
    """

    def __init__(self, backbone: nn.Module, channels: tuple[int, ...], latent: int, fuse: int, skip: int) -> None:
        """Join a backbone with the fusion.

        Args:
            backbone: Images (B, 3, H, W) in [0, 1] -> list of features at 1/4, 1/8, 1/16, 1/32.
            channels: Widths of these four features.
            latent: C_z.
            fuse: Width of the fusion.
            skip: S, channels of the inter-coder features; 0 for no connection.
        """
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList(nn.Conv2d(c, fuse, 1) for c in channels)
        self.fusion = nn.Sequential(
            nn.BatchNorm2d(4 * fuse),
            nn.ReLU(inplace=True),
            ConvNormAct(4 * fuse, 2 * fuse, kernel=1),
            nn.Conv2d(2 * fuse, latent, 3, padding=1),
        )
        self.skip = nn.Conv2d(channels[0], skip, 1) if skip else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Encode images.

        Args:
            images: (B, 3, H, W), RGB in [0, 1], sides multiples of 32.

        Returns:
            z_0 (B, C_z, H/8, W/8), each cell of zero mean and unit variance over its channels, the inter-coder
            features (B, S, H/4, W/4) or None, and the backbone's deepest features (B, C, H/32, W/32).
        """
        pyramid = self.backbone(images)
        size = (images.shape[-2] // 8, images.shape[-1] // 8)
        parts = []
        for stride, level, lateral in zip(PYRAMID_STRIDES, pyramid, self.laterals, strict=True):
            x = lateral(level)
            if stride < 8:
                x = F.avg_pool2d(x, 8 // stride)
            elif stride > 8:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            parts.append(x)
        z_0 = normalise_latent(self.fusion(torch.cat(parts, dim=1)))
        return z_0, None if self.skip is None else self.skip(pyramid[0]), pyramid[-1]
