"""Tiny raw files in the true bit formats, written by the tests themselves."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (8, 40)
"""(height, width) of the tiny frames; as wide as the longest table of ids."""


def photo(path: Path, seed: int = 0, shape: tuple[int, int] = SHAPE) -> Path:
    """An image that is not of one colour; JPEG or PNG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    return path


def all_ids(ids: list[int], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Columns of ids, one after the other, the last one to the right edge."""
    row = np.full(shape[1], ids[-1], np.uint16)
    row[: len(ids)] = ids
    return np.repeat(row[None], shape[0], 0)


def grey(path: Path, ids: np.ndarray) -> Path:
    """8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8), "L").save(path)
    return path


def palette(path: Path, ids: np.ndarray) -> Path:
    """Palette PNG whose index is the id; the colours are chosen to mislead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)
    return path


def rgb(path: Path, channels: np.ndarray) -> Path:
    """8-bit RGB PNG of (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(channels.astype(np.uint8)).save(path)
    return path


def rgb16(path: Path, red: np.ndarray, green: np.ndarray) -> Path:
    """16-bit RGB PNG, written chunk by chunk, because common libraries cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = red.shape
    pixels = np.stack([red, green, np.zeros_like(red)], -1).astype(">u2")
    rows = b"".join(b"\0" + pixels[y].tobytes() for y in range(height))
    path.write_bytes(png(width, height, 16, 2, rows))
    return path


def png(width: int, height: int, depth: int, kind: int, rows: bytes, name: bytes = b"IDAT") -> bytes:
    """A PNG from its filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (name, zlib.compress(rows)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mat5(fields: dict[str, list[int]], compressed: bool = True) -> bytes:
    """A level 5 MAT file with columns of doubles."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    data = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, numbers in fields.items():
        matrix = (
            element(6, struct.pack("<II", 6, 0))
            + element(5, struct.pack("<ii", len(numbers), 1))
            + (
                struct.pack("<HH", 1, len(name)) + name.encode().ljust(4)
                if len(name) <= 4
                else element(1, name.encode())
            )
            + element(9, np.array(numbers, "<f8").tobytes())
        )
        whole = element(14, matrix)
        if compressed:
            packed = zlib.compress(whole)
            whole = struct.pack("<II", 15, len(packed)) + packed
        data += whole
    return data
