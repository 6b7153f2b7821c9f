"""What runs in a process of its own is reported like everything else, and takes nothing else along when it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from own_process import pytest_runtest_logreport, pytest_runtest_protocol

def pytest_configure(config):
    config.addinivalue_line("markers", "own_process: as here")
"""
APART = """
import os, signal, pytest
pytestmark = pytest.mark.own_process
made = []

@pytest.fixture(scope="module")
def process():
    made.append(os.getpid())
    yield made
    print("ended with", len(made))

def test_passes(process): assert process == [os.getpid()]
def test_fails(process): assert process == []
@pytest.mark.skip(reason="of no use")
def test_skipped(): pass
def test_leaves(): os._exit(0)
def test_is_killed(): os.kill(os.getpid(), signal.SIGKILL)
def test_shares_nothing_with_what_was_killed(process): assert process == [os.getpid()]
"""
BEFORE = """
def test_in_the_same_folder(): pass
"""
HERE = """
import test_apart

def test_elsewhere(): assert test_apart.made == []
"""
LATE = """
import atexit, os, pytest
pytestmark = pytest.mark.own_process

def test_that_is_over(): atexit.register(os._exit, 7)
"""
FILES = {"conftest": CONFTEST, "a/test_a": BEFORE, "a/test_apart": APART, "b/test_here": HERE, "b/test_late": LATE}


@pytest.mark.parametrize("more", [(), ("-n", "1", "--dist", "loadfile")])
def test_a_module_in_a_process_of_its_own(tmp_path, more):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_ADDOPTS": ""}
    command = (sys.executable, "-m", "pytest", "-q", "-rA", "-o", "faulthandler_timeout=60", *more, str(tmp_path))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = re.findall(r"^(?:PASSED|FAILED) \S+", done.stdout, re.M)
    found = dict(reversed(line.split()) for line in lines if "test_late" not in line)
    assert {name.partition("::")[2]: status for name, status in found.items()} == {
        "test_in_the_same_folder": "PASSED",
        "test_passes": "PASSED",
        "test_fails": "FAILED",
        "test_leaves": "FAILED",
        "test_is_killed": "FAILED",
        "test_shares_nothing_with_what_was_killed": "PASSED",
        "test_elsewhere": "PASSED",
    }, done.stdout
    assert "1 skipped" in done.stdout and "of no use" in done.stdout and "assert [" in done.stdout
    assert "the process of test_apart.py ended with status 0" in done.stdout
    assert "the process of test_apart.py ended with status -9" in done.stdout and "ended with 1" in done.stdout
    assert "the process of test_late.py ended with status 7" in done.stdout
