"""The numbers of the steps since the last line of the log."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from iccld_cli.errors import IccldError
from iccld_cli.parallel.ranks import Ranks

_SHOWN_FRAMES = 8


@dataclass
class LogMeans:
    """Collects the numbers of steps and averages them for a line of the log.

    Numbers stay on the device until `collect`: looking at each step's would make the host wait for every step.
    What was collected but not yet logged belongs to the training state, so that a line of the log says the same
    whether or not the run was stopped between two lines.

    Attributes:
        ranks: The processes whose numbers are averaged.
        overflows: Whether gradient norms may be infinite now and then, as the loss scaling of fp16 provokes.
        rows: Collected numbers, one entry a step.
    """

    ranks: Ranks
    overflows: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)
    _stats: list[list[dict[str, Tensor]]] = field(default_factory=list)
    _names: list[list[str]] = field(default_factory=list)

    def add(self, step: int, stats: list[dict[str, Tensor]], names: list[str]) -> None:
        """Note a step.

        Args:
            step: Its number, from 0.
            stats: Scalars of each micro-batch, on the device.
            names: Frames that it saw.
        """
        self._steps.append(step)
        self._stats.append(stats)
        self._names.append(names)

    def collect(self) -> None:
        """Fetch the numbers of the noted steps from the device; all ranks together.

        Raises:
            IccldError: A number is not finite, on whichever rank.
        """
        own = [_mean([{k: float(v) for k, v in micro.items()} for micro in stats]) for stats in self._stats]
        bad = self._first_bad(own)
        reports: list[Any] = self.ranks.gather({"rows": own, "bad": bad})
        broken = [r["bad"] for r in reports if r["bad"]]
        if broken:
            first = min(broken, key=lambda b: b["step"])
            raise IccldError(
                f"training broke at step {first['step'] + 1}: {', '.join(first['terms'])} is not finite "
                f"(frames {', '.join(first['frames'])})",
                "the last good state is kept; lower optim.lr or use --precision fp32, and --resume",
            )
        rows = [_mean([r["rows"][i] for r in reports]) for i in range(len(own))]
        self.rows += [{k: v for k, v in row.items() if math.isfinite(v)} for row in rows]
        self._steps, self._stats, self._names = [], [], []

    def close(self) -> dict[str, float]:
        """Means of the collected steps, which are forgotten."""
        means, self.rows = _mean(self.rows), []
        return means

    def _first_bad(self, rows: list[dict[str, float]]) -> dict[str, Any] | None:
        for step, row, names in zip(self._steps, rows, self._names, strict=True):
            bad = [k for k, v in row.items() if not math.isfinite(v)]
            if self.overflows:
                bad = [k for k in bad if not k.endswith("grad_norm")]
            if bad:  # the total only repeats what one of its terms says
                terms = [k for k in bad if k != "loss"] or bad
                return {"step": step, "terms": terms, "frames": sorted(set(names))[:_SHOWN_FRAMES]}
        return None


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = sorted({k for row in rows for k in row})
    means = {}
    for key in keys:
        values = [row[key] for row in rows if key in row]
        means[key] = sum(values) / len(values)
    return means
