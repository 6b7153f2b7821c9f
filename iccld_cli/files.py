"""Files that are either whole or absent.

Every result is written under a temporary name beside its final one, flushed to disk and renamed, so that
an interrupted or failed write never leaves a half-written file under a name that somebody reads.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends without an error.

    The temporary name keeps the final suffix, because image and video writers choose their format by it.

    Args:
        path: Where the finished file shall lie; its parents are created.

    Yields:
        The path to write to. It is removed when the block raises.

    Raises:
        IccldError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def explain_os_error(error: OSError, path: Path | str) -> Exception:
    """Turn a failed write into a sentence about the disk; other errors come back unchanged."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IccldError(f"no space left on the disk while writing {path}", "free some space and run again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return IccldError(f"cannot write {path}", "choose a folder you may write to")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return IccldError(f"cannot create {path}", "a file of that name is in the way")
    return error


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
