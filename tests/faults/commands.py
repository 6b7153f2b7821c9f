"""Running commands in processes that are killed, and comparing what they leave."""

import gc
import os
import random
import signal
import sys
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))

from iccld_cli.__main__ import main

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


def call(arguments):
    """The command in this process: its exit status."""
    before, sys.argv = sys.argv, ["iccld", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0


def forked(arguments, kill_at=None, folder=None, sent=signal.SIGKILL):
    """The command in a forked process, which gets a signal at its `kill_at`th operation on files below a folder.

    Returns:
        Exit status, or minus the signal that ended it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        gc.freeze()  # a decoder of the parent must not be collected here: its threads are not
        try:
            if kill_at is not None:
                _signal_at(kill_at, str(folder), sent)
            status = call(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            status = 99
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _signal_at(number, folder, sent):
    left = number

    def watch(event, arguments):
        nonlocal left
        if event in OPERATIONS and arguments and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sent)

    sys.addaudithook(watch)


def count_operations(arguments, folder, expected=0):
    """How many operations on files below a folder the command makes, in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        gc.freeze()  # a decoder of the parent must not be collected here: its threads are not
        seen = 0

        def watch(event, given):
            nonlocal seen
            seen += event in OPERATIONS and bool(given) and str(given[0]).startswith(str(folder))

        sys.addaudithook(watch)
        status = call(arguments)
        os.write(writing, str(seen).encode())
        os._exit(status)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == expected
    with os.fdopen(reading) as file:
        return int(file.read())


def moments(seed, operations, count):
    """Random moments of a run, as numbers of operations."""
    return sorted(random.Random(seed).sample(range(1, operations + 1), min(count, operations)))


def tree(folder):
    """Every file below a folder: its path to its bytes, of a video to its decoded frames."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = frames(path) if path.suffix == ".mp4" else path.read_bytes()
    return found


def frames(path):
    """All frames of a video, as bytes, with their times."""
    with av.open(str(path)) as container:
        return [(f.pts, np.asarray(f.to_ndarray(format="rgb24")).tobytes()) for f in container.decode(video=0)]


def names(folder):
    """Paths of all files below a folder that are not hidden."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def hidden(folder):
    """Paths of everything hidden below a folder."""
    found = (p.relative_to(folder) for p in folder.rglob("*"))
    return sorted(p.as_posix() for p in found if any(part.startswith(".") for part in p.parts))
