"""An even choice out of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], most: int | None) -> list[T]:
    """At most so many items, evenly spread over all and in their order; all for None or 0."""
    if not most or most >= len(items):
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]
