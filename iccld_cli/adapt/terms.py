"""The terms of a loss; here they are divided by their counts, weighted and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iccld_cli.losses.reduced import Reduced
from iccld_cli.losses.segmentation import pixel_cross_entropy
from iccld_cli.models.views import View
from iccld_cli.parallel.ranks import mean_over_ranks


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        name: Its name in the log, behind `loss_`.
        weight: Its factor in the total.
        loss: Its sum and count on this micro-batch of this process.
    """

    name: str
    weight: float
    loss: Reduced


def pooled_counts(losses: Sequence[Reduced]) -> Tensor:
    """Counts of losses on a micro-batch of one process, the mean over all processes, (N,); one message for all."""
    return mean_over_ranks(torch.stack([loss.count.float() for loss in losses]))


def divide(losses: Sequence[Reduced], counts: Tensor) -> list[Tensor]:
    """Means of losses over the whole batch of all processes.

    Gradients are averaged over processes and micro-batches, so each sum is divided by the mean count of one of them.

    Args:
        losses: N of them.
        counts: (N,) from `pooled_counts`.

    Returns:
        Scalars with gradient, whose mean over processes is the mean over the whole batch; 0 where nothing counts.
    """
    return [loss.sum / count for loss, count in zip(losses, counts.clamp(min=1), strict=True)]


def total(terms: Sequence[Term]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, and their values for the log.

    Returns:
        The loss, and `loss_<name>` of every term, unweighted and without gradient.
    """
    losses = [term.loss for term in terms]
    means = divide(losses, pooled_counts(losses))
    loss = torch.stack([term.weight * mean for term, mean in zip(terms, means, strict=True)]).sum()
    return loss, {f"loss_{term.name}": mean.detach() for term, mean in zip(terms, means, strict=True)}


def cross_entropy(
    view: View,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    groups: Sequence[Sequence[int]] = (),
) -> Reduced:
    """Cross-entropy of D's output for a view of crops.

    Args:
        view: The view of the crops that the logits belong to.
        logits: (V, K, h/4, w/4).
        labels: Labels of the crops (B, H, W).
        weights: Weights of their pixels (B, H, W), or None for 1 everywhere.
        groups: TrainIds that labels from K on stand for, see `pixel_cross_entropy`.

    Returns:
        The sum over all logits of the view that have labels, over the number of the crops' pixels with a label.
    """
    parts = [
        pixel_cross_entropy(part.logits, part.labels, part.weights, groups).scaled(part.factor)
        for part in view.scored(logits, labels, weights)
    ]
    loss = parts[0]
    for part in parts[1:]:
        loss = loss.plus(part)
    return loss
