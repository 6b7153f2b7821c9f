"""Frames processed on all cores, a bounded number at a time."""

from __future__ import annotations

import collections
import concurrent.futures
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import RawFrame
from iccld_cli.prepare.worker import FrameJob, process
from iccld_cli.reading import MIB

_BATCH = 4
_INLINE_BELOW = 24
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_job: FrameJob | None = None

Outcome = tuple[RawFrame, dict[str, Any]]


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(job: FrameJob, items: Iterable[tuple[RawFrame, Any]], count: int, workers: int) -> Iterator[Outcome]:
    """Process frames.

    Args:
        job: What is done with each.
        items: Frames with what is ready of them, see `Adapter.stream`.
        count: About how many there are; starting processes for a few does not pay.
        workers: Processes to use.

    Yields:
        Each frame with its record, in any order.

    Raises:
        IccldError: A worker died.
    """
    if workers <= 1 or count < _INLINE_BELOW:
        for frame, ready in items:
            yield frame, process(job, frame, ready)
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start, (job,))
    try:
        yield from _feed(pool, iter(items), 3 * workers, count)
    except BrokenProcessPool:
        raise IccldError(
            "a worker process died, probably for lack of memory",
            "run again with fewer --workers; it continues",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _feed(
    pool: concurrent.futures.Executor, items: Iterator[tuple[RawFrame, Any]], depth: int, count: int
) -> Iterator[Outcome]:
    under_way: collections.deque[concurrent.futures.Future] = collections.deque()
    while True:
        while len(under_way) < depth:
            # The last ones go one by one, so that no worker waits for another that has several left.
            size = _BATCH if count > depth * _BATCH else 1
            batch = list(itertools.islice(items, size))
            if not batch:
                break
            count -= len(batch)
            under_way.append(pool.submit(_work, batch))
        if not under_way:
            return
        yield from under_way.popleft().result()


def _start(job: FrameJob) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone decides what an interrupt means
    cv2.setNumThreads(1)
    keep_freed_memory()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def keep_freed_memory() -> None:
    """Let this process keep the memory of a frame for the next one.

    glibc gives the pages of large arrays back as they are freed, and the system clears them anew for the next frame:
    a tenth of the time that a frame of two million pixels takes. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB)  # the most that every version takes
        mallopt(_M_TRIM_THRESHOLD, 256 * MIB)


def _leave_with_parent() -> None:
    # A killed parent leaves its workers waiting for ever, because each of them holds the queue open.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(batch: list[tuple[RawFrame, Any]]) -> list[Outcome]:
    assert _job is not None
    return [(frame, process(_job, frame, ready)) for frame, ready in batch]
