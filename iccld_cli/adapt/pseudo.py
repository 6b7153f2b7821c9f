"""Pseudo-labels: what the teacher says of a target image, and how far to believe it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iccld_cli.adapt.ranks import sum_over_ranks
from iccld_cli.config import SegConfig
from iccld_cli.models.segmenter import Segmenter

_BINS = 200
_MEMORY = 0.99


@dataclass(frozen=True)
class PseudoLabels:
    """Labels of target crops.

    Attributes:
        labels: int64 (B, H, W) trainIds.
        confidence: float32 (B, H, W), largest probability.
        weights: float32 (B, H, W) in [0, 1], how much a pixel counts.
    """

    labels: Tensor
    confidence: Tensor
    weights: Tensor


class ConfidenceGate(nn.Module):
    """Decides which pseudo-labels count.

    `threshold`: all pixels of an image count by the share of its pixels above a fixed threshold (DACS,
    equation 4). `quantile`: a pixel counts where it is more confident than a running quantile of its own class, so
    that classes the teacher is shy about are not silenced by the ones it is sure of (after class-balanced
    self-training, Zou et al. 2018).
    """

    histogram: Tensor

    def __init__(self, config: SegConfig, classes: int) -> None:
        """Start without history.

        Args:
            config: Mode and limits.
            classes: K.
        """
        super().__init__()
        self.config = config
        self.register_buffer("histogram", torch.zeros(classes, _BINS))

    def gates(self) -> Tensor:
        """Least confidence that counts, per class, (K,)."""
        low, high = self.config.confidence_range
        total = self.histogram.sum(dim=1, keepdim=True)
        below = (self.histogram.cumsum(dim=1) < self.config.confidence_quantile * total).sum(dim=1)
        return (below / _BINS).clamp(low, high)

    @torch.no_grad()
    def forward(self, labels: Tensor, confidence: Tensor, trusted: Tensor) -> Tensor:
        """Weigh pseudo-labels (B, H, W), and learn from their confidence; `trusted` is bool (B, H, W)."""
        if self.config.confidence == "threshold":
            share = (confidence >= self.config.confidence_threshold).float().mean(dim=(1, 2), keepdim=True)
            return share * trusted
        classes = self.histogram.shape[0]
        cell = (labels * _BINS + (confidence * _BINS).long().clamp(max=_BINS - 1)).flatten()
        # bincount would make a GPU's host wait for its result's size.
        seen = torch.zeros(classes * _BINS, dtype=torch.int64, device=cell.device)
        seen = sum_over_ranks(seen.scatter_add_(0, cell, torch.ones_like(cell))).view(classes, _BINS)
        self.histogram.mul_(_MEMORY).add_(seen.to(self.histogram.dtype), alpha=1 - _MEMORY)
        return ((confidence >= self.gates()[labels]) & trusted).float()


@torch.no_grad()
def pseudo_label(
    teacher: Segmenter, gate: ConfidenceGate, images: Tensor, trusted: Tensor, steps: int, seed: int
) -> PseudoLabels:
    """Label target crops with the teacher.

    Args:
        teacher: EMA model.
        gate: Weighs the labels.
        images: (B, 3, H, W) in [0, 1], without strong augmentation.
        trusted: (B, H, W) bool, False where no label is believed.
        steps: Denoising steps.
        seed: Seed of the noise.
    """
    confidence, labels = teacher.segment(images, steps=steps, seed=seed).probabilities.max(dim=1)
    return PseudoLabels(labels, confidence, gate(labels, confidence, trusted))
