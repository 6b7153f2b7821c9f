"""One training a run folder: a lock that lasts as long as the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error
from iccld_cli.parallel.ranks import Ranks, is_first
from iccld_cli.reading import kind_problem

LOCK_NAME = "state/lock"
_PATIENCE = 5.0  # seconds: a killed process that holds a GPU is gone only a moment later
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


@contextlib.contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder; all ranks together, the first one holds it.

    The file `state/lock` stays: what counts is the operating system's lock on it, which ends with its process, however
    that ends. File systems that know no locks are used without one.

    Raises:
        IccldError: Another training holds it, or the folder cannot be written.
    """
    made: list[Path] = []
    handle, problem = _take(run, made) if is_first() else (None, None)
    problem = Ranks().gather(problem)[0]
    if problem is not None:
        raise IccldError(*problem)
    try:
        yield
    finally:
        if handle is not None:
            _clear(run, made)
            os.close(handle)


def _take(run: Path, made: list[Path]) -> tuple[int | None, tuple[str, str | None] | None]:
    """Lock a run folder.

    Args:
        run: The folder.
        made: Filled with the folders that had to be made for it.

    Returns:
        A handle that holds the lock, or None; and why no training can start here, as an error's two parts.
    """
    path, handle = run / LOCK_NAME, None
    end = time.monotonic() + _PATIENCE
    try:
        if problem := kind_problem(path):
            return None, (f"{path} {problem}", "remove it, or choose another --out")
        while True:
            # Its last owner may be removing the folders just now, so they are looked at each time.
            made[:] = [folder for folder in (run, run / "state") if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o644)
            if handle is not None and _lock(handle) and _is_file(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
                return handle, None
            who = b"" if handle is None else os.read(handle, 1000)
            if handle is not None:
                os.close(handle)
                handle = None
            if time.monotonic() > end:
                text = f"another training is writing to {run}{_describe(who)}"
                return None, (text, "wait for it or stop it, or choose another --out")
            time.sleep(0.1)
    except OSError as error:
        if handle is not None and error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            return handle, None
        if handle is not None:
            os.close(handle)
        found = explain_os_error(error, path)
        if isinstance(found, IccldError):
            return None, (found.message, found.hint)
        return None, (f"cannot write {path} ({error.strerror})", "choose another --out")


def _lock(handle: int) -> bool:
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _is_file(handle: int, path: Path) -> bool:
    """Whether the name still means the file that was locked: its owner may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(text: bytes) -> str:
    try:
        who = json.loads(text)
        return f" (process {int(who['process'])} on {str(who['host'])[:100]})"
    except (ValueError, TypeError, KeyError):
        return ""


def _clear(run: Path, made: list[Path]) -> None:
    """Leave no folder behind where nothing was written."""
    with contextlib.suppress(OSError):
        if not made or any(path != run / LOCK_NAME for path in (run / "state").iterdir()):
            return
        if run in made and any(path != run / "state" for path in run.iterdir()):
            return
        (run / LOCK_NAME).unlink()
        for path in reversed(made):
            path.rmdir()
