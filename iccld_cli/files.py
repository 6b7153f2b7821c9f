"""Files that are either whole or absent.

Every result is written under a temporary name beside its final one, flushed to disk and renamed, so that
an interrupted or failed write never leaves a half-written file under a name that somebody reads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.names import json_safe
from iccld_cli.reading import kind_problem

_READABLE_BYTES = 120
"""Temporary names up to this long say what they are for; longer ones would not fit where a final name just fits."""


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends without an error.

    The temporary name keeps the final suffix, because image and video writers choose their format by it, and is never
    too long where the final one is not.

    Args:
        path: Where the finished file shall lie; its parents are created.

    Yields:
        The path to write to. It is removed when the block raises.

    Raises:
        IccldError: The disk is full, the folder cannot be written, or a device or pipe has this name.
    """
    path = Path(path)
    if problem := kind_problem(path):  # the rename would put a file in its place, in /dev as well
        raise IccldError(f"cannot write {path}, which {problem}", "name a file")
    temporary = path.with_name(f".{_mark(path)}.{_host()}-{os.getpid():x}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except Exception as error:
        explained = explain_failure(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _mark(path: Path) -> str:
    """What the temporary names of a path begin with: the name itself, or a digest of a long one."""
    if len(os.fsencode(path.name)) <= _READABLE_BYTES:
        return path.stem
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def _host() -> str:
    """A mark of this machine, on which alone a process number means something."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def remove_leftovers(path: Path | str) -> None:
    """Remove what killed processes of this machine left of earlier `atomic_path(path)`.

    What a process that still lives is writing stays, and so does what may still be in use.

    Args:
        path: The final name.
    """
    path = Path(path)
    begin, end = re.escape(_mark(path)), re.escape(path.suffix)
    pattern = re.compile(rf"\.{begin}\.{_host()}-([0-9a-f]+)-[0-9a-f]{{8}}\.part{end}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found and not _alive(int(found[1], 16)):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _alive(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def explain_os_error(error: OSError, path: Path | str) -> Exception:
    """Turn a failed write into a sentence about the disk; other errors come back unchanged."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IccldError(f"no space left on the disk while writing {path}", "free some space and run again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return IccldError(f"cannot write {path}", "choose a folder you may write to")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return IccldError(f"cannot create {path}", "a file of that name exists")
    if error.errno == errno.ENAMETOOLONG:
        return IccldError(f"the name {path} is longer than this file system allows", "choose a shorter one")
    if error.errno == errno.ELOOP:
        return IccldError(f"{path} is a link that leads back to itself", "remove the link or name what it should be")
    if error.errno == errno.EFBIG:
        return IccldError(f"{path} became too large for this file system or a limit", "see `ulimit -f`")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return IccldError(
            "this process may open no more files", "raise the limit, with `ulimit -n 1024` for instance, and run again"
        )
    return error


def explain_failure(error: Exception, path: Path | str) -> Exception:
    """The same for the errors that libraries raise in place of an `OSError`; others come back unchanged.

    Args:
        error: Of SQLite, or of a library in Rust such as safetensors, which gives the system's number in its text.
        path: What was being written.
    """
    if isinstance(error, OSError):
        return explain_os_error(error, path)
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(error, path)
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None or isinstance(error, IccldError):
        return error
    number = int(found[1])
    explained = explain_os_error(OSError(number, os.strerror(number)), path)
    return explained if isinstance(explained, IccldError) else error


def _explain_sqlite(error: sqlite3.Error, path: Path | str) -> Exception:
    text = str(error).lower()
    if "full" in text:
        return explain_os_error(OSError(errno.ENOSPC, text), path)
    if "readonly" in text:
        return explain_os_error(OSError(errno.EROFS, text), path)
    if "malformed" in text or "not a database" in text:
        return IccldError(f"the journal of {path} is damaged", "remove the hidden folder of that name and run again")
    if isinstance(error, sqlite3.OperationalError):
        return IccldError(f"cannot keep a journal beside {path} ({text})", "check the disk, or choose another folder")
    return error


def link_or_copy(file: Path, to: Path) -> None:
    """The same file under another name; a copy, seen to the disk, where that lies on another one.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be copied.
    """
    try:
        os.link(file, to)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(file, to)
        with open(to, "rb") as copy:
            os.fsync(copy.fileno())


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, as UTF-8; what UTF-8 cannot hold is written out."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the given order; see `json_safe` for names."""
    write_text(path, json_safe(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")
