"""Background threads: order, errors, bounds, clean ends."""

import os
import signal
import sys
import threading
import time

import pytest

from iccld_cli.inference.threads import WriteBehind, group, prefetch

pytestmark = pytest.mark.own_process  # signals to itself


def alive():
    return [t for t in threading.enumerate() if t.name.startswith("iccld-")]


def test_prefetch_keeps_order_and_raises_after_the_items():
    def source():
        yield from range(5)
        raise RuntimeError("broken")

    seen = []
    with pytest.raises(RuntimeError, match="broken"):
        seen.extend(iter_into(seen, prefetch(source())))
    assert seen == list(range(5))
    assert alive() == []


def iter_into(seen, items):
    for item in items:
        seen.append(item)
    return []


def test_prefetch_is_bounded_and_closes_its_source():
    produced, closed = [], []

    def source():
        try:
            for i in range(1000):
                produced.append(i)
                yield i
        finally:
            closed.append(True)

    items = prefetch(source(), depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(produced) <= 5
    items.close()
    assert closed == [True]
    assert alive() == []


def test_write_behind_finishes_in_order():
    done = []
    with WriteBehind(depth=2) as writer:
        for i in range(20):
            writer.submit(done.append, i)
    assert done == list(range(20))


def test_write_behind_reports_an_error_and_stops():
    done = []

    def fail():
        raise OSError("disk")

    def submit_all(writer):
        writer.submit(done.append, 1)
        writer.submit(fail)
        for _ in range(10):
            writer.submit(done.append, 2)

    with pytest.raises(OSError, match="disk"), WriteBehind() as writer:
        submit_all(writer)
    assert done == [1]
    assert alive() == []


def test_write_behind_finishes_what_was_submitted_before_an_interrupt():
    done = []

    def interrupted(writer):
        for i in range(3):
            writer.submit(done.append, i)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), WriteBehind() as writer:
        interrupted(writer)
    assert done == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to a process")
def test_write_behind_finishes_what_was_submitted_when_the_interrupt_comes_at_its_end():
    done = []

    def slow(number):
        time.sleep(0.2)
        if number == 0:  # all three are submitted: the main thread waits for them
            os.kill(os.getpid(), signal.SIGINT)
        done.append(number)

    with pytest.raises(KeyboardInterrupt), WriteBehind() as writer:
        for i in range(3):
            writer.submit(slow, i)
    assert done == [0, 1, 2]
    assert alive() == []


def test_group_by_key_and_size():
    assert list(group("aaabba", lambda c: c, lambda c: 2)) == [["a", "a"], ["a"], ["b", "b"], ["a"]]
    assert list(group([], lambda c: c, lambda c: 2)) == []
