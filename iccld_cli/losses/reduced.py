"""What every loss returns: a sum and what to divide it by.

A loss sees a part of the batch: one micro-batch of one process. The mean that is wanted is over the whole batch, so
no loss divides; one place does (`adapt.terms`), after it has added up the counts of all processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reduced:
    """A loss before its division.

    Attributes:
        sum: Scalar with gradient.
        count: Scalar without gradient, what the mean divides by: pixels, cells or scores that count.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """The mean where this part is all there is; 0 where nothing counts."""
        return self.sum / self.count.clamp(min=1)

    def over(self, count: Tensor) -> Reduced:
        """The same sum with another count."""
        return Reduced(self.sum, count.detach())

    def scaled(self, factor: float) -> Reduced:
        """The loss times a factor."""
        return Reduced(factor * self.sum, self.count)

    def plus(self, other: Reduced) -> Reduced:
        """Both sums over the count of this one."""
        return Reduced(self.sum + other.sum, self.count)


def total_of(values: Tensor, count: Tensor | None = None) -> Reduced:
    """The sum of values, over their number or over a given count (scalar)."""
    if count is None:
        count = torch.full((), float(values.numel()), device=values.device)
    return Reduced(values.sum(), count.detach())
