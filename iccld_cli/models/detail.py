"""Two resolutions at once: context at half size, detail at full size, fused by learned attention.

After HRDA (Hoyer et al. 2022). A training crop of H x W becomes two views of H/2 x W/2 that pass
the network as one batch:

    context    the whole crop at half size
    detail     a window of half its sides, at full size

D predicts logits for both, and for the context also the weight of the detail in each cell (the attention a):

    fused = (1 - a) up(context) + a detail      inside the window, up(context) outside it

While predicting, the detail is the whole image: no layer looks at the rest of an image but the UNet's attention (see
`models.encoder`), so the paper's sliding windows are not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import Scored, View, channels_last

STEP = 8
"""Windows begin at multiples of this many pixels: whole cells of the latent."""


class TwoResolutions(Segmenter):
    """The ICCLD model that sees every image at two resolutions. Its D has one output more, the attention."""

    resolutions = 2

    def view(self, images: Tensor, rngs: Sequence[np.random.Generator]) -> View:
        """Context and a random detail window of each crop."""
        windows = draw_windows((images.shape[-2], images.shape[-1]), rngs).to(images.device, non_blocking=True)
        return DetailView(images, windows, self.config.model.detail_weight)

    def at_resolutions(self, images: Tensor) -> list[Tensor]:
        """Images at half and at full size."""
        return [F.avg_pool2d(images, 2), images]

    def decode(self, latents: Sequence[Tensor], skips: Sequence[Tensor | None]) -> Tensor:
        """float32 logits (B, K, H/4, W/4), fused."""
        context, detail = (self.decoder(z, skip).float() for z, skip in zip(latents, skips, strict=True))
        return fuse_whole(context, detail)


class DetailView(View):
    """Training crops as their contexts, and after those as their detail windows: V = 2B views of half the sides."""

    def __init__(self, images: Tensor, windows: Tensor, detail_weight: float) -> None:
        """Cut the views.

        Args:
            images: Crops (B, 3, H, W).
            windows: (B, 2) from `draw_windows`.
            detail_weight: Weight of the detail's own loss; the fused one has the rest.
        """
        super().__init__(split_images(images, windows))
        self.windows = windows
        self.detail_weight = detail_weight

    def of(self, images: Tensor) -> Tensor:
        """See `View.of`."""
        return split_images(images, self.windows)

    def rows(self, values: Tensor) -> Tensor:
        """See `View.rows`."""
        return torch.cat([values, values])

    def maps(self, maps: Tensor) -> Tensor:
        """See `View.maps`."""
        return split_labels(maps, self.windows)

    def scored(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Iterator[Scored]:
        """The fused logits against the crops' labels, and the details' own against those of the windows."""
        fused, detail = fuse(logits, self.windows)
        yield Scored(1 - self.detail_weight, fused, labels, weights)
        inside: list[Any] = [None if maps is None else cut_windows(maps, self.windows) for maps in (labels, weights)]
        yield Scored(4 * self.detail_weight, detail, *inside)  # a window has a quarter of its crop's pixels

    def probabilities(self, logits: Tensor) -> Tensor:
        """See `View.probabilities`; the attention is no class."""
        return super().probabilities(logits[:, :-1])


def draw_windows(size: tuple[int, int], rngs: Sequence[np.random.Generator]) -> Tensor:
    """A random detail window for each image.

    Args:
        size: (H, W) of the images, multiples of 64.
        rngs: One generator an image.

    Returns:
        int64 (B, 2), top and left in pixels.
    """
    rows, columns = (side // 2 // STEP + 1 for side in size)
    return STEP * torch.tensor([(int(rng.integers(rows)), int(rng.integers(columns))) for rng in rngs])


def cut_windows(maps: Tensor, windows: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Windows of images or labels, one of each.

    Args:
        maps: (B, ..., H, W).
        windows: (B, 2), top and left in pixels, such as from `draw_windows`.
        size: (h, w) of the windows; None for half the sides.

    Returns:
        (B, ..., h, w).
    """
    planes = maps.reshape(len(maps), -1, *maps.shape[-2:])
    size = (maps.shape[-2] // 2, maps.shape[-1] // 2) if size is None else size
    rows, columns = (windows[:, i, None] + torch.arange(size[i], device=maps.device) for i in range(2))
    return _pick(planes, rows, columns).reshape(*maps.shape[:-2], *size)


def split_images(images: Tensor, windows: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> views (2B, 3, H/2, W/2), contexts first."""
    return channels_last(torch.cat([F.avg_pool2d(images, 2), cut_windows(images, windows)]))


def split_labels(labels: Tensor, windows: Tensor) -> Tensor:
    """Labels or pixel weights (B, H, W) -> those of the views (2B, H/2, W/2).

    The context takes one of each four pixels, because labels cannot be averaged.
    """
    return torch.cat([labels[..., ::2, ::2], cut_windows(labels, windows)])


def fuse(logits: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Fuse D's logits for the views of training crops.

    Args:
        logits: (2B, K + 1, h, w) at a quarter of the views' size, contexts first; the last channel is the attention's
            logit.
        windows: (B, 2) from `draw_windows`.

    Returns:
        Logits of the crops (B, K, 2h, 2w), and the detail's own (B, K, h, w).
    """
    context, detail = logits.float().chunk(2)
    detail, size = detail[:, :-1], (2 * detail.shape[-2], 2 * detail.shape[-1])
    whole, attention = _upsampled(context, size)
    # Where each cell of the crop lies in the window's logits, whose cells span 4 pixels.
    cells = [torch.arange(size[i], device=logits.device) - windows[:, i, None] // 4 for i in range(2)]
    inside = [(cell >= 0) & (cell < side) for cell, side in zip(cells, detail.shape[-2:], strict=True)]
    rows, columns = (cell.clamp(0, side - 1) for cell, side in zip(cells, detail.shape[-2:], strict=True))
    trust = attention * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return torch.lerp(whole, _pick(detail, rows, columns), trust), detail


def fuse_whole(context: Tensor, detail: Tensor) -> Tensor:
    """Fuse D's logits for whole images at half and at full size.

    Args:
        context: (B, K + 1, h, w).
        detail: (B, K + 1, 2h, 2w).

    Returns:
        Logits (B, K, 2h, 2w).
    """
    whole, attention = _upsampled(context.float(), (detail.shape[-2], detail.shape[-1]))
    return torch.lerp(whole, detail[:, :-1].float(), attention)


def _upsampled(context: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Logits (B, K, *size) and attention (B, 1, *size) of the context."""
    context = F.interpolate(context, size=size, mode="bilinear", align_corners=False)
    return context[:, :-1], context[:, -1:].sigmoid()


def _pick(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (B, h) and columns (B, w) of planes (B, C, H, W) -> (B, C, h, w), without waiting for the device."""
    batch = torch.arange(len(planes), device=planes.device)[:, None, None, None]
    channel = torch.arange(planes.shape[1], device=planes.device)[None, :, None, None]
    return planes[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]
