"""The log of a run: one JSON object a line, and nothing lost or doubled by a resume."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from iccld_cli.files import explain_os_error, write_text
from iccld_cli.report.curves import plot_curves

LOG_NAME = "log.jsonl"
CURVES_NAME = "curves.png"
_PAUSE = 30.0
"""Seconds without a new picture, at least: drawing one takes longer than many a step."""


class RunLog:
    """`log.jsonl` of a run folder; each line holds at least `stage`, `step` and `loss`."""

    def __init__(self, run: Path, stage: str, start: int) -> None:
        """Open the log for appending.

        Lines of this stage beyond the step that the run starts from are dropped: they will be written again.

        Args:
            run: The run folder.
            stage: Name of the stage.
            start: Steps already done.
        """
        self.path = run / LOG_NAME
        self.stage = stage
        self._drawn = time.monotonic()
        if self.path.is_file():
            kept = [row for row in _rows(self.path) if row.get("stage") != stage or row["step"] <= start]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            IccldError: The disk is full or not writable.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": self.stage, **row}) + "\n")
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def plot(self, *, last: bool = True) -> None:
        """Draw `curves.png`; where the log holds several stages, they follow each other.

        Args:
            last: Whether no more lines follow. If not, nothing is drawn so soon after the start or the last picture.
        """
        if last or time.monotonic() - self._drawn >= _PAUSE:
            plot_curves(self.path, self.path.with_name(CURVES_NAME))
            self._drawn = time.monotonic()


def _rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a log; the last one of a killed run may be cut."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if isinstance(row["step"], int):
                rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows
