"""Small trainings through the command line, in processes of their own, which may be prepared by a line of Python.

The processes are forks of one that has imported everything and never touched a GPU, so that each starts in a moment.
Where a fork cannot use the device all the same (a library that asks the driver while it is imported), each is started
anew.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
import training_runs

STEPS = 6
PATIENCE = 240 if torch.cuda.is_available() else 600  # seconds; a CPU that rehearses may be a busy one
_PRELOADED = ["iccld_cli.cli.evaluate", "iccld_cli.cli.predict", *training_runs.PRELOADED]
_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic kernels ask for
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looking for a GPU does not start the driver, which forks would not survive
}


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        out: Its folder.
        status: Exit status; None where it had to be stopped.
        said: What it printed.
    """

    out: Path
    status: int | None
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


def train(arguments, *, before="", timeout=PATIENCE, launched=False):
    """Run a training.

    Args:
        arguments: Of the command line.
        before: Python that runs in its process first; a function `after` that it defines is called at the end.
        timeout: Seconds.
        launched: In the environment of a launcher that has started a single process.
    """
    out = Path(arguments[arguments.index("--out") + 1])
    status, said = run_python(f"{before}\n{_MAIN}", [*arguments], out, timeout, launcher() if launched else {})
    return Run(out, status, said)


def launcher():
    """The environment that `torchrun --nproc_per_node 1` gives to its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def iccld(*arguments, out, timeout=PATIENCE, environment=None):
    """Run another command; `out` is where it writes to."""
    status, said = run_python(_MAIN, arguments, out, timeout, environment)
    assert status == 0, said


def run_python(code, arguments, out, timeout, environment=None):
    """Run Python code with the device at hand; returns its exit status and what it printed, kept in `OUT.txt`."""
    said = Path(out).with_name(f"{Path(out).name}.txt")
    given = (code, [str(a) for a in arguments], str(said), {**_ENVIRONMENT, **(environment or {})})
    status = _fork(given, timeout) if _forks_can() else _start(given, timeout)
    return status, said.read_text(encoding="utf-8")


def read(path):
    """A JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


# Whatever a command does at its end is its own; what `before` has left is called whether or not the command failed.
_MAIN = """
from iccld_cli.__main__ import main
try:
    main()
finally:
    globals().get("after", lambda: None)()
"""


@functools.cache
def _forks_can():
    """Whether a fork can compute on the device."""
    if not torch.cuda.is_available():
        return True
    code = "import torch; torch.ones(8, device='cuda').sum().item()"
    return _fork((code, [], os.devnull, _ENVIRONMENT), 120) == 0


def _fork(given, timeout):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ |= _ENVIRONMENT  # the server inherits them when the first process is asked for
    try:
        process = context.Process(target=_run, args=given)
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def _start(given, timeout):
    code, arguments, said, environment = given
    with open(said, "w", encoding="utf-8") as file, contextlib.suppress(subprocess.TimeoutExpired):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command,
            stdout=file,
            stderr=file,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        return done.returncode
    return None


def _run(code, arguments, said, environment):
    os.environ |= {"OMP_NUM_THREADS": "1", **environment}
    torch.set_num_threads(1)
    with open(said, "w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["iccld", *arguments]
    status = 0
    try:
        exec(compile(code, "<before>", "exec"), {"__name__": "__main__"})
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the interpreter's long goodbye
