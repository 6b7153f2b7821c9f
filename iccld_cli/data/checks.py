"""Checks of single files: size in the header before decoding, whole content, real content."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from iccld_cli.data.jpeg import damage_reports
from iccld_cli.data.unpacked import crc32, unpacked
from iccld_cli.errors import IccldError

MAX_PIXELS = 128 * 1024 * 1024
"""Largest image that is decoded; a few kilobytes can announce gigabytes."""

FLAT_STD = 1.0
"""Standard deviation (of 255) below which every channel counts as one colour."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x y dx dy
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_header(data: bytes) -> tuple[str, int, int, int]:
    """Read format and size from the header, without decoding.

    Returns:
        Format as Pillow names it, width, height, EXIF orientation (1 = upright).

    Raises:
        IccldError: Empty, no image, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise IccldError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and of odd files, in the middle of a progress bar
            image = Image.open(io.BytesIO(data))
        orientation = image.getexif().get(0x0112, 1) if image.format == "JPEG" else 1
    except Image.DecompressionBombError:
        raise IccldError("has a size in its header that is too large to decode") from None
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error):
        raise IccldError("is not an image or its header is damaged") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise IccldError(f"has {width}x{height} pixels by its header, too large to decode")
    return image.format or "", width, height, orientation


def check_png(data: bytes) -> None:
    """Walk a PNG's chunks and compare their checksums, because decoders pass over damage.

    Raises:
        IccldError: Not a PNG, truncated, or a checksum differs.
    """
    if not data.startswith(PNG_MAGIC):
        raise IccldError("is not a PNG")
    view, at = memoryview(data), len(PNG_MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if struct.unpack_from(">I", data, end)[0] != crc32(view[at + 4 : end]):
            raise IccldError("is damaged (checksum of a PNG chunk differs)")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise IccldError("is truncated")


def check_png_rows(data: bytes) -> None:
    """Unpack a PNG whose chunks are sound and count what comes out, because Pillow takes missing rows for black ones.

    Raises:
        IccldError: Its pixels cannot be unpacked, or are fewer than it announces.
    """
    unpack, found, at = zlib.decompressobj(), 0, len(PNG_MAGIC)
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, at + 8)
    colored = color != 3
    bits = depth * {2: 3, 4: 2, 6: 4}.get(color, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    try:
        while data[at + 4 : at + 8] != b"IEND" and found < expected:
            (length,) = struct.unpack_from(">I", data, at)
            colored |= data[at + 4 : at + 8] == b"PLTE"
            if data[at + 4 : at + 8] == b"IDAT":
                if not colored:
                    raise IccldError("has a palette of colours by its header, and none in it")
                packed = data[at + 8 : at + 8 + length]
                while packed and found < expected and not unpack.eof:
                    found += len(unpack.decompress(packed, 1 << 20))
                    packed = unpack.unconsumed_tail
            at += 12 + length
    except zlib.error:
        raise IccldError("is damaged (its pixels cannot be unpacked)") from None
    while found < expected and not unpack.eof and (more := unpack.decompress(b"", 1 << 20)):
        found += len(more)
    if found < expected:
        raise IccldError("holds fewer pixels than it announces")


def check_jpeg_end(data: bytes) -> None:
    """Look for a JPEG's end marker, because decoders fill a truncated image with grey.

    Raises:
        IccldError: The marker is missing.
    """
    if b"\xff\xd9" not in data[-4096:]:
        raise IccldError("is truncated")


@dataclass(frozen=True)
class Photograph:
    """A decoded image.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, upright.
        format: As Pillow names it (`JPEG`, `PNG`, ...).
        keep: Whether the file may be kept as it is, that is, whether every reader will see these pixels.
        doubt: What the decoder remarked though it may be harmless; empty where it had nothing to say.
    """

    pixels: np.ndarray
    format: str
    keep: bool
    doubt: str = ""


def decode_image(data: bytes) -> Photograph:
    """Check and decode a photograph.

    Args:
        data: The file's content.

    Raises:
        IccldError: Damaged, truncated, or too large to decode.
    """
    form, _, _, orientation = check_header(data)
    if form == "PNG":
        check_png(data)
    elif form == "JPEG":
        check_jpeg_end(data)
    image = None
    with damage_reports(form == "JPEG") as reports, contextlib.suppress(cv2.error):
        plain = unpacked(data) if form == "PNG" else data
        image = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise IccldError("cannot be decoded")
    for report in reports:
        # A flipped bit leads to surplus bytes, and so do cameras that pad their files: a doubt, no verdict.
        if "extraneous bytes" not in report:
            raise IccldError(f"is damaged ({report})")
    return Photograph(image, form, form in ("JPEG", "PNG") and orientation == 1, "; ".join(reports))


def check_content(mean: np.ndarray, std: np.ndarray) -> None:
    """Refuse an image of one colour.

    Args:
        mean: Mean of each channel, [0, 255].
        std: Standard deviation of each channel.

    Raises:
        IccldError: All channels are flat.
    """
    if float(std.max()) < FLAT_STD:
        red, green, blue = (round(float(value)) for value in mean)
        raise IccldError(f"is of a single colour (R {red}, G {green}, B {blue})")


def perceptual_hash(image: np.ndarray) -> int:
    """A 64-bit hash that stays nearly the same under re-encoding and scaling (difference hash).

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        An integer in [0, 2^64).
    """
    # Averaging every pixel of a large image costs as much as decoding a fifth of it; 256 columns are plenty.
    step = max(1, min(image.shape[0] // 128, image.shape[1] // 256))
    small = cv2.resize(np.ascontiguousarray(image[::step, ::step]), (9, 8), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
