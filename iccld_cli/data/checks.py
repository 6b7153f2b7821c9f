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
from iccld_cli.errors import IccldError

MAX_PIXELS = 128 * 1024 * 1024
"""Largest image that is decoded; a few kilobytes can announce gigabytes."""

FLAT_STD = 1.0
"""Standard deviation (of 255) below which every channel counts as one colour."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


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
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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
    if not data.startswith(_PNG_MAGIC):
        raise IccldError("is not a PNG")
    view, at = memoryview(data), len(_PNG_MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(view[at + 4 : end]):
            raise IccldError("is damaged (checksum of a PNG chunk differs)")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise IccldError("is truncated")


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
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
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
