"""JSON from untrusted files: bounded, finite, each key once.

`json.loads` alone accepts NaN and Infinity, takes the last of two equal keys, follows nesting until the interpreter's
stack ends, and hands out half surrogate pairs, which no terminal can print.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_BYTES = 8 * 2**20
"""Longest text taken. The largest header seen holds the 21,000 class names of an ImageNet-22k encoder, 2.5 MB."""

MAX_DEPTH = 64
MAX_CONTAINERS = 200_000  # each costs some 60 bytes however short its text is


class NestedTooDeep(ValueError):
    """Brackets within brackets, more than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"nested more than {MAX_DEPTH} deep")


def parse_json(
    raw: bytes | str, *, limit: int = MAX_BYTES, containers: int = MAX_CONTAINERS, finite: bool = True
) -> Any:
    """Parse a JSON text.

    Args:
        raw: The text; bytes are UTF-8.
        limit: Most bytes (or characters) it may have.
        containers: Most lists and objects it may have.
        finite: Whether NaN and infinite numbers are refused.

    Raises:
        ValueError: It is no such text; the message is part of a sentence, such as `nested more than 64 deep`.
    """
    if len(raw) > limit:
        raise ValueError(f"longer than {limit} bytes")
    if isinstance(raw, bytes):
        try:
            raw = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None
    if raw.count("[") + raw.count("{") > containers:
        raise ValueError(f"more than {containers} lists and objects")
    numbers: dict[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(raw, object_pairs_hook=_unique, **numbers)
    except RecursionError:
        raise NestedTooDeep from None
    check_depth(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text[:20]} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:60]!r} occurs twice")
    return found


def check_depth(value: Any) -> None:
    """Bound the depth of lists and objects, and refuse strings that are no text.

    Level by level, because a recursive walk is what deep nesting breaks.

    Raises:
        ValueError: A string holds half a surrogate pair; or `NestedTooDeep`.
    """
    level, depth = [value], 0
    while level:
        if depth >= MAX_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise NestedTooDeep
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                try:
                    item.encode("utf-8")
                except UnicodeEncodeError:
                    raise ValueError("a string in it is no text") from None
        level, depth = below, depth + 1
