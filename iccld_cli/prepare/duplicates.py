"""Frames of different splits that show the same picture: they make a validation score too good."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MAX_DISTANCE = 3
"""Bits of the perceptual hash in which two frames may differ and still count as one picture."""

_BANDS = 4  # with one band more than bits that may differ, two such hashes agree in at least one band
_LARGEST_GROUP = 64


def find(frames: Iterable[tuple[str, int]], shown: int = 20) -> tuple[int, list[tuple[int, int]]]:
    """Find pairs of frames in different splits with nearly equal hashes.

    Memory is 10 bytes a frame. In groups of more than 64 frames with the same band, which only endless repetition
    makes, each frame is compared with its 64 neighbours instead of all.

    Args:
        frames: Split and 64-bit perceptual hash of each frame, in the order of the index.
        shown: How many pairs to return.

    Returns:
        How many frames have a twin in another split, and positions of the first pairs, sorted.
    """
    names: dict[str, int] = {}
    rows = np.fromiter(
        ((names.setdefault(split, len(names)), value) for split, value in frames),
        np.dtype([("split", np.uint16), ("hash", np.uint64)]),
    )
    if len(names) < 2:
        return 0, []
    pairs: set[tuple[int, int]] = set()
    twins: set[int] = set()
    for band in range(_BANDS):
        part = (rows["hash"] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((rows["hash"], part))
        for step in range(1, min(_LARGEST_GROUP, len(order) - 1) + 1):
            left, right = order[:-step], order[step:]
            near = part[left] == part[right]
            if not near.any():
                break
            left, right = left[near], right[near]
            near = rows["split"][left] != rows["split"][right]
            left, right = left[near], right[near]
            near = _bits(rows["hash"][left] ^ rows["hash"][right]) <= MAX_DISTANCE
            for one, other in zip(left[near].tolist(), right[near].tolist(), strict=True):
                twins |= {one, other}
                pairs.add((min(one, other), max(one, other)))
        if len(pairs) > 100_000:
            break
    return len(twins), sorted(pairs)[:shown]


def _bits(values: np.ndarray) -> np.ndarray:
    return np.bitwise_count(values)
