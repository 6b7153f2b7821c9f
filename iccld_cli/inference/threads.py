"""Reading ahead and writing behind in background threads, bounded, so that both overlap with the network."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


def prefetch(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Iterate over `items`, computed up to `depth` ahead in one background thread.

    An error of the background thread is raised here, after the items before it. Closing this iterator (or an
    error in the loop around it) stops the thread and closes `items`.

    Args:
        items: What to iterate over; it runs in the background thread only.
        depth: Largest number of finished items that wait, which bounds the memory.
    """
    waiting: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(value: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, daemon=True, name="iccld-prefetch")
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def group(items: Iterable[Item], key: Callable[[Item], object], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Put neighbouring items with equal keys into lists of at most `size(item)`."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) >= size(item) or key(batch[0]) != key(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def in_order(call: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Results of calls, in the order of the items, with up to `workers` calls at a time.

    With one worker the calls are made here, one after the other. An error of a call is raised where its result would
    be. Closing this iterator waits for the calls that run.

    Args:
        call: What to call; with several workers it must bear several threads.
        items: Its arguments, iterated over here.
        workers: Largest number of calls at a time.
    """
    if workers == 1:
        for item in items:
            yield call(item)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="iccld-worker") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(call, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class WriteBehind:
    """Runs calls one after the other in a background thread; a full queue makes the caller wait.

    As a context it finishes everything that was submitted, also when the block is left by an interrupt.
    """

    def __init__(self, depth: int = 4) -> None:
        """Start the thread.

        Args:
            depth: Largest number of calls that wait, which bounds the memory their arguments hold.
        """
        self._calls: queue.Queue = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="iccld-write")
        self._thread.start()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._calls.join()
        except KeyboardInterrupt:  # while it waits here; what was submitted is still finished
            self._calls.join()
            raise
        finally:
            self._calls.put(None)
            self._thread.join()
        if kind is None:
            self._raise()

    def submit(self, call: Callable[..., object], *arguments: Any) -> None:
        """Queue a call.

        Raises:
            BaseException: What an earlier call raised; the calls after that one were not made.
        """
        self._raise()
        self._calls.put((call, arguments))

    def wait(self) -> None:
        """Return when every queued call has been made.

        Raises:
            BaseException: What a call raised.
        """
        self._calls.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        failed = False
        while True:
            item = self._calls.get()
            try:
                if item is None:
                    return
                if not failed:
                    call, arguments = item
                    call(*arguments)
            except BaseException as error:
                failed, self._error = True, error
            finally:
                self._calls.task_done()
