"""What a run on a GPU leaves: `gpu.json`, written anew after every row, `gpu.log`, and the clock that ends a piece."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_GRACE = 20  # seconds to save in after SIGTERM
_running: set[int] = set()  # process groups


class Results:
    """Rows by piece and name, kept in a file."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.path = out, out / "gpu.json"
        self.tree: dict[str, Any] = {"pieces": {}}
        if self.path.exists():
            self.tree = json.loads(self.path.read_text(encoding="utf-8"))

    def rows(self, piece: str) -> dict[str, Any]:
        """The rows of a piece so far."""
        return self.tree["pieces"].setdefault(piece, {})

    def has(self, piece: str, name: str) -> bool:
        """Whether a row was measured; one that ran out of time or memory counts, one that failed is tried again."""
        return self.rows(piece).get(name, {}).get("outcome", "failed") != "failed"

    def put(self, piece: str, name: str, row: dict[str, Any]) -> None:
        """Note a row, and write the file."""
        self.rows(piece)[name] = {"outcome": "done", **row}
        self.write()
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float, str)) and len(str(v)) < 60}
        self.say(f"{piece} | {name} | " + ", ".join(f"{k} {_short(v)}" for k, v in numbers.items()))

    def write(self) -> None:
        """Write `gpu.json` under another name, and rename it."""
        temporary = self.path.with_name(".gpu.json")
        temporary.write_text(json.dumps(self.tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def say(self, text: str) -> None:
        """A line on the screen and in `gpu.log`."""
        print(text, flush=True)
        with open(self.out / "gpu.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


class Deadline:
    """The time that a piece may still take.

    Attributes:
        whole: Seconds of the whole piece, over as many commands as it takes.
    """

    def __init__(self, seconds: float, whole: float) -> None:
        self._end = time.monotonic() + seconds
        self.whole = whole

    def left(self) -> float:
        """Seconds left; never below 0."""
        return max(self._end - time.monotonic(), 0.0)


def call(command: list[str], seconds: float, log: Path, **environment: str) -> tuple[int | None, str]:
    """Run a command for at most some seconds; it may save when its time is up.

    Args:
        command: Program and arguments.
        seconds: How long it may take.
        log: Receives what it prints.
        environment: Variables on top of this process's.

    Returns:
        Exit status, None where its time was up, and what it printed.
    """
    with open(log, "w+", encoding="utf-8", errors="replace") as file:
        # A group of its own, so that all of it can be ended; not a session, which outlives whoever ends this one's.
        own: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, **own
        )
        _running.add(process.pid)
        try:
            status: int | None = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
            _running.discard(process.pid)
        file.seek(0)
        return status, file.read()


def _end(process: subprocess.Popen) -> None:
    """End the whole group of a process: loaders and trainings that it started are its own, and may save first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + _GRACE
        while time.monotonic() < until:
            process.poll()  # or it would stay in the group for ever
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return
            number = 0  # is anybody left?
            time.sleep(0.1)


def stop_all(number: int, frame: Any) -> None:
    """Handler of SIGTERM: what was started may save, and ends before this program does."""
    until, left = time.monotonic() + _GRACE, set(_running)
    for sent in itertools.chain([signal.SIGTERM], itertools.repeat(0)):
        for group in list(left):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(group, os.WNOHANG)  # or it would stay in the group for ever
            try:
                os.killpg(group, signal.SIGKILL if time.monotonic() > until else sent)
            except ProcessLookupError:
                left.discard(group)
        if not left:
            break
        time.sleep(0.1)
    os._exit(128 + number)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
