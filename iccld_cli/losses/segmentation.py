"""Segmentation losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    known = labels != IGNORE
    count = known.sum().float()
    if not groups:
        weights = known.float() if weights is None else weights * known
        return Reduced(_CrossEntropySum.apply(logits, labels.masked_fill(~known, 0), weights), count)
    each = _at_size(logits, labels).float().log_softmax(dim=1)
    of_groups = [torch.stack([each[:, i] for i in group], dim=1).logsumexp(dim=1, keepdim=True) for group in groups]
    loss = F.nll_loss(torch.cat([each, *of_groups], dim=1), labels, ignore_index=IGNORE, reduction="none")
    return total_of(loss if weights is None else loss * weights, count)


def _at_size(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, K, h, w) at the size of labels (B, H, W)."""
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


class _CrossEntropySum(torch.autograd.Function):
    """The weighted sum of the cross-entropies of upsampled logits, with its gradient from the same exponentials.

    torch's own takes the exponentials again for the gradient and keeps tensors of the labels' size until then; this
    takes two thirds of its time on a CPU, and keeps what the logits' size needs.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Logits (B, K, h, w), labels (B, H, W) below K and weights (B, H, W), 0 where there is no label."""
        index, learns = labels.unsqueeze(1), ctx.needs_input_grad[0]
        with torch.set_grad_enabled(learns):
            leaf = logits.detach().requires_grad_(learns)
            fine = _at_size(leaf, labels)
        values = fine.detach().float()
        top = values.amax(dim=1, keepdim=True)
        shares = (values - top).exp_()  # (B, K, H, W)
        total = shares.sum(dim=1, keepdim=True)
        losses = total.log() + top - values.gather(1, index)
        if learns:
            # Of each pixel: weight (softmax - one-hot).
            weights_ = weights.unsqueeze(1)
            gradient = shares.mul_(weights_ / total).scatter_add_(1, index, -weights_.to(shares.dtype))
            ctx.save_for_backward(*torch.autograd.grad(fine, leaf, gradient.to(fine.dtype)))
        return (losses.squeeze(1) * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        """The gradient by the logits, times that of the sum."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None


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
