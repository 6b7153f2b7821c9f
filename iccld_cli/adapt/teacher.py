"""The teacher: an exponential moving average of the student.

The paper names the two the other way round ("student" for the average); code and docs use the field's words.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from iccld_cli.models.segmenter import Segmenter


def ema_decay(horizon: float, iterations: int) -> float:
    """The decay whose average spans a share of the run.

    A fixed decay lags in short runs and follows noise in long ones.

    Args:
        horizon: Share of the run.
        iterations: Steps of the run.
    """
    return min(max(1 - 1 / max(horizon * iterations, 1), 0.9), 0.9999)


class Teacher:
    """EMA of a segmenter's parameters and buffers.

    A running mean first (decay 1 - 1/(n + 1)), so that the random start is forgotten, then `decay`.

    Attributes:
        average: torch's averaged model; its state belongs to the training state.
        decay: Largest decay.
    """

    def __init__(self, student: Segmenter, decay: float) -> None:
        self.decay = decay
        self._now = decay
        self.average = AveragedModel(student, multi_avg_fn=self._blend, use_buffers=True)
        self.average.requires_grad_(False).eval()

    @property
    def model(self) -> Segmenter:
        """The teacher as a segmenter, always in evaluation mode."""
        return cast(Segmenter, self.average.module)

    def update(self, student: Segmenter, step: int) -> None:
        """Take in the student after a step.

        Args:
            student: The trained network.
            step: Steps done before this one.
        """
        self._now = min(self.decay, 1 - 1 / (step + 1))
        self.average.update_parameters(student)

    def _blend(self, mine: list[Tensor], other: list[Tensor], _: Tensor) -> None:
        if torch.is_floating_point(mine[0]):
            torch._foreach_lerp_(mine, other, 1 - self._now)
        else:
            for a, b in zip(mine, other, strict=True):
                a.copy_(b)
