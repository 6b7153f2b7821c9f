"""One of several parts of a work, as `--part I/N` names it, and which share of the work that is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError

FOLDER = "parts"
"""Folder below `--out` in which parts wait to be joined."""

MOST = 1_000_000
"""Most parts of one work."""

_NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)")


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """What the part's folder or file is called."""
        return f"{self.number}-of-{self.of}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `I/N`.

        Raises:
            IccldError: It is no such text, or there is no such part.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if found is None:
            raise IccldError(f"--part {text!r} is no part", "write I/N, such as 1/8 for the first of eight")
        part = cls(int(found[1]), int(found[2]))
        if not 1 <= part.number <= part.of <= MOST:
            raise IccldError(f"there is no part {part}", f"parts of N are numbered 1/N to N/N, and N is {MOST} at most")
        return part

    @classmethod
    def named(cls, path: Path) -> Part | None:
        """The part that a folder or file of this name holds, or None."""
        found = _NAME.fullmatch(path.name.partition(".")[0])
        return None if found is None or int(found[1]) > int(found[2]) else cls(int(found[1]), int(found[2]))


def shares(weights: Sequence[int], count: int) -> list[range]:
    """Cut a list into neighbouring shares of about equal weight.

    Args:
        weights: How much work each piece is, at least 1.
        count: Number of shares.

    Returns:
        Positions of the pieces of each share; empty ones only where there are fewer pieces than shares.
    """
    total, pieces = sum(weights), len(weights)
    borders, done, at = [0], 0, 0
    for share in range(1, count + 1):
        goal = total * share
        # The border that lies nearest to this share of the weight.
        while at < pieces and (2 * done + weights[at]) * count <= 2 * goal:
            done += weights[at]
            at += 1
        borders.append(at)
    if pieces >= count:  # then every share gets a piece
        for share in range(1, count):
            borders[share] = max(borders[share], borders[share - 1] + 1)
        for share in range(count - 1, 0, -1):
            borders[share] = min(borders[share], borders[share + 1] - 1)
    borders[count] = pieces
    return [range(a, b) for a, b in itertools.pairwise(borders)]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two parts of a work differ, by what they say of themselves: `steps 1, not 4`."""
    return [
        f"{name} {_brief(one.get(name))}, not {_brief(other.get(name))}"
        for name in (*other, *(key for key in one if key not in other))
        if one.get(name) != other.get(name)
    ]


def _brief(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:24]}..."


def listed(numbers: Sequence[int], most: int = 10) -> str:
    """Numbers of parts in words: `3, 5, 7 and 12 more`."""
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"


def begun(folder: Path, head: str) -> list[Path]:
    """Folders of the parts that have begun, by number: those that hold a file named `head`."""
    try:
        found = [(part, path) for path in folder.iterdir() if (part := Part.named(path)) and (path / head).is_file()]
    except OSError:
        return []
    return [path for _, path in sorted(found, key=lambda pair: (pair[0].number, pair[1].name))]


def what_lacks(missing: Sequence[int], unfinished: Sequence[int], of: int) -> tuple[str, str]:
    """Which parts are lacking, in words, and what to do about it.

    Args:
        missing: Numbers of parts that have not begun, ascending.
        unfinished: Numbers of parts that have not ended, ascending; at least one of both.
        of: How many parts there are to be.
    """
    words = []
    for numbers, how in ((missing, "missing"), (unfinished, "not finished")):
        if numbers:
            name, are = ("part", "is") if len(numbers) == 1 else ("parts", "are")
            words.append(f"{name} {listed(numbers)} of {of} {are} {how}")
    more = " and so on" if len(missing) + len(unfinished) > 1 else ""
    return " and ".join(words), f"run them, with --part {min([*missing, *unfinished])}/{of}{more}"
