"""A worker's folder for what it fetches and what it has not handed over yet.

A worker that is killed cannot remove its folder; the next one on the machine does, which finds its lock free.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from iccld_cli.errors import IccldError

_ROOT = f"iccld-fleet-{os.getuid() if hasattr(os, 'getuid') else 0}"


class Scratch:
    """A folder that goes away with its worker.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        root = Path(tempfile.gettempdir()) / _ROOT
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            raise IccldError(f"{root} belongs to somebody else", "remove it, or set TMPDIR to a folder of your own")
        for lock in root.glob("*.lock"):
            _remove_abandoned(lock)
        self.path = root / uuid.uuid4().hex[:12]
        self._lock = FileLock(self.path.with_suffix(".lock"))
        self._lock.acquire()
        self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


def _remove_abandoned(path: Path) -> None:
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return
    try:
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        path.unlink(missing_ok=True)
    finally:
        lock.release()
