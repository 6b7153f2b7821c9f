"""Errors a user can act on.

Everything a user can cause (a wrong path, a broken file, a mistyped option) is raised as an `IccldError`;
`iccld_cli.cli.app` turns it into one line and exit status 1. Invariants of the program stay `assert`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from iccld_cli.names import shown


class IccldError(Exception):
    """A problem the user can mend.

    Args:
        message: What is wrong and where, one sentence without a final full stop.
        hint: How to mend it, one sentence without a final full stop.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """One line: what and where, then how to mend it; names in it are shown as text."""
        text = self.message if self.hint is None else f"{self.message}: {self.hint}"
        return shown(" ".join(text.split()))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or all of them when none is near.

    Args:
        name: What the user wrote.
        known: The words that would have been right.
    """
    words = sorted(known)
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(words)}"


_WHERE = ("Exception from ", "Check '")
"""How lines of OpenVINO begin that name a place in its source."""


def reason_of(error: BaseException) -> str:
    """What a library's error says, in one line of at most 200 letters; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_WHERE)] or [type(error).__name__]
    return said[0][:200]


_MEMORY_WORDS = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "cannot allocate memory",
    "unable to allocate",
    "storage size calculation overflowed",
    "array is too big",
    "bad_alloc",
    "_alloc_failed",  # cuBLAS and cuDNN, which allocate beside torch
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, or that a size is beyond any memory.

    Every library has its own: torch raises RuntimeError on the CPU, OpenCV its `error`, NumPy MemoryError or
    ValueError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, IccldError):
        return False
    text = str(error)[:2000].lower()
    return any(words in text for words in _MEMORY_WORDS)


def explain_out_of_memory(
    error: BaseException,
    what: str = "memory is not enough",
    hint: str = "ask for less at once: a smaller crop, size, height, batch or model",
) -> IccldError | None:
    """A sentence for an error of `is_out_of_memory`, None for any other.

    Args:
        error: The error.
        what: What there was not enough memory for.
        hint: What to lower.
    """
    if not is_out_of_memory(error):
        return None
    lines = str(error).strip().splitlines()
    reason = f" ({lines[0][:200]})" if lines else ""
    return IccldError(f"{what}{reason}", hint)
