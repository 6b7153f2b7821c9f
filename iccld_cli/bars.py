"""Progress on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from iccld_cli.names import shown


class Update(Protocol):
    """Says how far something is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take (units done, units in all), and a note that follows them."""


class RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate of a task, such as `12.3 frames/s`."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.{1 if speed >= 1 else 2}f} {self.unit}/s", style="cyan")


_UPDATE_SECONDS = 0.1

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class _Lines:
    """Progress as lines, for files and pipes; work of less than ten seconds has none."""

    def __init__(self, what: str, unit: str, console: Console) -> None:
        self.what, self.unit, self.console = what, unit, console
        self.began = self.last = time.monotonic()
        self.first: int | None = None

    def update(self, done: int, total: int, now: float, note: str = "") -> None:
        """Say how far it is, if ten seconds have gone since the last time."""
        self.first = done if self.first is None else self.first  # what an earlier run did tells nothing of the rate
        if now - self.last < LINE_SECONDS:
            return
        self.last = now
        rate = (done - self.first) / max(now - self.began, 1e-6)
        left = f", {_clock((total - done) / rate)} left" if rate and total > done else ""
        line = f"{self.what}: {done}/{total or '?'} {self.unit}, {rate:.2f} a second{left}{note}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextlib.contextmanager
def progress_bar(what: str, unit: str, console: Console) -> Iterator[Update]:
    """A bar with rate and time left in front; where there is no terminal, a line every ten seconds.

    Args:
        what: What is going on, in a word or two.
        unit: What is counted, in the plural.
        console: Where it is shown.

    Yields:
        A function of (units done, units in all), and of a note that follows them.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("left,"),
        TimeElapsedColumn(),
        TextColumn("gone{task.fields[note]}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),  # takes what is left of the line
    )
    lines = _Lines(shown(what), unit, console)
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=True) as progress:
        task = progress.add_task(shown(what), total=None, note="")
        last = 0.0

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            note = f", {note}" if note else ""
            if not console.is_terminal:
                lines.update(done, total, now, note)
                return
            if now - last < _UPDATE_SECONDS and done != total:
                return  # an update costs as much as a small frame; a million of them were a sixth of the work
            last = now
            progress.update(task, completed=done, total=total or None, note=note)

        yield update
