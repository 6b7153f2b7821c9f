"""A stage as the training loop sees it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from iccld_cli.adapt.batch import DeviceBatch
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.layout import Layout


class Stage(Protocol):
    """What the loop asks of a stage.

    Attributes:
        name: `source_only`, `stage1` or `stage2`.
        iterations: Steps of the whole run.
        student: The trained network, bare.
        network: What its gradient comes through, ready for data parallelism.
        modules: Everything with tensors that a resumed run needs, by name.
        optimizers: Every optimizer, by name.
        layout: Where their tensors lie.
    """

    name: str
    iterations: int
    student: Segmenter
    network: nn.Module
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    layout: Layout

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """Train on one micro-batch of a step, and step with the last one.

        Returns:
            Detached scalars, `loss` among them; the device is not waited for.
        """
        ...

    def result(self) -> Segmenter | None:
        """The model to validate and to save: the teacher, whole; all ranks together.

        Returns:
            The model on rank 0; elsewhere it may be None.
        """
        ...
