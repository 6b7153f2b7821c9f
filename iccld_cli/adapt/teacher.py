"""The teacher: an exponential moving average of the student.

The paper names the two the other way round ("student" for the average); code and docs use the field's words.
"""

from __future__ import annotations

import copy

from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.layout import Layout
from iccld_cli.parallel.ranks import is_first


def ema_decay(horizon: float, iterations: int) -> float:
    """The decay whose average spans a fraction of the run.

    A fixed decay lags in short runs and follows noise in long ones.

    Args:
        horizon: Fraction of the run.
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
        layout: Where its tensors lie.
    """

    def __init__(self, student: Segmenter, decay: float, layout: Layout) -> None:
        self.decay = decay
        self.layout = layout
        self.model = copy.deepcopy(student).requires_grad_(False).eval()

    def whole(self) -> Segmenter | None:
        """The teacher on one device; all ranks together.

        Returns:
            The model itself, or where it is cut a copy on rank 0 and None elsewhere.
        """
        return self.layout.whole(self.model, wanted=is_first())

    def update(self, student: Segmenter, step: int) -> None:
        """Update with the student after a step.

        Args:
            student: The trained network, bare.
            step: Steps done before this one.
        """
        decay = min(self.decay, 1 - 1 / (step + 1))
        self.layout.average(self.model, student, 1 - decay)
