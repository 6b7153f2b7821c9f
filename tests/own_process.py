"""Modules of tests marked `own_process` run in a forked process each.

Some libraries end their process without a word: Ray leaves by `_Exit` when a server of it has been gone for a while,
even where the tests that used it are long done. Here the test that runs then fails, with the status that its process
ended with, and those of other modules go on. A signal that a test sends to itself meets its own process alone, too.

Fixtures of the module are made in its process. Reports come back as pytest-xdist sends them.
"""

import faulthandler
import gc
import multiprocessing
import signal

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from _pytest.runner import runtestprotocol

_children = {}


class _Child:
    """The process of a module."""

    def __init__(self, item):
        fork = multiprocessing.get_context("fork")
        self._ours, theirs = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(theirs, self._ours, item.session, item.path))
        faulthandler.cancel_dump_traceback_later()  # a forked process would wait for ever for its thread
        self._process.start()
        _watch(item.config)
        theirs.close()

    def run(self, item):
        """The reports of a test as `pytest_report_from_serializable` takes them; None where the process has ended."""
        try:
            self._ours.send(item.session.items.index(item))
            return self._ours.recv()
        except (OSError, EOFError):
            return None

    def close(self):
        """Let it end; its exit status, or minus the signal that ended it."""
        self._ours.close()
        self._process.join()
        return self._process.exitcode


def _watch(config):
    """Say where a test hangs, as pytest does in the process that it started."""
    if seconds := float(config.getini("faulthandler_timeout") or 0):
        file = config.stash[fault_handler_stderr_fd_key]
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)


def _serve(ours, theirs, session, module):
    gc.freeze()  # a decoder of the other process must not be collected here: its threads are not
    theirs.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the other process does with it
    # What lies below the session stays, it is the other process's; only this module's fixtures end with it.
    elsewhere = next((item for item in session.items if item.path != module), None)
    here = [number for number, item in enumerate(session.items) if item.path == module]
    hook = session.config.hook
    while True:
        try:
            number = ours.recv()
        except EOFError:
            return
        _watch(session.config)
        follows = next((session.items[i] for i in here if i > number), elsewhere)
        reports = runtestprotocol(session.items[number], log=False, nextitem=follows)
        faulthandler.cancel_dump_traceback_later()
        ours.send([hook.pytest_report_to_serializable(config=session.config, report=report) for report in reports])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test of a marked module in the module's process."""
    if item.get_closest_marker("own_process") is None or "fork" not in multiprocessing.get_all_start_methods():
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if item.path not in _children:
        _children[item.path] = _Child(item)
    found = _children[item.path].run(item)
    last = nextitem is None or nextitem.path != item.path
    status = _children.pop(item.path).close() if last or found is None else 0
    if found is None or status:
        said = f"the process of {item.path.name} ended with status {status}"
        call = pytest.CallInfo.from_call(lambda: pytest.fail(said, pytrace=False), "call")
        reports = [pytest.TestReport.from_item_and_call(item, call)]
    else:
        hook = item.config.hook
        reports = [hook.pytest_report_from_serializable(config=item.config, data=data) for data in found]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.session._setupstate.teardown_exact(nextitem)  # what the test before left for this one, its folder at least
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
