"""Tiny files in the bit formats of the official data sets, as bytes, written without the code under test."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

SHAPE = (16, 32)
"""(height, width) of the frames; 512 pixels, so that every id of every set occurs several times."""

IGNORED = 255
ANYTHING = -1
"""The id of pixels that nobody looks at, such as the border of a polygon."""


def tiled(ids: Iterable[int], shape: tuple[int, int] = SHAPE, start: int = 0) -> np.ndarray:
    """All ids one after the other, again and again, row by row.

    Args:
        ids: At most as many as there are pixels.
        shape: (height, width).
        start: Number of places by which they are rotated, so that frames differ.

    Returns:
        int32 (H, W).
    """
    return np.resize(np.roll(np.array(list(ids), np.int32), -start), shape)


def mapped(ids: np.ndarray, truth: Mapping[int, int]) -> np.ndarray:
    """int32 (H, W) of trainIds; ids that a table does not name are ignored, `ANYTHING` stays what it is."""
    table = np.full(256, IGNORED, np.int32)
    for number, train_id in truth.items():
        table[number] = train_id
    return np.where(ids == ANYTHING, ANYTHING, table[ids])


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(seed: int, shape: tuple[int, int] = SHAPE, kind: str = "PNG") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
    return _saved(Image.fromarray(pixels), kind, **({"quality": 95} if kind == "JPEG" else {}))


def plain(colour: int, shape: tuple[int, int] = SHAPE) -> bytes:
    """An image of one grey."""
    return _saved(Image.fromarray(np.full((*shape, 3), colour, np.uint8)))


def grey(ids: np.ndarray) -> bytes:
    """8-bit grey PNG."""
    return _saved(Image.fromarray(ids.astype(np.uint8)))


def grey16(ids: np.ndarray) -> bytes:
    """16-bit grey PNG, as the instance files are that lie beside the labels."""
    return _saved(Image.fromarray(ids.astype(np.uint16)))


def palette(ids: np.ndarray, colours: Mapping[int, tuple[int, int, int]] | None = None) -> bytes:
    """Palette PNG whose index is the id; without colours the palette is noise."""
    table = np.random.default_rng(5).integers(0, 256, (256, 3)).astype(np.uint8)
    for number, colour in (colours or {}).items():
        table[number] = colour
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(table.tobytes())
    return _saved(image)


def rgb(channels: np.ndarray) -> bytes:
    """8-bit RGB or RGBA PNG of (H, W, 3) or (H, W, 4)."""
    return _saved(Image.fromarray(channels.astype(np.uint8)))


def painted(ids: np.ndarray, colours: Mapping[int, tuple[int, int, int]]) -> bytes:
    """8-bit RGB PNG that shows a colour in place of each id."""
    table = np.zeros((256, 3), np.uint8)
    for number, colour in colours.items():
        table[number] = colour
    return rgb(table[ids])


def rgb16(red: np.ndarray, green: np.ndarray) -> bytes:
    """16-bit RGB PNG, put together by hand because Pillow cannot write one."""
    pixels = np.stack([red, green, np.zeros_like(red)], -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    height, width = red.shape
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    )


def split_mat(fields: Mapping[str, list[int]]) -> bytes:
    """A compressed level 5 MAT file with columns of uint16."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    data = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, numbers in fields.items():
        matrix = element(6, struct.pack("<II", 11, 0)) + element(5, struct.pack("<ii", len(numbers), 1))
        matrix += element(1, name.encode()) + element(4, np.array(numbers, "<u2").tobytes())
        packed = zlib.compress(element(14, matrix))
        data += struct.pack("<II", 15, len(packed)) + packed
    return data
