"""Pseudo-labels: the teacher's labels of target images, and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iccld_cli.adapt.batch import DeviceBatch
from iccld_cli.models.detail import cut_windows
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import channels_last
from iccld_cli.parallel.ranks import sum_over_ranks
from iccld_cli.sections import PseudoConfig

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
    """Computes the weights of pseudo-labels.

    `threshold`: all pixels of an image have the same weight, the fraction of its pixels above a fixed threshold (DACS,
    equation 4). `quantile`: a pixel counts where its confidence is above a running quantile of its own class, so that
    classes with low confidence are used too (after class-balanced self-training, Zou et al. 2018). `balanced`: the
    same gates also choose the label, the class whose probability is largest relative to its gate (CBST, equation 7),
    so that rare classes do not lose their pixels to common ones.
    """

    histogram: Tensor

    def __init__(self, config: PseudoConfig, classes: int) -> None:
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
        low, high = self.config.limits
        total = self.histogram.sum(dim=1, keepdim=True)
        below = (self.histogram.cumsum(dim=1) < self.config.quantile * total).sum(dim=1)
        return (below / _BINS).clamp(low, high)

    @torch.no_grad()
    def forward(self, probabilities: Tensor, pseudo_valid: Tensor) -> PseudoLabels:
        """Label pixels, and add the confidence of the valid ones to the running histograms.

        Args:
            probabilities: float32 (B, K, H, W).
            pseudo_valid: bool (B, H, W), False on pixels without pseudo-labels.
        """
        confidence, labels = largest(probabilities)
        if self.config.gate == "threshold":
            confident = (confidence >= self.config.threshold).float().mean(dim=(1, 2), keepdim=True)
            return PseudoLabels(labels, confidence, confident * pseudo_valid)
        self._update(labels, confidence, pseudo_valid)
        gates = self.gates()
        if self.config.gate == "balanced":
            # A class that never had the largest probability has no gate yet; the lowest gate would favour it.
            measure = torch.where(self.histogram.sum(dim=1) >= 1, gates, 1.0)
            _, labels = largest(probabilities / measure.view(-1, 1, 1))
            confidence = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        return PseudoLabels(labels, confidence, ((confidence >= gates[labels]) & pseudo_valid).float())

    def _update(self, labels: Tensor, confidence: Tensor, pseudo_valid: Tensor) -> None:
        classes = self.histogram.shape[0]
        # NaN falls into some bin: the check of the loss reports it.
        cell = (labels * _BINS + (confidence * _BINS).long().clamp(0, _BINS - 1)).flatten()
        # bincount would make a GPU's host wait for its result's size.
        seen = torch.zeros(classes * _BINS, dtype=torch.int64, device=cell.device)
        seen = sum_over_ranks(seen.scatter_add_(0, cell, pseudo_valid.flatten().to(cell.dtype))).view(classes, _BINS)
        self.histogram.mul_(_MEMORY).add_(seen.to(self.histogram.dtype), alpha=1 - _MEMORY)


def largest(planes: Tensor) -> tuple[Tensor, Tensor]:
    """What `planes.max(dim=1)` gives, for one plane a class.

    torch searches the index number by number on a CPU; comparing with the maximum is several times as fast.

    Args:
        planes: (B, K, H, W), K at most 255, of no gradient.

    Returns:
        The largest values (B, H, W), and int64 (B, H, W) the first plane that has them, the last one for NaN.
    """
    classes = planes.shape[1]
    values = planes.amax(dim=1, keepdim=True)
    places = torch.arange(classes, 0, -1, dtype=torch.uint8, device=planes.device).view(-1, 1, 1)  # K - index
    found = (planes == values).view(torch.uint8).mul_(places).amax(dim=1)
    return values.squeeze(1), (classes - found.long()).clamp_(max=classes - 1)


@torch.no_grad()
def pseudo_label(
    teacher: Segmenter, gate: ConfidenceGate, batch: DeviceBatch, steps: int = 0, seed: int = 0
) -> PseudoLabels:
    """Label the target crops of a batch with the teacher; its input has no strong augmentation.

    Args:
        teacher: EMA model.
        gate: Computes the weights.
        batch: Its `target` and `pseudo_valid` are used, and `surroundings` where it has them.
        steps: Denoising steps.
        seed: Seed of the noise.
    """
    assert batch.target is not None and batch.pseudo_valid is not None
    seen = batch.target if batch.surroundings is None else batch.surroundings
    probabilities = teacher.probabilities(channels_last(seen), steps, seed)
    if batch.places is not None:
        probabilities = cut_windows(probabilities, batch.places, (batch.target.shape[-2], batch.target.shape[-1]))
    return gate(probabilities, batch.pseudo_valid)
