"""What a safetensors file holds, read from its header alone.

Everything is checked before a byte of a tensor is touched: the library that reads the tensors allocates what the header
asks for. The format: 8 bytes with the header's length, the header (JSON, name -> type, shape, offsets), the tensors
without gaps (https://github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.plainjson import parse_json

MAX_HEADER = 8 * 2**20
"""Longest header taken, in bytes; that of a model with 1,000 tensors has 0.1 MB."""

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Types that weights come in."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file.

    Attributes:
        dtype: Name of its type in the format, such as `F32`.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file's header.

    Attributes:
        metadata: Its texts by name.
        tensors: Its tensors by name.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]


def read_tensor_file(path: Path | str) -> TensorFile:
    """Read and check the header of a safetensors file; the tensors stay unread.

    Raises:
        IccldError: The file cannot be read, or is no whole safetensors file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError("it is cut off, or of another format")
            if length > MAX_HEADER:
                raise ValueError(f"its header is longer than {MAX_HEADER} bytes")
            raw = file.read(length)
        return _parse(raw, size - 8 - length)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError as error:
        reason = str(error)
    raise IccldError(f"{path} is not a readable safetensors file ({reason[:200]})", "copy or train it again")


def _parse(raw: bytes, data_bytes: int) -> TensorFile:
    try:
        tree = parse_json(raw, limit=MAX_HEADER)
    except ValueError as error:
        raise ValueError(f"its header: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("its header is no object")
    metadata = tree.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    tensors, spans = {}, []
    for name, row in tree.items():
        tensors[name], span = _tensor(name, row)
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = stop
    if end != data_bytes:
        raise ValueError(f"it has {data_bytes} bytes of tensors, its header says {end}")
    return TensorFile(metadata, tensors)


def _tensor(name: str, row: Any) -> tuple[TensorInfo, tuple[int, int]]:
    where = f"its header, tensor {name[:60]!r}"
    if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
        raise ValueError(f"{where}: needs dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{where}: unknown type {str(dtype)[:20]!r}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{where}: shape and offsets must be lists of whole numbers")
    if len(shape) > 16 or len(offsets) != 2:
        raise ValueError(f"{where}: shape or offsets of a wrong length")
    info = TensorInfo(dtype, tuple(shape))
    if offsets[1] - offsets[0] != info.elements * ITEM_BYTES[dtype]:
        raise ValueError(f"{where}: shape and offsets do not agree")
    return info, (offsets[0], offsets[1])
