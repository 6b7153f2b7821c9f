"""Commands side by side: order, failures, and an interrupt that lets each save."""

import json
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from iccld_cli.compare.cells import Cell, Task
from iccld_cli.compare.jobs import run_all
from iccld_cli.errors import IccldError

pytestmark = pytest.mark.own_process  # a signal to itself

NOTE = "import sys, time; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + '\\n')"
SAVING = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


class Steps:
    """Cells whose commands are small programs: name -> (kind, program) each."""

    def __init__(self, folder, programs, needs=None):
        self.left = {name: list(tasks) for name, tasks in programs.items()}
        self.folder, self.noted, self.begun = folder, [], []
        self.cells = [Cell(SimpleNamespace(name=name), 0, folder / name) for name in programs]
        for cell in self.cells:
            other = (needs or {}).get(cell.row.name)
            cell.needs = next((one for one in self.cells if one.row.name == other), None)

    def next_task(self, cell):
        tasks = self.left[cell.row.name]
        if not tasks:
            return None
        kind, program = tasks.pop(0)
        log = self.folder / "order.txt" if program == NOTE else self.folder / f"{cell.row.name}.saved"
        command = (sys.executable, "-c", program, str(log), cell.row.name)
        return Task(kind, command, self.folder / f"{cell.row.name}.log", 5)

    def changes(self, cell):
        return []

    def begin(self, cell):
        self.begun.append(cell.row.name)

    def note(self, cell, part):
        self.noted.append((cell.row.name, part["stage"], part["status"]))


def order(folder):
    return [line.split()[0] for line in (folder / "order.txt").read_text().splitlines()]


def test_cells_follow_those_that_they_need_on_devices_in_turn(tmp_path):
    programs = {"child": [("adv", NOTE)], "parent": [("seg", NOTE), ("score", NOTE)], "other": [("seg", NOTE)]}
    plan, told = Steps(tmp_path, programs, {"child": "parent"}), []
    run_all(plan, ["cuda:0", "cuda:1"], 2, Console(quiet=True), lambda cell, task, s: told.append(cell.row.name))
    assert sorted(order(tmp_path)) == ["child", "other", "parent", "parent"]
    assert order(tmp_path)[-1] == "child" and told.count("parent") == 2
    devices = {line.split()[-1] for line in (tmp_path / "order.txt").read_text().splitlines()}
    assert devices == {"cuda:0", "cuda:1"}
    assert ("child", "adv", 0) in plan.noted and plan.begun.count("parent") == 1


def test_a_failure_is_named_and_the_others_go_on(tmp_path):
    bad = "import sys; print('warning: x'); print('error: no space left: free some'); sys.exit(1)"
    killed = "import os, signal; print('last words', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    programs = {
        "bad": [("seg", bad), ("score", NOTE)], "child": [("adv", NOTE)], "grandchild": [("adv", NOTE)],
        "killed": [("seg", killed)], "good": [("seg", NOTE)],
    }  # fmt: skip
    plan = Steps(tmp_path, programs, {"child": "bad", "grandchild": "child"})
    run_all(plan, ["cpu"], 1, Console(quiet=True), lambda *_: None)
    failures = {cell.row.name: cell.failure for cell in plan.cells}
    assert failures["bad"] == f"no space left: free some (see {tmp_path / 'bad.log'})"
    assert failures["child"] == "for bad, seed 0 did" and failures["grandchild"] == "for child, seed 0 did"
    assert failures["killed"].startswith("it was ended by signal 9: last words")
    assert failures["good"] is None and order(tmp_path) == ["good"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("fails", ["told", "note", "log"])
def test_an_error_while_reporting_lets_trainings_save(tmp_path, fails):
    programs = {"long": [("seg", SAVING)], "short": [("seg", NOTE), ("seg", NOTE)]}
    plan, note = Steps(tmp_path, programs), Steps.note

    def ready():
        while "ready" not in (tmp_path / "long.log").read_text().splitlines():
            time.sleep(0.05)

    def told(cell, task, seconds):
        ready()
        if fails == "told":
            raise RuntimeError("no such column")
        if fails == "log":
            (tmp_path / "short.log").unlink()
            (tmp_path / "short.log").mkdir()

    def failing(cell, part):
        ready()
        if fails == "note":
            raise IccldError("cannot write cell.json: the disk is full")  # of either, also while it stops
        note(plan, cell, part)

    plan.note = failing
    with pytest.raises({"told": RuntimeError, "note": IccldError, "log": IsADirectoryError}[fails]):
        run_all(plan, ["cpu"], 2, Console(quiet=True), told)
    assert (tmp_path / "long.saved").read_text() == "saved"


def test_a_table_that_cannot_be_written_meanwhile_is_a_warning(tmp_path, capsys):
    plan = Steps(tmp_path, {"one": [("seg", NOTE)], "two": [("seg", NOTE)]})

    def told(cell, task, seconds):
        raise IccldError("cannot write table.md", "close it")

    run_all(plan, ["cpu"], 1, Console(), told)
    assert order(tmp_path) == ["one", "two"] and not any(cell.failure for cell in plan.cells)
    assert capsys.readouterr().out.count("warning: cannot write table.md: close it") == 2


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_lets_trainings_save_and_starts_nothing_more(tmp_path):
    programs = {"one": [("seg", SAVING)], "two": [("seg", SAVING)], "later": [("seg", NOTE)]}
    plan = Steps(tmp_path, programs)

    def interrupt():
        logs = [tmp_path / f"{name}.log" for name in ("one", "two")]
        while not all(log.exists() and "ready" in log.read_text().splitlines() for log in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(plan, ["cpu"], 2, Console(quiet=True), lambda *_: None)
    assert [(tmp_path / f"{name}.saved").read_text() for name in ("one", "two")] == ["saved", "saved"]
    assert not (tmp_path / "order.txt").exists() and not any(cell.failure for cell in plan.cells)
    assert {name for name, _, status in plan.noted if status == 130} == {"one", "two"}
    assert signal.getsignal(signal.SIGINT) == before
    assert json.dumps(plan.noted)
