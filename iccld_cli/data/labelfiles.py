"""Label files: from the bytes of a PNG to raw ids, and from raw ids to trainIds.

The traps are in the decoders. OpenCV turns a palette PNG into colours, so that the index (which is the id) is
gone; Pillow reads a 16-bit RGB PNG as 8 bit and keeps the high byte, so that every SYNTHIA id becomes 0;
both stretch grey PNGs of 1, 2 or 4 bits to the full range.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image

from iccld_cli.data.checks import check_header, check_png
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE, LabelSpace

PNG_GREY, PNG_PALETTE = 0, 3
_UNKNOWN = 254
_STRETCH = {1: 255, 2: 85, 4: 17, 8: 1}


def decode_ids(data: bytes, channel: int = 0) -> np.ndarray:
    """Decode a label PNG to the numbers it holds.

    Args:
        data: The file's content.
        channel: Which channel holds the ids where there are several, in the order R, G, B.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        IccldError: Not a PNG, damaged, or too large to decode.
    """
    return decode_channels(data)[..., channel]


def decode_channels(data: bytes) -> np.ndarray:
    """Decode a label PNG, all channels.

    Returns:
        (H, W, C), uint8 or uint16, channels in the order R, G, B; palette files give their indices.

    Raises:
        IccldError: Not a PNG, damaged, or too large to decode.
    """
    check_header(data)
    check_png(data)
    depth, kind = struct.unpack_from("BB", data, 24)
    if depth == 16:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if raw is None:
            raise IccldError("cannot be decoded")
        return raw[..., None] if raw.ndim == 2 else raw[..., [2, 1, 0]]
    try:
        raw = np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError) as error:
        raise IccldError(f"cannot be decoded ({error})") from None
    if raw.dtype == bool:
        raw = raw.astype(np.uint8)
    elif kind == PNG_GREY and depth < 8:
        raw = raw // _STRETCH[depth]
    return raw[..., None] if raw.ndim == 2 else raw


def refuse_colors(raw: np.ndarray) -> None:
    """Refuse a picture of the classes' colours where ids are wanted.

    Args:
        raw: (H, W, C), channels in the order R, G, B.

    Raises:
        IccldError: There are three channels or more, and they differ.
    """
    red, *others = (raw[..., channel] for channel in range(min(3, raw.shape[2])))
    if len(others) == 2 and not all(np.array_equal(red, other) for other in others):
        raise IccldError("holds colours, not ids; the set's label files with ids are needed")


def lookup_table(ids: Mapping[int, str | None], space: LabelSpace) -> np.ndarray:
    """A table from raw id to trainId.

    Args:
        ids: Raw id in [0, 255] -> class name, None = ignore.
        space: Label space of the names.

    Returns:
        uint8 (256,); 254 marks ids that are not in the map.

    Raises:
        IccldError: A name is not in the label space.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    for raw, name in ids.items():
        table[raw] = IGNORE if name is None else space.id_of(name)
    return table


def map_ids(raw: np.ndarray, ids: Mapping[int, str | None], space: LabelSpace) -> np.ndarray:
    """Map raw ids to trainIds.

    Args:
        raw: (H, W), any unsigned integer type.
        ids: Raw id in [0, 255] -> class name, None = ignore.
        space: Label space of the names.

    Returns:
        uint8 (H, W) of trainIds, 255 = ignore.

    Raises:
        IccldError: An id occurs that the map lacks.
    """
    if raw.dtype != np.uint8:
        if raw.max(initial=0) > 255:
            raise IccldError(f"holds the id {int(raw.max())}, which this data set does not have")
        raw = raw.astype(np.uint8)
    label = cv2.LUT(np.ascontiguousarray(raw), lookup_table(ids, space))
    if (label == _UNKNOWN).any():  # several times as fast as to count the ids of every file
        present = np.flatnonzero(histogram(raw))
        unknown = [int(value) for value in present if int(value) not in ids]
        if unknown:
            shown = ", ".join(map(str, unknown[:8]))
            raise IccldError(f"holds ids that this data set does not have: {shown}")
    return label


def histogram(values: np.ndarray) -> np.ndarray:
    """Count the values of an uint8 array.

    Returns:
        int64 (256,).
    """
    # calcHist counts in float32, exact up to 2^24 pixels; larger images are counted in strips.
    rows = max(1, (1 << 24) // max(1, values.shape[1]))
    values = np.ascontiguousarray(values)
    total = np.zeros(256, np.int64)
    for top in range(0, values.shape[0], rows):
        counts = cv2.calcHist([values[top : top + rows]], [0], None, [256], [0, 256])
        total += counts.ravel().astype(np.int64)
    return total


def map_colors(
    raw: np.ndarray, colors: Mapping[tuple[int, int, int], str | None], space: LabelSpace, strict: bool = True
) -> np.ndarray:
    """Map colours to trainIds.

    Args:
        raw: uint8 (H, W, 3) or (H, W, 4), RGB; transparency is not looked at.
        colors: (R, G, B) -> class name, None = ignore.
        space: Label space of the names.
        strict: Refuse colours that the map lacks, instead of ignoring them.

    Returns:
        uint8 (H, W) of trainIds, 255 = ignore.

    Raises:
        IccldError: Not an RGB file, or a colour occurs that the map lacks.
    """
    if raw.ndim != 3 or raw.shape[2] < 3 or raw.dtype != np.uint8:
        raise IccldError("is not an 8-bit RGB file, so it holds no colours")
    packed = (raw[..., 0].astype(np.int32) << 16) | (raw[..., 1].astype(np.int32) << 8) | raw[..., 2]
    label = _color_table(tuple(colors.items()), space)[packed]
    if (label == _UNKNOWN).any():
        if strict:
            first = int(packed[label == _UNKNOWN][0])
            shown = f"({first >> 16}, {first >> 8 & 255}, {first & 255})"
            raise IccldError(f"holds colours that this data set does not have, such as {shown}")
        label[label == _UNKNOWN] = IGNORE
    return label


@functools.lru_cache(maxsize=2)
def _color_table(colors: tuple[tuple[tuple[int, int, int], str | None], ...], space: LabelSpace) -> np.ndarray:
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for (red, green, blue), name in colors:
        table[red << 16 | green << 8 | blue] = IGNORE if name is None else space.id_of(name)
    return table
