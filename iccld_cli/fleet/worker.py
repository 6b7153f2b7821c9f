"""The process that makes parts, one after the other."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.explain import explain
from iccld_cli.fleet.scratch import Scratch
from iccld_cli.fleet.work import Place, Work
from iccld_cli.parts import Part


class Worker:
    """Holds what all parts need. Made a Ray actor by `engine`; nothing here knows Ray.

    `do` and `state` are called from two threads.
    """

    def __init__(self, work: Work, cpus: int, gpus: int, folder: str | None) -> None:
        """Nothing is loaded yet.

        Args:
            work: What to do.
            cpus: Processors it may use.
            gpus: GPUs it may use.
            folder: Folder that relative paths count from, None where there are none.
        """
        self._work, self._folder = work, folder
        self._scratch = Scratch()
        self._place = Place(self._scratch.path, cpus, gpus, self._said)
        self._lines: list[str] = []
        self._progress = (0, 0)
        self._lock = threading.Lock()

    def open(self) -> dict[str, Any]:
        """Load what all parts need.

        Returns:
            `facts`, or `error`; and `pid`.
        """
        try:
            if self._folder is not None:
                if not Path(self._folder).is_dir():
                    raise IccldError(
                        f"there is no folder {self._folder}",
                        "start from a folder that all nodes share, or give whole paths",
                    )
                os.chdir(self._folder)
            return {"facts": dict(self._work.open(self._place)), "pid": os.getpid()}
        except Exception as error:
            return {"error": _told(error), "pid": os.getpid()}

    def do(self, part: Part) -> dict[str, Any]:
        """Make a part.

        Returns:
            `units`, or `error`; with it `broken` where the process is not to be used again.
        """
        self._progress = (0, 0)
        try:
            return {"units": self._work.do(part, self._place, self._count)}
        except Exception as error:
            told = _told(error)
            return {"error": told, "broken": told is not error}

    def state(self) -> dict[str, Any]:
        """How far the part under work is, and lines for the user since the last call."""
        with self._lock:
            lines, self._lines = self._lines, []
        return {"progress": self._progress, "lines": lines}

    def close(self) -> None:
        """Remove what is on this machine's disk."""
        self._scratch.remove()

    def _count(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _said(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)


def _told(error: Exception) -> Exception:
    """An error as it can travel: one of this program's own, which any process can read."""
    if isinstance(error, IccldError):
        return error
    explained = explain(error)
    if isinstance(explained, IccldError):
        return IccldError(explained.message, explained.hint)
    return IccldError(f"internal error, {type(error).__name__}: {error}")
