"""Items computed ahead by worker processes, which hand them over through pipes.

Shared memory, which torch's own loader uses, is 64 MB in most containers; where it runs out, a batch is lost and the
training waits for ever. Here nothing lies in shared memory: each worker writes its items into a pipe, a thread of the
main process reads them into ordinary memory, and a worker that is gone shows as the end of its pipe, at once.

    worker w: items start + w, start + w + workers, ...  -> pipe -> thread w -> queue of `AHEAD` items -> main process

The main process takes the items in order, from one queue after the other. A full queue lets the thread wait, a full
pipe the worker.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from iccld_cli.errors import IccldError

AHEAD = 4
"""Items of each worker that wait in the main process."""

_WIDEST_PIPE = 1 << 20
Make = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class _Problem:
    """Why there is no item: in words, what to do about it, and a traceback where the program is wrong."""

    what: str
    hint: str | None = None
    trace: str = ""

    def error(self) -> Exception:
        return RuntimeError(f"{self.what}\n{self.trace}") if self.trace else IccldError(self.what, self.hint)


@dataclass(frozen=True)
class _Layout:
    """A tensor without its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int


@contextlib.contextmanager
def load_ahead(make: Make, start: int, stop: int, workers: int, pin_memory: bool) -> Iterator[Iterator[dict[str, Any]]]:
    """Compute items in worker processes.

    Args:
        make: Item number -> dictionary of tensors and plain values. An `IccldError` that it raises is raised here.
        start: First item.
        stop: Item behind the last.
        workers: Processes; 0 computes in this one, when an item is asked for.
        pin_memory: Whether tensors are staged for an asynchronous copy to a GPU.

    Yields:
        An iterator over the items in order. It raises an `IccldError` where an item cannot be made or a worker is gone.
    """
    if not workers:
        yield (_finish(make(item), pin_memory) for item in range(start, stop))
        return
    crew = _Crew(make, start, stop, min(workers, max(stop - start, 1)), pin_memory)
    try:
        yield crew.items()
    finally:
        crew.close()


class _Crew:
    def __init__(self, make: Make, start: int, stop: int, workers: int, pin_memory: bool) -> None:
        self._range = range(start, stop)
        self._pin = pin_memory
        self._closing = False
        self._queues: list[queue.Queue] = [queue.Queue(AHEAD) for _ in range(workers)]
        self._processes: list[Any] = []
        self._ends: list[Connection] = []
        context = multiprocessing.get_context()
        forked = context.get_start_method() == "fork"
        try:
            for number in range(workers):
                here, there = context.Pipe(duplex=False)
                _widen(there)
                # A forked worker inherits the ends of those before it, which would keep their pipes open.
                others = [*self._ends, here] if forked else []
                items = range(start + number, stop, workers)
                process = context.Process(target=_work, args=(make, items, there, others), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
                self._ends.append(here)
        except OSError as error:
            self.close()
            raise IccldError(
                f"cannot start {workers} loading processes ({error.strerror or error})",
                "use fewer with --set data.workers=1, or none with data.workers=0",
            ) from None
        self._threads = [
            threading.Thread(target=self._receive, args=(number,), daemon=True, name=f"iccld-load-{number}")
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def items(self) -> Iterator[dict[str, Any]]:
        for count, _ in enumerate(self._range):
            item = self._queues[count % len(self._queues)].get()
            if isinstance(item, _Problem):
                raise item.error()
            yield item

    def close(self) -> None:
        """Stop at once: workers only read, so nothing is lost by killing them."""
        self._closing = True
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for thread in getattr(self, "_threads", []):
            thread.join()  # its pipe has ended
        for end in self._ends:
            end.close()

    def _receive(self, number: int) -> None:
        end = self._ends[number]
        while True:
            item: dict[str, Any] | _Problem | None
            try:
                item = _read_item(end, self._pin)
            except (EOFError, OSError):
                item = None if self._closing else self._lost(number)
            except Exception as error:  # memory ran out in this process
                item = _explain(error)
            if item is None:
                return
            while not self._closing:
                with contextlib.suppress(queue.Full):
                    self._queues[number].put(item, timeout=0.2)
                    break
            if self._closing or isinstance(item, _Problem):
                return

    def _lost(self, number: int) -> _Problem | None:
        process = self._processes[number]
        process.join(5)
        if process.exitcode == 0:
            return None  # it has done all its items
        code = process.exitcode
        how = f"ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        guess = ", probably for lack of memory" if code == -signal.SIGKILL else ""
        return _Problem(
            f"a loading process died ({how}{guess})",
            "use fewer with --set data.workers=1, and --resume",
        )


def _explain(error: Exception) -> _Problem:
    if isinstance(error, IccldError):
        return _Problem(error.message, error.hint)
    if isinstance(error, MemoryError) or "nsufficient memory" in str(error) or "can't allocate memory" in str(error):
        return _Problem(
            "memory ran out while loading pictures", "lower --crop or --batch-size, or use --set data.workers=1"
        )
    return _Problem(f"loading failed, {type(error).__name__}: {error}", trace=traceback.format_exc())


def _work(make: Make, items: range, end: Connection, others: list[Connection]) -> None:
    import cv2

    # What a forked worker inherits may belong to threads that it does not have: collecting a video decoder waits for
    # them for ever.
    gc.freeze()
    for other in others:
        other.close()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C and a launcher's SIGTERM reach every process of a group: the main one decides what they mean.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the reader is gone
        for item in items:
            try:
                found: dict[str, Any] | _Problem = make(item)
            except Exception as error:
                found = _explain(error)
            _write_item(end, found)
            if isinstance(found, _Problem):
                break
    end.close()


def _leave_with_parent() -> None:
    # At once, and not with the next item: what the main process has locked stays locked while a child of it lives.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_item(end: Connection, item: dict[str, Any] | _Problem) -> None:
    """Send an item: what describes it, then the bytes of each tensor as they lie in memory."""
    if isinstance(item, _Problem):
        end.send(item)
        return
    plain, parts = {}, []
    for key, value in item.items():
        if isinstance(value, torch.Tensor):
            flat = torch.as_strided(value, (_extent(value),), (1,))
            parts.append(flat.view(torch.uint8).numpy())
            value = _Layout(value.dtype, tuple(value.shape), tuple(value.stride()), parts[-1].nbytes)
        plain[key] = value
    end.send(plain)
    for part in parts:
        _send_bytes(end, memoryview(part))


def _extent(tensor: torch.Tensor) -> int:
    """Elements from a tensor's first to its last in memory."""
    if not tensor.numel():
        return 0
    return 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _read_item(end: Connection, pin_memory: bool) -> dict[str, Any] | _Problem:
    try:
        item = end.recv()
    except pickle.UnpicklingError:  # a worker was killed while it wrote
        raise EOFError from None
    if isinstance(item, _Problem):
        return item
    for key, value in item.items():
        if isinstance(value, _Layout):
            flat = torch.empty(value.size, dtype=torch.uint8, pin_memory=pin_memory)
            if value.size:
                _receive_bytes(end, memoryview(flat.numpy()))
            item[key] = torch.as_strided(flat.view(value.dtype), value.shape, value.strides)
    return item


def _finish(item: dict[str, Any], pin_memory: bool) -> dict[str, Any]:
    if not pin_memory:
        return item
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in item.items()}


# On POSIX without `Connection`'s own framing, which copies every byte twice more.


def _send_bytes(end: Connection, data: memoryview) -> None:
    if os.name == "nt":
        if data.nbytes:
            end.send_bytes(data)
        return
    handle = end.fileno()
    while data.nbytes:
        data = data[os.write(handle, data) :]


def _receive_bytes(end: Connection, room: memoryview) -> None:
    if os.name == "nt":
        end.recv_bytes_into(room)
        return
    handle = end.fileno()
    while room.nbytes:
        got = os.readv(handle, [room])
        if not got:
            raise EOFError
        room = room[got:]


def _widen(end: Connection) -> None:
    """Let a pipe hold as much as it may, so that fewer calls move a batch."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, _WIDEST_PIPE)
