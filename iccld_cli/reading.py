"""Files read with care: regular files of bounded size; JSON and TOML of bounded depth.

What a disk holds may be damaged, replaced or made to harm. Opening a named pipe waits for ever, a device never ends,
and deeply nested JSON exhausts Python's stack. Everything here raises a `ReadError`, whose text reads on after
the file's name ("is a named pipe"), so that each caller says it in its own sentence.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

from iccld_cli import plainjson
from iccld_cli.errors import IccldError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

MIB = 1 << 20
MAX_FILE = 1 << 30
"""Most bytes of a picture or label file; the largest of a known data set is below 100 MB."""

MAX_SETTINGS = 4 * MIB
"""Most bytes of a file that a person writes: settings, label maps."""

MAX_DESCRIPTION = 256 * MIB
"""Most bytes of a JSON file that the program writes: `dataset.json`, `state.json`."""

_KINDS = (
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISDIR, "is a folder"),
)


class ReadError(IccldError):
    """A file that cannot be used; the message reads on after its name."""


def kind_problem(path: Path | str) -> str | None:
    """What a path is that must never be opened: a pipe, device or socket, also behind links, or a loop of links.

    Returns:
        A text that reads on after the name; None for files, folders, and what does not exist or cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "is a loop of links" if error.errno == errno.ELOOP else None
    except ValueError:  # a zero byte in the name
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return _kind(mode)


def _kind(mode: int) -> str:
    return next((text for test, text in _KINDS if test(mode)), "is no regular file")


def read_bytes(path: Path | str, limit: int = MAX_FILE, start: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        limit: Most bytes that it may have.
        start: Bytes to read from its start; None for all.

    Raises:
        ReadError: It is missing, no regular file, larger than `limit`, or cannot be read.
    """
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        if problem := kind_problem(path):  # not even opened: that alone makes some devices act
            raise ReadError(problem)
        handle = os.open(path, flags)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ReadError(_kind(found.st_mode))
            if found.st_size > limit:
                raise ReadError(f"is larger than {_amount(limit)}")
            with open(handle, "rb", closefd=False) as file:
                # Python takes room for as much as it is asked for, however small the file is.
                data = file.read(found.st_size + 1 if start is None else min(start, found.st_size))
                if start is None and len(data) > found.st_size:  # it grew, or is of a kind that states no size
                    data += file.read(limit + 1 - len(data))
        finally:
            os.close(handle)
        if len(data) > limit:
            raise ReadError(f"is larger than {_amount(limit)}")
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise ReadError("is missing") from None
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise ReadError("has a name that no file can have") from None


def read_text(path: Path | str, limit: int) -> str:
    """The content of a UTF-8 file.

    Raises:
        ReadError: As `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReadError(f"is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path | str, limit: int = MAX_DESCRIPTION, finite: bool = True) -> Any:
    """Read a JSON file.

    Raises:
        ReadError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, limit), finite)


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """Parse JSON.

    Args:
        text: One JSON value.
        finite: Whether NaN and infinite numbers are refused.

    Raises:
        ReadError: It is not JSON, nested deeper than `plainjson.MAX_DEPTH`, or holds a key twice or a number that is
            not finite.
    """
    try:
        return plainjson.parse_json(text, limit=MAX_DESCRIPTION, containers=MAX_DESCRIPTION, finite=finite)
    except plainjson.NestedTooDeep:
        raise ReadError("is nested too deeply") from None
    except ValueError as error:
        raise ReadError(f"is not JSON ({error})") from None


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ReadError: As `read_text` and `parse_toml`; a byte order mark is passed over.
    """
    return parse_toml(read_text(path, MAX_SETTINGS).removeprefix("\ufeff"))


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ReadError: It is not TOML, or nested deeper than `plainjson.MAX_DEPTH`.
    """
    try:
        value = tomllib.loads(text)
        plainjson.check_depth(value)
    except (RecursionError, plainjson.NestedTooDeep):
        raise ReadError("is nested too deeply") from None
    except ValueError as error:
        raise ReadError(f"is not TOML ({error})") from None
    return value


def _amount(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size} bytes"
