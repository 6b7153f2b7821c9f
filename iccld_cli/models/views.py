"""How training crops pass the networks: as they are, or as several views of each.

A stage trains on crops and never knows how many views the model makes of them; it asks the view (`Segmenter.view`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Logits to be compared with labels.

    Attributes:
        factor: Factor on the sum of their loss. Relative to the whole crops', a loss over a part of them also makes up
            for its fewer pixels.
        logits: (B, K, h, w).
        labels: (B, H, W).
        weights: (B, H, W), or None for 1 everywhere.
    """

    factor: float
    logits: Tensor
    labels: Tensor
    weights: Tensor | None


def channels_last(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) with the channels last in memory, as the networks' weights lie."""
    return images.contiguous(memory_format=torch.channels_last)


class View:
    """Crops that pass the networks as they are.

    Attributes:
        images: (V, 3, h, w), what the encoder takes; here V = B crops of full size.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = channels_last(images)

    def __len__(self) -> int:
        return len(self.images)

    def of(self, images: Tensor) -> Tensor:
        """Other images (B, 3, H, W), seen as these crops are: (V, 3, h, w)."""
        return channels_last(images)

    def rows(self, values: Tensor) -> Tensor:
        """One value a crop (B,) as one a view (V,)."""
        return values

    def maps(self, maps: Tensor) -> Tensor:
        """Labels or pixel weights (B, H, W) as the views show them: (V, h, w)."""
        return maps

    def scored(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Iterator[Scored]:
        """What the labels of the crops are compared with.

        Args:
            logits: D's output for the views, (V, K, h/4, w/4).
            labels: Labels of the crops (B, H, W).
            weights: Weights of their pixels (B, H, W), or None.
        """
        yield Scored(1.0, logits, labels, weights)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (V, K, h/4, w/4) of D's output for the views."""
        return logits.float().softmax(dim=1)


def split_rows(rows: Tensor, views: Sequence[View]) -> tuple[Tensor, ...]:
    """Rows of several views that passed a network together, one tensor a view."""
    return rows.split([len(view) for view in views])


def join_views(views: Sequence[View]) -> Tensor:
    """The images of several views, to pass a network together."""
    return torch.cat([view.images for view in views])
