"""What an exception that nobody expected means, where it comes from the machine and not from the program."""

from __future__ import annotations

import os
from pathlib import Path

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_failure

_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows
    "Insufficient memory",  # OpenCV
    "Unable to allocate",  # NumPy
    "out of memory",  # CUDA
)


def explain(error: Exception) -> Exception:
    """Turn an error of the disk, the memory or the system's limits into a sentence.

    Returns:
        An `IccldError`, or the error itself where it may well be the program's fault.
    """
    if isinstance(error, IccldError):
        return error
    if is_out_of_memory(error):
        return IccldError(
            "the memory of this machine does not suffice", "ask for smaller images or fewer at once, or free some"
        )
    explained = explain_failure(error, _path_of(error))
    if isinstance(explained, IccldError):
        return explained
    if isinstance(error, ImportError) and "too many open files" in str(error).lower():
        return explain_failure(OSError(24, os.strerror(24)), "a library")
    if isinstance(error, OSError) and error.errno is not None:
        reason = (error.strerror or os.strerror(error.errno)).lower()
        return IccldError(f"{_path_of(error)}: {reason}", "check the path and the disk")
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # pathlib of Python 3.12 and older
        return IccldError(f"a path leads back to itself ({error})", "remove the link")
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, OpenCV or torch says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError):
        return True
    # By their text, because `iccld --help` must not import the libraries whose errors these are.
    return type(error).__name__ in ("RuntimeError", "OutOfMemoryError", "error") and any(
        words in str(error) for words in _MEMORY
    )


def _path_of(error: Exception) -> Path | str:
    name = getattr(error, "filename", None)
    return "a file" if name is None else Path(os.fsdecode(name)) if isinstance(name, bytes | str) else str(name)
