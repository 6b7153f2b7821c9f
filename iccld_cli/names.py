"""Names are text: what files, classes and data sets are called never acts on a terminal, a page or a picture.

Everything that shows a name which came from outside (a file system, a label map, a model file, a data set) passes it
through `shown`. Results keep the true name; only what is shown is escaped.
"""

from __future__ import annotations

import re

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # control characters: they move the cursor, recolour, retitle or clear a terminal
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # order of writing: they show a name as another one
    "\u2028\u2029"  # line ends that are no control characters
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8, as Python keeps them: no stream can write these
)
_CHARACTERS = re.compile(f"[{_UNSAFE}]")
_IN_TEXT = re.compile(f"(?!\n)[{_UNSAFE}]")
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(name: object) -> str:
    r"""A name as it is shown: on one line, with control characters written out, such as `\x1b`.

    Bytes of a file name that are not UTF-8 become `\xff` and the like. Letters of every script stay.

    Args:
        name: A name, a path, or a sentence that holds some.
    """
    return _CHARACTERS.sub(_escape, str(name))


def shown_lines(text: str) -> str:
    """The same for a text of several lines, whose line ends stay."""
    return _IN_TEXT.sub(_escape, text)


def json_safe(text: str) -> str:
    r"""JSON whose strings hold no character that acts on a terminal or cannot be written as UTF-8.

    Args:
        text: JSON, where such characters only occur inside strings; there `\u001b` means the same character.
    """
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that `os.fsdecode` could not read
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
