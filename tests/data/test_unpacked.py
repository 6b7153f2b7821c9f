"""PNG files whose pixels are unpacked before OpenCV decodes them: the same pixels, and the same verdict on damage."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from iccld_cli.data.unpacked import crc32, unpacked

pytest.importorskip("isal")


def _png(mode: str, size: tuple[int, int], **options: object) -> bytes:
    """Gradients and noise, so that Pillow chooses different filters for different rows."""
    rng = np.random.default_rng(3)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 1, "1": 1, "I;16": 1}[mode]
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0]))[..., None] // 3 + np.arange(channels) * 40
    values = (ramp + rng.integers(0, 12, ramp.shape)) % 256
    if mode == "1":
        image = Image.fromarray(values[..., 0] > 128)
    elif mode == "I;16":
        image = Image.fromarray((values[..., 0] * 257 - 3 * (values[..., 0] > 0)).astype(np.uint16))
    else:
        image = Image.fromarray(values.astype(np.uint8)[..., 0] if channels == 1 else values.astype(np.uint8), mode)
    if mode == "P":
        image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
    assert image.mode == mode
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _with_pixels(data: bytes, stream: bytes, split: int = 1 << 30) -> bytes:
    """The same header with other compressed pixels, in chunks of at most `split` bytes."""
    parts = [_chunk(b"IDAT", stream[at : at + split]) for at in range(0, len(stream), split)]
    return data[:33] + b"".join(parts) + _chunk(b"IEND", b"")


def _decoded(data: bytes, how: int) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), how)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("size", [(1201, 697), (640, 1111)])
def test_an_unpacked_file_has_the_same_pixels(mode, size):
    data = _png(mode, size)
    plain = unpacked(data)
    assert plain != data and len(plain) > size[0] * size[1] // 8
    for how in (cv2.IMREAD_COLOR_RGB, cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE):
        assert np.array_equal(_decoded(plain, how), _decoded(data, how))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), np.asarray(Image.open(io.BytesIO(data))))


def test_chunks_around_the_pixels_stay_and_all_pixel_chunks_are_taken():
    data = _png("RGB", (400, 300))
    rows = zlib.decompress(b"".join(_pixels(data)))
    split = _with_pixels(data, zlib.compress(rows), split=1000)
    text, last = _chunk(b"tEXt", b"a\0b"), _chunk(b"tIME", b"\7\xea\1\1\1\1\1")
    plain = unpacked(split[:33] + text + split[33:-12] + last + split[-12:])
    assert plain[33 : 33 + len(text)] == text and plain.endswith(last + split[-12:])
    assert len(_pixels(plain)) == 1 and zlib.decompress(_pixels(plain)[0]) == rows


def _pixels(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            found.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return found


def test_what_does_not_add_up_is_left_to_the_decoder():
    data = _png("RGB", (400, 300))
    rows = zlib.decompress(b"".join(_pixels(data)))
    whole = zlib.compress(rows)
    wrong_sum = whole[:-1] + bytes([whole[-1] ^ 1])
    for stream in (wrong_sum, whole[:-4], whole[:2000], zlib.compress(rows[:-1]), zlib.compress(rows + b"\0" * 10**7)):
        damaged = _with_pixels(data, stream)
        assert unpacked(damaged) is damaged
    for damaged in (_with_pixels(data, whole + b"more"), _with_pixels(data, b""), data[:33] + data[-12:], data[:20]):
        assert unpacked(damaged) is damaged
    assert unpacked(_with_pixels(data, whole)) != data


def test_small_and_interlaced_files_are_left_as_they_are():
    small = _png("RGB", (40, 30))
    assert unpacked(small) is small
    data = _png("RGB", (400, 300))
    header = data[16:28] + b"\1"
    interlaced = data[:8] + _chunk(b"IHDR", header) + data[33:]
    assert unpacked(interlaced) is interlaced


def test_the_checksum_is_that_of_zlib():
    data = np.random.default_rng(0).integers(0, 256, 100_003).astype(np.uint8).tobytes()
    assert all(crc32(data[:size]) == zlib.crc32(data[:size]) for size in (0, 1, 15, 16, 4097, 100_003))


def test_without_the_library_files_are_left_as_they_are(monkeypatch):
    data = _png("RGB", (400, 300))
    monkeypatch.setattr("iccld_cli.data.unpacked._isal", None)
    assert unpacked(data) is data and crc32(data) == zlib.crc32(data)
