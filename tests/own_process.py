"""Modules of tests marked `own_process` run in a process of their own each, which is started for them.

Some libraries end their process without a word: Ray leaves by `_Exit` when a server of it has been gone for a while,
even where the tests that used it are long done. Here the tests that had no result by then fail, with the status that
their process ended with, and those of other modules go on. A signal that a test sends to itself meets its own process
alone, too, in whose main thread tests run.

The process is a new one, not a fork: that of a process with threads dies now and then. It has its own fixtures, and
its reports come back as pytest-xdist sends them, by a file.
"""

import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_REPORTS = "ICCLD_TESTS_REPORTS"
"""Variable with the file that the process of a module writes its reports to."""

_ENDS = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
"""Statuses of a process that ended as it should."""

_found = {}


def _run(item):
    """Run an item and the tests of its module after it: test -> its reports, the process's status and what it said."""
    items = item.session.items[item.session.items.index(item) :]
    tests = [other.nodeid for other in items if other.path == item.path]
    with tempfile.TemporaryDirectory(prefix="iccld-tests-") as folder:
        file = Path(folder, "reports")
        file.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        environment |= {_REPORTS: str(file), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        seconds = item.config.getini("faulthandler_timeout") or 0
        options = ("--rootdir", item.config.rootpath, "-q", "-o", f"faulthandler_timeout={seconds}")
        command = (sys.executable, "-m", "pytest", *map(str, options), *tests)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        faulthandler.cancel_dump_traceback_later()  # meant for one test; that process watches each of its own
        done = subprocess.run(command, cwd=item.config.rootpath, env=environment, **pipes)
        reports = {}
        with open(file, "rb") as written:
            while written.peek(1):
                data = pickle.load(written)  # noqa: S301  (written by the process started above)
                reports.setdefault(data["nodeid"], []).append(data)
    return reports, done.returncode, done.stdout.decode(errors="replace")


def pytest_runtest_logreport(report):
    """In a module's process: hand a report on."""
    if file := os.environ.get(_REPORTS):
        data = report._to_json()  # what pytest-xdist sends
        data["$report_type"] = type(report).__name__
        with open(file, "ab") as out:
            out.write(pickle.dumps(data))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test of a marked module in the module's process, or report what came of it there."""
    if item.get_closest_marker("own_process") is None:
        return None
    if os.environ.get(_REPORTS):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the other process does with it
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if item.path not in _found:
        _found[item.path] = _run(item)
    reports, status, said = _found[item.path]
    hook = item.config.hook
    own = [hook.pytest_report_from_serializable(config=item.config, data=data) for data in reports.get(item.nodeid, [])]
    last = nextitem is None or nextitem.path != item.path
    cut_short = not own or own[-1].when != "teardown"
    if cut_short or (last and status not in _ENDS):
        ended = f"the process of {item.path.name} ended with status {status}\n{said[-2000:]}"
        call = pytest.CallInfo.from_call(lambda: pytest.fail(ended, pytrace=False), "call")
        own.append(pytest.TestReport.from_item_and_call(item, call))
    if cut_short or last:
        del _found[item.path]  # what is left of the module gets another process
    for report in own:
        item.ihook.pytest_runtest_logreport(report=report)
    item.session._setupstate.teardown_exact(nextitem)  # what the test before left for this one, its folder at least
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
