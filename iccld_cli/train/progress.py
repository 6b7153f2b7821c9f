"""The progress bar of a training run: step, rate, time left, losses, score, memory."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal, at most, if the log has one."""


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second."""
        speed = task.finished_speed or task.speed
        return Text("-- steps/s" if speed is None else f"{speed:.2f} steps/s", style="progress.data.speed")


class TrainingProgress:
    """A context manager around rich's progress bar; where there is no terminal it prints a line now and then."""

    def __init__(self, title: str, start: int, total: int, console: Console, enabled: bool) -> None:
        self._console = console
        self._enabled = enabled
        self._live = enabled and console.is_terminal
        self._done, self._total, self._title = start, total, title
        self._next_line = start
        self._began, self._start, self._told = time.monotonic(), start, 0.0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            # Of a narrow terminal this column alone loses letters.
            TextColumn("{task.fields[numbers]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=8),
            expand=True,
            console=console,
            disable=not self._live,
            speed_estimate_period=60,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, numbers="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count a step."""
        self._done += 1
        self._bar.advance(self._task)

    def report(self, row: dict[str, Any], miou: float | None) -> None:
        """Show the latest numbers.

        Args:
            row: The line of the log.
            miou: The newest mIoU in percent, if any yet.
        """
        shown = [f"{k.removeprefix('loss_')} {row[k]:.3g}" for k in row if k.startswith("loss")]
        if miou is not None:
            shown.append(f"miou {miou:.3g}")
        text = "  ".join([*shown, f"{row['memory_gib']:.2f} GiB"])
        self._bar.update(self._task, numbers=text)
        twentieth = max(self._total // 20, 1)
        now = time.monotonic()
        due = self._done + 1 >= self._next_line or "miou" in row or now - self._told >= LINE_SECONDS
        if self._enabled and not self._live and due:
            self._next_line, self._told = self._done + 1 + twentieth, now
            done = self._done + 1
            rate = (done - self._start) / max(now - self._began, 1e-6)
            left = timedelta(seconds=round((self._total - done) / max(rate, 1e-6)))
            pace = f"{rate:.2f} steps/s, {left} left"
            self._console.print(f"{self._title} {done}/{self._total}  {pace}  {text}", soft_wrap=True)
