"""PNG files unpacked by ISA-L, which takes a third of the time of the zlib that OpenCV is built with.

Unpacking is most of what decoding a photograph in a PNG costs. OpenCV still decodes the file: it is given the same
one with its pixels stored instead of compressed. Where ISA-L has no wheel, everything is as it would be without it.
"""

from __future__ import annotations

import struct
import zlib
from types import ModuleType

_isal: ModuleType | None
try:
    from isal import isal_zlib as _isal
except ImportError:
    _isal = None

_SIGNATURE, _HEADER = 8, 33  # bytes; the header with the signature before it
_LEAST, _MOST = 1 << 16, 64 << 20  # bytes of pixels: below, it does not pay; above, the copies take too much memory
_BLOCK = 65535  # most bytes of a stored block
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def crc32(data: bytes | memoryview) -> int:
    """The checksum of a PNG chunk."""
    return zlib.crc32(data) if _isal is None else int(_isal.crc32(data))


def unpacked(data: bytes) -> bytes:
    """A PNG with the same content whose pixels are stored, not compressed.

    Args:
        data: A PNG whose chunks are sound (`checks.check_png`).

    Returns:
        The PNG; `data` itself where its pixels do not unpack to exactly what it announces, so that the decoder meets
        what is wrong with it, and where it would not pay or is interlaced.
    """
    if _isal is None or len(data) < _HEADER or data[8:16] != b"\0\0\0\rIHDR":
        return data
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    size = height * (1 + -(-width * depth * _CHANNELS.get(color, 0) // 8))
    if interlaced or not _LEAST <= size <= _MOST:
        return data
    view = memoryview(data)
    packed, begin, end = _pixel_chunks(view)
    stream = _isal.decompressobj()
    try:
        rows = stream.decompress(packed, size + 1)
    except _isal.error:
        return data
    if len(rows) != size or not stream.eof or stream.unused_data:
        return data
    return b"".join([view[:begin], *_stored(rows), view[end:]])


def _pixel_chunks(view: memoryview) -> tuple[bytes, int, int]:
    """Content of the `IDAT` chunks, which follow each other, and where they begin and end."""
    parts: list[memoryview] = []
    at = begin = _SIGNATURE
    while at + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, at)
        if view[at + 4 : at + 8] == b"IDAT":
            begin = begin if parts else at
            parts.append(view[at + 8 : at + 8 + length])
        elif parts:
            break
        at += 12 + length
    return b"".join(parts), begin, at


def _stored(rows: bytes) -> list[bytes | memoryview]:
    """An `IDAT` chunk that holds rows in stored blocks (RFC 1950 and 1951)."""
    assert _isal is not None
    view = memoryview(rows)
    pieces: list[bytes | memoryview] = [b"IDAT\x78\x01"]
    for at in range(0, len(rows), _BLOCK):
        block = view[at : at + _BLOCK]
        pieces += [struct.pack("<BHH", at + _BLOCK >= len(rows), len(block), len(block) ^ 0xFFFF), block]
    pieces.append(struct.pack(">I", _isal.adler32(rows)))
    checksum = 0
    for piece in pieces:
        checksum = _isal.crc32(piece, checksum)
    length = sum(len(piece) for piece in pieces) - len(b"IDAT")
    return [struct.pack(">I", length), *pieces, struct.pack(">I", checksum)]
