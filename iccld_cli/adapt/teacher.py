"""The teacher: an exponential moving average of the student.

The paper names the two the other way round ("student" for the average); code and docs use the field's words.
"""

from __future__ import annotations

import copy

import torch

from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import is_first
from iccld_cli.parallel.sharding import blueprint, forget_forwards, join_segmenter, local


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

    A running mean first (decay 1 - 1/(n + 1)), so that the random start is forgotten, then `decay`. Both are
    functions of the step, so that its tensors are all the state it has; torch's `AveragedModel` would also make a GPU's
    host wait for its counter at each update.

    Attributes:
        model: The teacher as a segmenter, always in evaluation mode.
        decay: Largest decay.
    """

    def __init__(self, student: Segmenter, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(student).requires_grad_(False).eval()
        self._plan: Segmenter | None = None

    def expect_shards(self) -> None:
        """Note what a whole copy looks like; before the model is cut."""
        self._plan = blueprint(self.model)

    def whole(self) -> Segmenter | None:
        """The teacher on one device; all ranks together.

        Returns:
            The model itself, or where it is cut a copy on rank 0 and None elsewhere.
        """
        return self.model if self._plan is None else join_segmenter(self.model, self._plan, wanted=is_first())

    @torch.no_grad()
    def update(self, student: Segmenter, step: int) -> None:
        """Take in the student after a step.

        Args:
            student: The trained network, bare.
            step: Steps done before this one.
        """
        decay = min(self.decay, 1 - 1 / (step + 1))
        mine, other = [*self.model.parameters(), *self.model.buffers()], [*student.parameters(), *student.buffers()]
        pairs = list(zip(mine, other, strict=True))
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([local(a) for a, _ in floats], [local(b) for _, b in floats], 1 - decay)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
        if self._plan is not None:
            forget_forwards(self.model)
