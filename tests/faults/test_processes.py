"""Commands that are killed, stopped, robbed of their output or of what they may use; and two of them in one folder.

Each of `prepare`, both stages and `predict` runs in a forked process. What it leaves when it has been disturbed and run
again is compared with what an undisturbed run left, as `benchmarks/kill.py` does.
"""

import importlib.util
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")

COMMANDS = ("prepare", "stage 1", "stage 2", "predict")


@pytest.fixture(scope="module")
def kill():
    path = Path(__file__).parents[2] / "benchmarks/kill.py"
    spec = importlib.util.spec_from_file_location("kill", path)
    module = sys.modules["kill"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trial(kill, tmp_path_factory):
    return kill.Trial(tmp_path_factory.mktemp("trial"), steps=4)


@pytest.fixture
def run(kill, trial, tmp_path):
    """A function: command and what happens to it -> exit status; its output folder and what it said are attributes."""

    class Run:
        out, said = tmp_path / "out", tmp_path / "said.txt"

        def start(self, name, **options):
            return kill.fork(trial.cases[name].words(self.out), self.out, options.pop("said", self.said), **options)

        def __call__(self, name, **options):
            return kill.finish(self.start(name, **options))[0]

        def text(self):
            return self.said.read_text(errors="replace")

        def differs(self, name):
            return kill.differences(kill.contents(self.out), trial.cases[name].expected)

        def whole(self, name):
            """Nothing has a final name and another content than in the end; logs and states grow."""
            if not self.out.exists():
                return True
            expected = trial.cases[name].expected
            found = {k: v for k, v in kill.contents(self.out).items() if not k.startswith((".", "state", "log.jsonl"))}
            return all(
                v == expected[k]
                for k, v in found.items()
                if k in expected and k.endswith((".png", ".mp4", ".safetensors"))
            )

    return Run()


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_a_random_moment_and_run_again(trial, seed):
    """kill -9, up to three times, at a random operation on files or after a random share of the processor time."""
    assert trial.seed(seed)["differs"] == []


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        *((name, signal.SIGTERM) for name in COMMANDS),
        *((name, sent) for name in ("stage 1", "predict") for sent in (signal.SIGINT, signal.SIGHUP)),
        ("prepare", signal.SIGINT),
    ],
)
def test_a_signal_ends_it_and_the_same_command_goes_on(trial, run, name, sent):
    """Behaviour 25: a hang-up ended a training without a state, SIGTERM left a hidden part of a video for ever."""
    moment = trial.cases[name].operations * 2 // 3
    status = run(name, operation=moment, sent=sent, first=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    assert status != 0 or run.differs(name) == []
    assert "internal error" not in run.text() and "Traceback" not in run.text()
    assert run.whole(name)
    assert run(name) == 0, run.text()
    assert run.differs(name) == []


def silent():
    """Standard output whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    sys.stdout = os.fdopen(1, "w", buffering=1)


def full():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout = os.fdopen(1, "w", buffering=1)


@pytest.mark.parametrize("output", [silent, full])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_printed_costs_neither_results_nor_status(run, name, output):
    """Behaviours 7 and 25: a closed reader ended a training silently with exit 1 and no state."""
    assert run(name, first=output) == 0, run.text()
    assert run.differs(name) == []


LIMITS = {
    "files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)),
    "size": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_is_one_line_and_without_it_the_same_command_goes_on(run, name, limit):
    """Behaviour 19: `ulimit -n 24` gave fifty lines of traceback."""
    reading, writing = os.pipe()

    def first():
        os.dup2(writing, 1), os.dup2(writing, 2)  # a file could not take what it says
        LIMITS[limit]()

    process = run.start(name, first=first)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as text:
        said = text.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, 1)
    assert "internal error" not in said and "Traceback" not in said, said
    assert run.whole(name)
    assert status == 0 or run(name) == 0, run.text()
    assert run.differs(name) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_one_in_its_folder_is_refused_and_a_killed_owner_leaves_no_lock(kill, trial, run, name, tmp_path):
    """Behaviour 8: two trainings with one `--out` both ended with exit 0."""
    first = run.start(name, operation=trial.cases[name].operations * 2 // 3, sent=signal.SIGSTOP)
    end = time.monotonic() + 300
    while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end
        time.sleep(0.02)
    try:
        before = kill.contents(run.out)
        second = tmp_path / "second.txt"
        assert run(name, said=second) == 1
        assert "another" in second.read_text() and "Traceback" not in second.read_text()
        assert kill.differences(kill.contents(run.out), before) == []
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert run(name) == 0, run.text()
    assert run.differs(name) == []
