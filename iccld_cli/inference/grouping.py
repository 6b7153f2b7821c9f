"""Frames of a set, grouped by what their index or their names say: drives, conditions, cameras."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from iccld_cli.data.prepared import INDEX_NAME, Frame, PreparedDataset
from iccld_cli.errors import IccldError

NAMED = {
    "drive": r"^(?:.*/)?([^/]*?)[-_ .]*[A-Za-z]?\d+(?:_leftImg8bit|[^/\d]*)$",
    "condition": r"(?i)(?<![a-z])(fog(?:gy)?|rain(?:y)?|snow(?:y)?|night|dusk|dawn|day|clear|cloud(?:y)?|sunny|"
    r"overcast)(?![a-z])",
    "camera": r"(?i)(?<![a-z])(cam(?:era)?[-_]?\d*(?:[-_](?:front|rear|back|left|right))*|front|rear|left|right)"
    r"(?![a-z])",
}
"""Patterns for what data sets commonly have in their names. A drive is the name without its last number."""

OTHER = "(other)"
"""The group of the frames that a pattern does not match."""

MOST_GROUPS = 200


def group_frames(dataset: PreparedDataset, frames: Sequence[Frame], field: str) -> dict[str, list[int]]:
    """Group frames.

    Args:
        dataset: Where they come from.
        frames: The frames.
        field: A key of the lines of `index.jsonl`, such as one that the user added; `folder` (of the image) or `size`;
            `drive`, `condition` or `camera`, read from the names by `NAMED`; or a regular expression that is searched
            for in the image's path below its split, whose groups (else the whole match) name the frame's group.

    Returns:
        Name -> positions in `frames`, by name; what does not match is `OTHER`.

    Raises:
        IccldError: No frame has such a field, or there are more groups than a table can show.
    """
    names = _from_index(dataset, frames, field) or _from_names(frames, field)
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(OTHER if name is None else name, []).append(position)
    if len(groups) > MOST_GROUPS:
        raise IccldError(f"--by {field!r} makes {len(groups)} groups", f"choose one that makes at most {MOST_GROUPS}")
    return {name: groups[name] for name in sorted(groups, key=lambda name: (name == OTHER, name))}


def _from_index(dataset: PreparedDataset, frames: Sequence[Frame], field: str) -> list[str | None]:
    """Values of a key of the index; empty where no line has it."""
    if field == "size":
        return [f"{frame.width}x{frame.height}" for frame in frames]
    if field == "folder":
        return [str(PurePosixPath(_below(frame)).parent) for frame in frames]
    if field in Frame.__dataclass_fields__ or not re.fullmatch(r"\w+", field):
        return []
    values: dict[str, str] = {}
    with open(dataset.root / INDEX_NAME, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            value = row.get(field)
            if isinstance(value, str | int | float | bool):
                values[row["image"]] = str(value)
    return [values.get(frame.image) for frame in frames] if values else []


def _from_names(frames: Sequence[Frame], field: str) -> list[str | None]:
    try:
        pattern = re.compile(NAMED.get(field, field))
    except (re.error, RecursionError, OverflowError) as error:
        raise IccldError(f"--by {field!r} is no regular expression ({error})", _hint()) from None
    found = [pattern.search(str(PurePosixPath(_below(frame)).with_suffix(""))) for frame in frames]
    if not any(found):
        example = _below(frames[0]) if frames else ""
        what = f"no name of an image says its {field}" if field in NAMED else f"--by {field!r} matches no image"
        raise IccldError(f"{what} (the first is {example!r}), and no line of the index has that key", _hint())
    return [None if match is None else _name(match) for match in found]


def _name(match: re.Match[str]) -> str | None:
    parts = [part for part in match.groups() if part is not None]
    return (" ".join(parts) if match.re.groups else match[0]) or None  # a name that is a number alone names no drive


def _below(frame: Frame) -> str:
    """Path of an image below the folder of its split."""
    return frame.image.removeprefix(f"images/{frame.split}/")


def _hint() -> str:
    return f"give {', '.join(NAMED)}, folder, size, a key of index.jsonl, or a pattern such as '^([^_]+)_'"
