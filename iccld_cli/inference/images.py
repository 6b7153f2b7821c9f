"""Images from files."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from iccld_cli.data.checks import PNG_MAGIC, check_png, check_png_rows
from iccld_cli.errors import IccldError
from iccld_cli.reading import kind_problem

MAX_PIXELS = 100_000_000
"""A file may hold a few kilobytes and claim gigabytes; larger images are refused before decoding."""


_ORIENTATION = 274  # EXIF; 5 to 8 are turned by a quarter

_FLOATS = "its pixels are floating-point numbers of no known range", "save it with 8 bits a channel"


def read_image(path: Path | str) -> np.ndarray:
    """Decode an image, upright (EXIF rotation applied).

    Pillow rather than OpenCV, because it refuses truncated files, where OpenCV returns a half-grey image. It reads past
    damaged chunks of a PNG, whose checksums are therefore compared first.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        IccldError: The file is missing, not an image, truncated, or larger than `MAX_PIXELS`.
    """
    if problem := kind_problem(path):
        raise IccldError(f"{path} {problem}", "give an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and of odd files, in the middle of a progress bar
            with Image.open(_checked(path)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise IccldError(
                        f"{path} claims {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million",
                        "scale it down first",
                    )
                if image.mode == "F":
                    raise IccldError(f"cannot read image {path}, {_FLOATS[0]}", _FLOATS[1])
                return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise IccldError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise IccldError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise IccldError(f"{path} is too large ({error})", "scale it down first") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise IccldError(f"cannot read image {path} ({error})", "the file is damaged or cut off") from None


def image_shape(path: Path | str) -> tuple[int, int, int] | None:
    """Shape (H, W, 3) that `read_image` would give, from the head of the file; None where it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    return (width, height, 3) if turned else (height, width, 3)


def _checked(path: Path | str) -> Path | str | io.BytesIO:
    """What to decode: of a PNG its content, after a look at its chunks."""
    with open(path, "rb") as file:
        if file.read(len(PNG_MAGIC)) != PNG_MAGIC:
            return path
        if os.fstat(file.fileno()).st_size > 8 * MAX_PIXELS:
            raise IccldError(f"{path} is larger than any image that is read", "scale it down first")
        file.seek(0)
        data = file.read()
    try:
        check_png(data)
        width, height = struct.unpack_from(">II", data, len(PNG_MAGIC) + 8)
        if width * height <= MAX_PIXELS:  # larger ones are refused anyway
            check_png_rows(data)
    except (IccldError, struct.error) as error:
        raise ValueError(str(error)) from None
    return io.BytesIO(data)


def image_of(pixels: np.ndarray | Image.Image) -> np.ndarray:
    """An image that is in memory already.

    Args:
        pixels: uint8 (H, W, 3), RGB, or a PIL image of any mode.

    Returns:
        uint8 (H, W, 3), RGB; of an array the array itself.

    Raises:
        IccldError: It is neither, or of another shape or type.
    """
    if isinstance(pixels, Image.Image):
        return _rgb(ImageOps.exif_transpose(pixels))
    if not isinstance(pixels, np.ndarray):
        raise IccldError(f"{type(pixels).__name__} is no image", "give a uint8 array (H, W, 3), a path or a PIL image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise IccldError(
            f"an array of {pixels.dtype} and shape {pixels.shape} is no image", "give uint8 (H, W, 3), RGB, 0 to 255"
        )
    return pixels


def _rgb(upright: Image.Image) -> np.ndarray:
    if upright.mode == "F":  # Pillow would clip 0..1 to black
        raise IccldError(*_FLOATS)
    if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        grey = np.clip(np.asarray(upright, np.int32) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(upright.convert("RGB"))
