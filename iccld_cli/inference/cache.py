"""Model files converted for a faster runtime, kept for the next time.

    CACHE/models/KEY/            one conversion, renamed into place when it is whole
        graph.xml, graph.bin     the graph
        entry.json               what it is, and sha256 of both

The folder belongs to its user alone (mode 0700); one that others may write to is not used. What is read is compared
with its digests, so that a damaged entry is found, removed and made again. `ICCLD_CACHE` names another folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from iccld_cli.plainjson import parse_json

KEPT = 8
"""Conversions kept; the least recently used go first."""

PATIENCE = 120
"""Seconds to wait for another process that makes the same conversion, before it is made twice."""

ABANDONED = 24 * 3600
"""Seconds after which an unfinished conversion counts as abandoned."""

FILES = ("graph.xml", "graph.bin")


@dataclass(frozen=True)
class Entry:
    """A conversion.

    Attributes:
        graph: The `.xml` file; its weights lie beside it.
        facts: What was stored with it.
    """

    graph: Path
    facts: dict[str, Any]


def cache_folder() -> Path | None:
    """The cache's folder, made if need be; None where there is none that belongs to this user alone."""
    try:
        folder = named_folder().expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
    except (OSError, RuntimeError):  # the latter for the home of a user who is not there
        return None
    if not stat.S_ISDIR(state.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        return None
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        return None
    return folder


def named_folder() -> Path:
    """The folder that the cache should have, whether it can be used or not."""
    named = os.environ.get("ICCLD_CACHE")
    return (Path(named) if named else Path(platformdirs.user_cache_dir("iccld", appauthor=False))) / "models"


def find(folder: Path | None, key: str) -> Entry | None:
    """A whole entry, or None. A damaged one is removed."""
    if folder is None or not os.path.lexists(folder / key):
        return None
    try:
        if not all(stat.S_ISREG((folder / key / name).lstat().st_mode) for name in (*FILES, "entry.json")):
            raise ValueError("no regular files")
        if (folder / key).is_symlink():
            raise ValueError("a link")
        kept = parse_json((folder / key / "entry.json").read_bytes())
        facts, digests = kept["facts"], kept["sha256"]
        if {"facts": _of_facts(facts), **{name: file_digest(folder / key / name) for name in FILES}} != digests:
            raise ValueError("other bytes than were written")
    except (OSError, ValueError, KeyError, TypeError):
        _remove(folder / key)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / key)  # when it was used last
    return Entry(folder / key / FILES[0], facts)


def keep(folder: Path, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry | None:
    """Make an entry and give it its name when it is whole.

    Args:
        folder: From `cache_folder`.
        key: Its name.
        write: Writes `FILES` into a folder and returns facts to keep beside them, JSON-ready.

    Returns:
        The entry; None when the disk does not take it.
    """
    part = folder / f".{key[:16]}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir(mode=0o700)
        facts = write(part)
        digests = {"facts": _of_facts(facts), **{name: file_digest(part / name) for name in FILES}}
        (part / "entry.json").write_text(json.dumps({"facts": facts, "sha256": digests}), encoding="utf-8")
        with contextlib.suppress(OSError):  # another process was faster, and made the same
            os.rename(part, folder / key)
        _forget(folder, key)
    except OSError:
        return None
    finally:
        _remove(part)
    return find(folder, key)


@contextlib.contextmanager
def alone(folder: Path | None, key: str) -> Iterator[None]:
    """Wait while another process works on the same entry; a killed one does not block."""
    if folder is None:
        yield
        return
    lock = filelock.FileLock(folder / f".{key[:16]}.lock", timeout=PATIENCE)
    with contextlib.ExitStack() as stack:
        # The lock saves doing the same work twice, nothing more: where it cannot be had (on some network disks filelock
        # raises NotImplementedError), or not in time, both write, each to a name of its own.
        with contextlib.suppress(filelock.Timeout, OSError, NotImplementedError):
            stack.enter_context(lock)
        yield


def file_digest(path: Path) -> str:
    """sha256, in hex, of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _of_facts(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _forget(folder: Path, newest: str) -> None:
    """Keep the entries used last."""
    entries = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "." and path.name != newest]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    # What killed processes left half-made.
    left = [p for p in folder.glob(".*.part") if time.time() - p.lstat().st_mtime > ABANDONED]
    for path in (*entries[KEPT - 1 :], *left):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove an entry: renamed first, so that no process finds a part of it."""
    gone = path.with_name(f".{secrets.token_hex(8)}.part")
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone, ignore_errors=True)
        else:
            gone.unlink()
