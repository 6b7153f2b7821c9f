"""Commands of the cells, some side by side; one interrupt lets each save what it has."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console

from iccld_cli.compare.cells import Cell, Plan, Task
from iccld_cli.errors import IccldError
from iccld_cli.names import shown

_PAUSE = 0.05
_SECOND_AFTER = 1.0  # seconds; a terminal's Ctrl-C may come twice at once
_PATIENCE = 10.0  # seconds for a process that is told to end


@dataclass
class Running:
    """A command that runs.

    Attributes:
        cell: Whose it is.
        task: What it is.
        process: Its process.
        slot: Which of the jobs it is.
        began: Of `time.perf_counter`.
        file: Its log.
    """

    cell: Cell
    task: Task
    process: subprocess.Popen
    slot: int
    began: float
    file: IO[str]
    cpu: float | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs; the processor seconds of it and its children where they are told."""
        if self.process.returncode is not None or not hasattr(os, "wait4"):
            return self.process.poll()
        try:
            found, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            return self.process.poll()
        if not found:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime
        return self.process.returncode


def run_all(
    plan: Plan,
    devices: Sequence[str],
    jobs: int,
    console: Console,
    told: Callable[[Cell, Task, float], None],
) -> None:
    """Do what the cells need; one that fails is noted in it, and those that need it are too.

    Args:
        plan: The cells.
        devices: Where commands run; the slots share them in turn.
        jobs: Commands side by side.
        console: Where messages go.
        told: Called after every command that ended well, with its seconds.

    Raises:
        KeyboardInterrupt: Interrupted; trainings have saved their state, as with every other error.
    """
    waiting, running = [*plan.cells], list[Running]()
    settled: set[int] = set()  # cells that are done or have failed, by identity
    with _stops() as stopped:
        try:
            while waiting or running:
                if stopped():
                    raise KeyboardInterrupt
                for cell in [*waiting]:
                    if len(running) >= jobs:
                        break
                    if cell.needs is not None and id(cell.needs) not in settled:
                        continue
                    waiting.remove(cell)
                    if not _start_next(plan, cell, running, devices, jobs):
                        settled.add(id(cell))
                        if cell.failure is not None:
                            console.print(shown(f"{cell.name}: failed, {cell.failure}"), style="red", soft_wrap=True)
                for one in [*running]:
                    status = one.poll()
                    if status is None:
                        continue
                    running.remove(one)
                    one.file.close()
                    _close(plan, one, status)
                    if status == 0:
                        try:
                            told(one.cell, one.task, time.perf_counter() - one.began)
                        except IccldError as error:  # a table that cannot be written now; the last one tells again
                            console.print(shown(f"warning: {error}"), style="yellow", soft_wrap=True)
                    if status != 0 or not _start_next(plan, one.cell, running, devices, jobs):
                        settled.add(id(one.cell))
                    if one.cell.failure is not None:
                        console.print(
                            shown(f"{one.cell.name}: failed, {one.cell.failure}"), style="red", soft_wrap=True
                        )
                time.sleep(_PAUSE)
        except BaseException:  # whatever it is, what was trained so far is saved
            _stop(plan, running, console, stopped)
            raise
        finally:
            for one in running:
                one.process.kill()
                one.file.close()


def _start_next(plan: Plan, cell: Cell, running: list[Running], devices: Sequence[str], jobs: int) -> bool:
    """Start what a cell needs next; whether there was something, and it could be started."""
    if cell.needs is not None and cell.needs.failure is not None:
        cell.failure = f"for {cell.needs.name} did"
        return False
    try:
        # What a cell starts from may be another model than the one it was begun with, now that it has been made.
        if cell.needs is not None and (changes := plan.changes(cell)):
            cell.failure = f"it was begun otherwise: {', '.join(changes[:3])}; --redo {cell.row.name} does it anew"
            return False
        task = plan.next_task(cell)
        if task is None:
            return False
        if task.kind != "score":
            plan.begin(cell)
        slot = min({*range(jobs)} - {one.slot for one in running})
        running.append(launch(cell, task, slot, devices[slot % len(devices)], jobs))
    except IccldError as error:
        cell.failure = str(error)
        return False
    return True


def launch(cell: Cell, task: Task, slot: int, device: str, jobs: int) -> Running:
    """Start a command.

    Args:
        cell: Whose it is.
        task: The command.
        slot: Which of the jobs it is.
        device: Where it runs.
        jobs: How many share this machine.
    """
    command = [*task.command, "--device", device]
    task.log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:  # else each would start as many threads as there are cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    file = task.log.open("a", encoding="utf-8", errors="backslashreplace")  # closed when the process has ended
    print(f"$ {shlex.join(command)}", file=file, flush=True)
    # Of a group of its own, so that a terminal's Ctrl-C comes once, from here, and not to workers behind its back.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
        start_new_session=os.name == "posix",
    )  # fmt: skip
    return Running(cell, task, process, slot, time.perf_counter(), file)


def _close(plan: Plan, one: Running, status: int) -> None:
    """Note what a command took, and why it failed."""
    if one.task.kind != "score":
        seconds = time.perf_counter() - one.began
        part = {
            "stage": one.task.kind, "steps": one.task.steps, "seconds": round(seconds, 2),
            "cpu_seconds": one.cpu and round(one.cpu, 2), "status": status,
        }  # fmt: skip
        plan.note(one.cell, part)
    if status != 0:
        one.cell.failure = f"{_last_words(one)} (see {one.task.log})"


def _last_words(one: Running) -> str:
    """The error of a command, from its log."""
    lines = one.task.log.read_text(encoding="utf-8", errors="replace").splitlines()
    begun = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=0)
    errors = [line for line in lines[begun:] if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    said = [line for line in lines[begun + 1 :] if line.strip()]
    status = one.process.returncode
    how = f"it was ended by signal {-status}" if status < 0 else f"it ended with {status}"
    return how + (f": {said[-1][:200]}" if said else "")


def _stop(plan: Plan, running: list[Running], console: Console, stopped: Callable[[], int]) -> None:
    """Let trainings save their state; a second interrupt stops at once."""
    trainings = [one for one in running if one.task.kind != "score"]
    if trainings:
        names = ", ".join(one.cell.name for one in trainings)
        with contextlib.suppress(OSError):  # a terminal that is gone must not end them unsaved
            console.print(shown(f"stopping; {names} save their state, Ctrl-C again stops at once"), soft_wrap=True)
    for one in running:
        with contextlib.suppress(OSError):
            one.process.terminate()  # SIGTERM: a training that has not begun yet has nothing to save
    already = stopped()
    hurry: float | None = None
    while running:
        for one in [*running]:
            status = one.poll()
            if status is not None:
                running.remove(one)
                one.file.close()
                with contextlib.suppress(IccldError, OSError):  # a full disk must not end the others unsaved
                    _close(plan, one, status)
                one.cell.failure = None  # it was stopped, and did not fail
        if hurry is None and stopped() > already:
            hurry = time.monotonic() + _PATIENCE
            for one in running:
                with contextlib.suppress(OSError, ValueError):
                    one.process.send_signal(signal.SIGINT)
        if hurry is not None and time.monotonic() > hurry:
            break
        time.sleep(_PAUSE)


@contextlib.contextmanager
def _stops() -> Iterator[Callable[[], int]]:
    """How often Ctrl-C, SIGTERM or SIGHUP came."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    count, last = 0, 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal count, last
        now = time.monotonic()
        if count == 0 or now - last > _SECOND_AFTER:
            count += 1
        last = now

    numbers = [s for name in ("SIGINT", "SIGTERM", "SIGHUP") if (s := getattr(signal, name, None)) is not None]
    before = {s: signal.signal(s, note) for s in numbers if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
