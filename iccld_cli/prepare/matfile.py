"""A reader for the one kind of MATLAB file that data sets use: plain arrays of numbers, level 5.

SciPy would read it as well; for one file of one data set it is too large a dependency.
Format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from iccld_cli.errors import IccldError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {
    1: np.int8,
    2: np.uint8,
    3: np.int16,
    4: np.uint16,
    5: np.int32,
    6: np.uint32,
    7: np.float32,
    9: np.float64,
    12: np.int64,
    13: np.uint64,
}
_MAX_BYTES = 64 * 1024 * 1024


def read_integers(data: bytes, name: str) -> dict[str, list[int]]:
    """Read the numeric arrays of a level 5 MAT file.

    Args:
        data: The file's content.
        name: Its name, for errors.

    Returns:
        Flattened integers by variable name; variables that are not numeric are left out.

    Raises:
        IccldError: Not such a file, or damaged.
    """
    try:
        if data[_HEADER - 2 : _HEADER] != b"IM":
            raise ValueError("not a little-endian level 5 MAT file")
        found = {}
        for kind, content in _elements(data[_HEADER:]):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                content = unpacker.decompress(content, _MAX_BYTES)
                if unpacker.unconsumed_tail:
                    raise ValueError("too large")
                kind, content = _elements(content)[0]
            if kind == _MATRIX:
                _flags, _shape, (_, label), *parts = _elements(content)
                if parts and parts[0][0] in _TYPES:
                    numbers = np.frombuffer(parts[0][1], _TYPES[parts[0][0]])
                    found[label.decode("ascii")] = numbers.astype(np.int64).tolist()
        return found
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise IccldError(f"{name} cannot be read ({error})", "download it again or remove it") from None


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # small element: type and size share the first word, the data the second
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            at += 8
        else:
            start = at + 8
            at = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError("truncated")
        found.append((kind, data[start : start + size]))
    return found
