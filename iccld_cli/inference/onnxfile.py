"""What an ONNX file says of itself and whether it is whole, read from its bytes alone.

A tensor of an ONNX file may lie in another file, of any name; a runtime then opens that one too. A loop may have no
end, and functions that call each other grow without bound when they are put in place. A model file is data from
anywhere, so all this is refused before a runtime sees it; nothing that `iccld export` writes has it. The format is
protobuf (https://protobuf.dev, encoding), the numbers of the fields are those of onnx.proto
(https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator

_MODEL_NOTES, _NOTE_KEY, _NOTE_VALUE = 14, 1, 2
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_KEY = 2**32
"""Keys of fields have 32 bits; protobuf drops what is above."""

_PARTS = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message -> field -> message, wherever a tensor may be below."""

_REFUSED = {
    ("tensor", _EXTERNAL_DATA): "it keeps tensors in other files",
    ("attribute", 6): "it has graphs within graphs, such as loops",
    ("attribute", 11): "it has graphs within graphs, such as loops",
    ("model", 20): "it has graphs for training",
    ("model", 25): "it has functions of its own",
}
"""(message, field) -> why it is not taken."""


def read_notes(data: bytes) -> dict[str, str]:
    """The metadata of a model.

    Args:
        data: The file's bytes.

    Raises:
        ValueError: It is no ONNX file, keeps tensors in other files, or is more than one graph.
    """
    notes: dict[str, str] = {}
    view = memoryview(data)
    for field, value in _fields(view):
        if field == _MODEL_NOTES and isinstance(value, memoryview):
            entry = {f: bytes(v).decode("utf-8") for f, v in _fields(value) if isinstance(v, memoryview)}
            notes[entry.get(_NOTE_KEY, "")] = entry.get(_NOTE_VALUE, "")
    _check(view, "model")
    return notes


def _check(view: memoryview, kind: str) -> None:
    for field, value in _fields(view):
        if (kind, field) in _REFUSED:
            raise ValueError(_REFUSED[kind, field])
        if kind == "tensor" and field == _DATA_LOCATION and value != 0:
            raise ValueError(_REFUSED["tensor", _EXTERNAL_DATA])
        if isinstance(value, memoryview) and field in _PARTS.get(kind, ()):
            _check(value, _PARTS[kind][field])


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field of a message: a number, or bytes."""
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        if key >= _MAX_KEY:
            raise ValueError("it is no ONNX file")
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, at = _varint(view, at)
            yield field, number
            continue
        if wire == 2:
            size, at = _varint(view, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("it is no ONNX file")
        if field == 0 or at + size > end:
            raise ValueError("it is cut off, or no ONNX file")
        yield field, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise ValueError("it is cut off, or no ONNX file")
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
