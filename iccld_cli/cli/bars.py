"""Progress on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

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
from rich.text import Text

from iccld_cli.cli.terminal import console as make_console
from iccld_cli.cli.terminal import shown


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


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time to go on the error stream, gone from piped output.

    Args:
        what: What is going on, in a word or two.
        unit: What is counted, in the plural.

    Yields:
        A function of (units done, units in all).
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = make_console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(shown(what), total=None)
        last = 0.0

        def update(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < _UPDATE_SECONDS and done != total:
                return  # an update costs as much as a small frame; a million of them were a sixth of the work
            last = now
            progress.update(task, completed=done, total=total or None)

        yield update
