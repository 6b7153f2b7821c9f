"""Explanations of unexpected exceptions that come from the machine and not from the program."""

from __future__ import annotations

import os
from pathlib import Path

from iccld_cli.errors import IccldError, explain_out_of_memory
from iccld_cli.files import explain_failure


def explain(error: Exception) -> Exception:
    """Turn an error of the disk, the memory or the system's limits into a sentence.

    Returns:
        An `IccldError`, or the error itself where it may well be the program's fault.
    """
    if isinstance(error, IccldError):
        return error
    if lack := explain_out_of_memory(error):
        return lack
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
    if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):  # batch norm of torch
        return IccldError(
            "a map of the network has a single value a channel, which batch norm cannot train on",
            "give a larger --crop or --batch-size",
        )
    return error


def _path_of(error: Exception) -> Path | str:
    name = getattr(error, "filename", None)
    return "a file" if name is None else Path(os.fsdecode(name)) if isinstance(name, bytes | str) else str(name)
