"""Segmentation losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.diffusion.latent import class_shares, prototype_sums
from iccld_cli.labels import IGNORE
from iccld_cli.losses.reduced import Reduced, total_of


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, groups: Sequence[Sequence[int]] = ()
) -> Reduced:
    """Pixel-wise cross-entropy at the labels' resolution.

    Pixels of weight 0 count: few confident pixels give a small loss rather than a large one on little evidence (DACS,
    equation 3).

    Args:
        logits: (B, K, h, w), upsampled bilinearly where smaller than the labels.
        labels: (B, H, W) int64 trainIds, 255 ignored.
        weights: (B, H, W), at least 0, or None for 1 everywhere.
        groups: TrainIds that label K + g may stand for: the loss there is -log of the sum of their probabilities
            (partial labels, Cour et al. 2011), so that a label that does not tell them apart takes no side.

    Returns:
        The sum, over the number of pixels with a label.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    if groups:
        each = logits.float().log_softmax(dim=1)
        of_groups = [torch.stack([each[:, i] for i in group], dim=1).logsumexp(dim=1, keepdim=True) for group in groups]
        loss = F.nll_loss(torch.cat([each, *of_groups], dim=1), labels, ignore_index=IGNORE, reduction="none")
    else:
        loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    if weights is not None:
        loss = loss * weights
    return total_of(loss, (labels != IGNORE).sum().float())


def feature_distance(
    features: Tensor, reference: Tensor, labels: Tensor, classes: Tensor, share: float = 0.75
) -> Reduced:
    """Distance to the features of the frozen pretrained encoder, on thing classes (DAFormer, equation 9).

    Args:
        features: (B, C, h, w) of the trained encoder.
        reference: (B, C, h, w) of the frozen one.
        labels: (B, H, W) int64 trainIds.
        classes: (K,) bool, True for the classes that count.
        share: A cell counts where one of these classes covers at least this share of it.

    Returns:
        The sum of distances, over the number of cells that count.
    """
    shares = class_shares(labels, len(classes), (features.shape[-2], features.shape[-1]))
    mask = ((shares * classes.view(1, -1, 1, 1)).amax(dim=1) >= share).float()
    distance = torch.linalg.vector_norm(features.float() - reference.float(), dim=1)
    return total_of(distance * mask, mask.sum())


def prototype_distance(
    source: Tensor, source_labels: Tensor, target: Tensor, target_labels: Tensor, classes: int
) -> Reduced:
    """Squared distance of the classes' mean latents in two domains, each of unit length.

    Args:
        source: Latents (B, C_z, h, w).
        source_labels: (B, H, W) int64 trainIds, 255 where a pixel is of no class.
        target: Latents (B, C_z, h, w).
        target_labels: (B, H, W) of these.
        classes: K.

    Returns:
        The sum over classes that both show, over their number.
    """
    means, seen = [], []
    for latent, labels in ((source, source_labels), (target, target_labels)):
        shares = class_shares(labels, classes, (latent.shape[-2], latent.shape[-1]))
        sums, counts = prototype_sums(latent.float(), shares)
        means.append(F.normalize(sums / counts.clamp(min=1).unsqueeze(1), dim=1))
        seen.append(counts > 0)
    both = (seen[0] & seen[1]).float()
    return total_of((means[0] - means[1]).square().sum(dim=1) * both, both.sum())
