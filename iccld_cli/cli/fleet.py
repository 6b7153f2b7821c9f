"""What the terminal shows of a work on many machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iccld_cli.bars import Update
from iccld_cli.cli.terminal import progress_bar, say

if TYPE_CHECKING:
    from iccld_cli.fleet.engine import Progress


@dataclass
class FleetBars:
    """A bar for all parts together, and after it one for joining them."""

    _what: str
    _unit: str
    _then: str
    _things: str
    _held: contextlib.ExitStack
    _bar: Update | None = None
    _second: Update | None = None

    def work(self, found: Progress) -> None:
        """Show how far the parts are."""
        if self._bar is None:
            self._bar = self._held.enter_context(progress_bar(self._what, self._unit))
        workers = f"{found.workers} worker{'s' * (found.workers != 1)}"
        self._bar(found.done, found.units, f"{found.parts}/{found.of} parts, {workers}")

    def join(self, done: int, total: int) -> None:
        """Show how far joining is."""
        if self._second is None:
            self._held.close()
            self._second = self._held.enter_context(progress_bar(self._then, self._things))
        self._second(done, total)

    @staticmethod
    def tell(line: str) -> None:
        """Print a line."""
        say(line, stderr=True)


@contextlib.contextmanager
def fleet_bars(what: str, unit: str, then: str, things: str) -> Iterator[FleetBars]:
    """Bars as of `progress_bar`, shown when there is something to show.

    Args:
        what: What the parts are made for.
        unit: What is counted in them.
        then: What comes after it.
        things: What is counted then.
    """
    with contextlib.ExitStack() as held:
        yield FleetBars(what, unit, then, things, held)
