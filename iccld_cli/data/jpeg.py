"""What the JPEG decoder says about damage.

OpenCV returns grey or shifted pixels and no error; only libjpeg beneath it writes a line on stderr.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

_DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG")


@contextlib.contextmanager
def damage_reports(listen: bool = True) -> Iterator[list[str]]:
    """Collect what libjpeg writes to stderr about damaged data while the context lasts.

    Python's own `sys.stderr` cannot see it, so the descriptor is turned to a file meanwhile. For one thread at a
    time. What others write to stderr meanwhile is passed on afterwards.

    Args:
        listen: False for other formats: nothing is turned and nothing reported.

    Yields:
        A list, filled when the context ends: each report in libjpeg's words, such as
        "premature end of data segment".
    """
    found: list[str] = []
    if not listen:
        yield found
        return
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed: nothing can be heard
        yield found
        return
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if heard.seek(0, os.SEEK_END):
                heard.seek(0)
                for line in heard.read().splitlines(keepends=True):
                    if line.startswith(_DAMAGE):
                        found.append(line.decode("ascii", "replace").strip().removeprefix("Corrupt JPEG data: "))
                    else:
                        os.write(2, line)
