"""Small trainings through the command line, in processes of their own, which may be prepared by a line of Python."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import training_runs

STEPS = 6
PATIENCE = 240 if torch.cuda.is_available() else 1200  # seconds; a CPU that rehearses may be a busy one
_MAIN = "from iccld_cli.__main__ import main; main()"


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        out: Its folder.
        status: Exit status.
        said: What it printed.
    """

    out: Path
    status: int
    said: str

    def numbers(self):
        """The lines of its log without what a clock says."""
        return training_runs.numbers(self.out)

    def losses(self):
        """The loss of each step."""
        return [row["loss"] for row in self.numbers()]


def seg(world, out, device, *more, steps=STEPS, batch=2):
    """Arguments of stage 1 on the device."""
    return [*training_runs.seg_arguments(world, out, *more, steps=steps, batch=batch), "--device", device]


def adv(checkpoint, out, device, *more, steps=STEPS, batch=2):
    """Arguments of stage 2 on the device."""
    return [*training_runs.adv_arguments(checkpoint, out, *more, steps=steps, batch=batch), "--device", device]


def train(arguments, *, before="", launcher=(), timeout=PATIENCE):
    """Run the command line; `before` is Python that runs first, `launcher` a program that starts it."""
    arguments = [str(a) for a in arguments]
    start = [*launcher, "-m", "iccld_cli"] if launcher else ["-c", f"{before}\n{_MAIN}"]
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(
        [sys.executable, *start, *arguments], capture_output=True, text=True, timeout=timeout, env=environment
    )
    return Run(Path(arguments[arguments.index("--out") + 1]), done.returncode, done.stdout + done.stderr)


def iccld(*arguments, timeout=PATIENCE):
    """Run another command; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "iccld_cli", *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(path):
    """A JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
