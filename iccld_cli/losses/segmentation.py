"""Segmentation losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.diffusion.latent import class_shares
from iccld_cli.labels import IGNORE


def segmentation_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Pixel-wise cross-entropy at the labels' resolution.

    The mean is over all pixels with a label, pixels of weight 0 included: few confident pixels give a small loss
    rather than a large one on little evidence (DACS, equation 3).

    Args:
        logits: (B, K, h, w), upsampled bilinearly where smaller than the labels.
        labels: (B, H, W) int64 trainIds, 255 ignored.
        weights: (B, H, W) in [0, 1], or None for 1 everywhere.
        count: What to divide by instead of the number of pixels with a label, where these images are only a part of
            the batch that the mean is over.

    Returns:
        Scalar; 0 where no pixel has a label.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    if weights is not None:
        loss = loss * weights
    return loss.sum() / ((labels != IGNORE).sum() if count is None else count).clamp(min=1)


def feature_distance(
    features: Tensor,
    reference: Tensor,
    labels: Tensor,
    classes: Tensor,
    share: float = 0.75,
    pool: Callable[[Tensor], Tensor] = torch.Tensor.detach,
) -> Tensor:
    """Distance to the features of the frozen pretrained encoder, on thing classes (DAFormer, equation 9).

    Args:
        features: (B, C, h, w) of the trained encoder.
        reference: (B, C, h, w) of the frozen one.
        labels: (B, H, W) int64 trainIds.
        classes: (K,) bool, True for the classes that count.
        share: A cell counts where one of these classes covers at least this share of it.
        pool: Turns the number of cells that count here into its mean over all parts of the batch.

    Returns:
        Scalar; 0 where no cell counts.
    """
    shares = class_shares(labels, len(classes), (features.shape[-2], features.shape[-1]))
    mask = ((shares * classes.view(1, -1, 1, 1)).amax(dim=1) >= share).float()
    distance = torch.linalg.vector_norm(features.float() - reference.float(), dim=1)
    return (distance * mask).sum() / pool(mask.sum()).clamp(min=1)
