"""Strong augmentation on the device: style alignment, colour jitter, blur.

All images are float32 (B, 3, H, W), RGB in [0, 1]; with one plane a channel they take half the time that they take with
the channels last, as the networks want them. Random numbers are drawn beforehand, one generator a sample,
so the result of a sample does not depend on the batch it is in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.sections import AugmentConfig

# Rows: achromatic, yellow-blue and red-green opponent axes over log RGB (Ruderman et al. 1998, equation 4),
# orthonormal, so the inverse is the transpose.
_OPPONENT = torch.tensor(
    [
        [1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5],
        [1 / 6**0.5, 1 / 6**0.5, -2 / 6**0.5],
        [1 / 2**0.5, -1 / 2**0.5, 0.0],
    ]
)
_DARKEST = 1 / 64


@dataclass(frozen=True)
class Jitter:
    """Random numbers of one batch, one entry a sample.

    Attributes:
        brightness: Factors (B,).
        contrast: Factors (B,).
        saturation: Factors (B,).
        hue: Shifts in radians (B,).
        sigma: Blur sigma in pixels (B,); 0 for none.
        style: Blend towards the other image's colour statistics (B,); 0 for none.
        blurs: Whether any sigma is above 0; asking the device for it would make the host wait.
        styles: Whether any style is above 0.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    sigma: Tensor
    style: Tensor
    blurs: bool
    styles: bool

    def to(self, device: torch.device) -> Jitter:
        """The same numbers on a device, in one asynchronous copy."""
        columns = (self.brightness, self.contrast, self.saturation, self.hue, self.sigma, self.style)
        moved = torch.stack(columns).to(device, non_blocking=True)
        return _jitter(moved, self.blurs, self.styles)


def draw_jitter(config: AugmentConfig, rngs: list[np.random.Generator]) -> Jitter:
    """Draw the random numbers of a batch, one generator a sample."""
    rows = []
    s = config.jitter_strength
    for rng in rngs:
        jitter = rng.random() < config.jitter_probability
        factors = rng.uniform(-s, s, 4) if jitter else np.zeros(4)
        sigma = rng.uniform(*config.blur_sigma) if rng.random() < config.blur_probability else 0.0
        style = rng.uniform(*config.style_strength) if rng.random() < config.style_probability else 0.0
        rows.append((1 + factors[0], 1 + factors[1], 1 + factors[2], factors[3] * np.pi / 4, sigma, style))
    table = np.array(rows).T
    return _jitter(torch.tensor(table, dtype=torch.float32), bool((table[4] > 0).any()), bool((table[5] > 0).any()))


def _jitter(table: Tensor, blurs: bool, styles: bool) -> Jitter:
    brightness, contrast, saturation, hue, sigma, style = table.unbind()
    return Jitter(brightness, contrast, saturation, hue, sigma, style, blurs, styles)


def style_align(images: Tensor, style_of: Tensor, jitter: Jitter) -> Tensor:
    """Give images the colour statistics of others: mean and spread of each log-opponent channel.

    After Reinhard et al. 2001 (colour transfer), with a random strength, so that a network sees the whole way
    between both domains.

    Args:
        images: (B, 3, H, W).
        style_of: (B, 3, H', W').
        jitter: Its `style` (B,) in [0, 1] is the strength; 0 keeps an image.
    """
    if not jitter.styles:
        return images
    axes = _opponent_axes(images.device)
    centred, _, std_s = _log_moments(images, axes)
    _, mean_t, std_t = _log_moments(style_of, axes)
    gain = (std_t / std_s.clamp(min=1e-3)).clamp(0.25, 4)  # (B, 3), one an axis
    # To the axes, times the gains, and back, as one matrix over log RGB.
    turn = axes.T @ (gain.unsqueeze(2) * axes)
    aligned = torch.baddbmm(mean_t, turn, centred).exp_().sub_(_DARKEST).clamp_(0, 1)
    return torch.lerp(images, aligned.view(images.shape), jitter.style.to(images.device).view(-1, 1, 1, 1))


@functools.lru_cache(maxsize=8)
def _opponent_axes(device: torch.device) -> Tensor:
    return _OPPONENT.to(device, non_blocking=True)


def _log_moments(images: Tensor, axes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log RGB around its means (B, 3, H W), these means (B, 3, 1), and the spread along each axis (B, 3)."""
    logs = (images + _DARKEST).log_().flatten(2)
    means = logs.mean(2, keepdim=True)
    centred = logs.sub_(means)
    covariance = centred @ centred.transpose(1, 2) / (logs.shape[2] - 1)
    return centred, means, (axes @ covariance * axes).sum(2).clamp_(min=0).sqrt_()


def jitter_images(images: Tensor, jitter: Jitter) -> Tensor:
    """Colour jitter and Gaussian blur (DACS, section 4.1), per image."""
    device = images.device
    column = [t.to(device).view(-1, 1, 1, 1) for t in (jitter.brightness, jitter.contrast, jitter.saturation)]
    images = (images * column[0]).clamp_(0, 1)
    mean = kornia.color.rgb_to_grayscale(images).mean((2, 3), keepdim=True)
    images = torch.lerp(mean, images, column[1]).clamp_(0, 1)
    gray = kornia.color.rgb_to_grayscale(images)
    images = torch.lerp(gray, images, column[2]).clamp_(0, 1)
    images = rotate_hue(images, jitter.hue.to(device))
    if jitter.blurs:
        images = blur(images, jitter.sigma.to(device))
    return images


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with 7 taps and reflected borders.

    kornia's own reads the sigmas back from the device, which makes the host wait for it.

    Args:
        images: (B, 3, H, W), sides above 3.
        sigma: (B,) in pixels; 0 for none.
    """
    batch, channels, height, width = images.shape
    taps = torch.arange(-3, 4, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (taps / sigma.clamp(min=1e-3).unsqueeze(1)).square()).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    # One group a channel of an image, so that each image has its own kernel.
    flat = F.pad(images, (3, 3, 3, 3), mode="reflect").reshape(1, batch * channels, height + 6, width + 6)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return flat.view(batch, channels, height, width)


def rotate_hue(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate colours about the grey axis.

    Equivalent to a hue shift at constant mean, and many times cheaper than the way through HSV.

    Args:
        images: (B, 3, H, W).
        angles: (B,) in radians.
    """
    cos, sin = angles.cos(), angles.sin()
    one = (1 - cos) / 3
    root = sin / 3**0.5
    row = torch.stack([cos + one, one - root, one + root], dim=-1)
    matrix = torch.stack([row, row.roll(1, -1), row.roll(2, -1)], dim=1)
    return torch.bmm(matrix, images.flatten(2)).clamp_(0, 1).view(images.shape)


def mask_blocks(images: Tensor, rngs: list[np.random.Generator], block: int, ratio: float) -> Tensor:
    """Mask random square blocks (MIC, equation 4).

    Args:
        images: (B, 3, H, W).
        rngs: One generator a sample.
        block: Side of a block in pixels.
        ratio: Fraction of the blocks that are masked.
    """
    height, width = images.shape[-2:]
    rows, columns = -(-height // block), -(-width // block)
    keep = torch.from_numpy(np.stack([rng.random((rows, columns)) >= ratio for rng in rngs]))
    keep = keep.to(images.device, images.dtype, non_blocking=True)
    keep = keep.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)[:, None, :height, :width]
    return images * keep
