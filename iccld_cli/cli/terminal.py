"""What a command prints: names as text, and printing that never makes a command fail.

A full disk behind `> file`, a closed pipe as of `| head`, or a terminal with a small character set must not lose the
work that a command has done. `safe_streams` guards everything that prints, libraries included.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from iccld_cli.names import shown, shown_lines

if TYPE_CHECKING:
    from iccld_cli.bars import Update

__all__ = ["console", "progress_bar", "safe_streams", "say", "shown"]


def console(stderr: bool = False) -> Console:
    """A console that takes what it prints for text: no markup, no emoji codes, lines as long as they are.

    Args:
        stderr: Print to the error stream.
    """
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(text: str, stderr: bool = False, style: str | None = None) -> None:
    """Print a sentence that may hold names.

    Args:
        text: What to say; control characters other than line ends are written out.
        stderr: Say it on the error stream.
        style: Of rich, such as `red`.
    """
    console(stderr).print(shown_lines(text), style=style)


def progress_bar(what: str, unit: str) -> contextlib.AbstractContextManager[Update]:
    """`bars.progress_bar` on the error stream."""
    from iccld_cli import bars

    return bars.progress_bar(what, unit, console(stderr=True))


class SafeStream:
    """A text stream whose failures end the printing and nothing else."""

    def __init__(self, stream: Any) -> None:
        """Wrap a stream.

        Args:
            stream: Such as `sys.stdout`.
        """
        self._stream, self._dead = stream, False
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or drop the text where that is impossible."""
        if not self._dead:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                plain = text.encode("ascii", "backslashreplace").decode("ascii")
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write(plain)
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or give up."""
        if not self._dead:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        self._dead = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # What is still buffered would fail again when the interpreter flushes it at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        closed = isinstance(error, ValueError) or getattr(error, "errno", None) in (errno.EPIPE, errno.EINVAL)
        if not closed and sys.stderr is not self:
            reason = str(getattr(error, "strerror", None) or error).lower()
            say(f"warning: what follows cannot be printed ({reason})", stderr=True, style="yellow")


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Guard standard output and the error stream while the block runs."""
    before = sys.stdout, sys.stderr
    if os.environ.get("COLUMNS", "").strip() == "0":  # rich would take it for a terminal without any room
        del os.environ["COLUMNS"]
    if sys.stdout is not None:
        sys.stdout = SafeStream(sys.stdout)  # type: ignore[assignment]
    if sys.stderr is not None:
        sys.stderr = SafeStream(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
