"""What results are called, so that no two inputs share a file, on any file system.

An input's name is its path below what was given, without the suffix. Where that name would meet another input's
result (`x.mp4` beside the folder `x`, `a.jpg` beside `a.png`, `A.jpg` beside `a.jpg` where letters' case does not
count) it is lengthened: by the suffix, then by the folders, then by a digest of the path, of an address with its query.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

IMAGE_ENDS = (".png", ".jpg")
VIDEO_ENDS = (".mp4", "", ".partial.mp4", ".partial")
"""What results add to a name. A video's labels are a folder of its name; an interrupt leaves `.partial`."""

MOST_BYTES = 255 - len("_labelIds.png")
"""Longest last part of a name; no usual file system takes more than 255 bytes."""


def label_ids_name(name: PurePath) -> PurePath:
    """The name under which the Cityscapes benchmark wants a frame's labels, without the suffix.

    `leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png` is answered by `berlin_000000_000019_labelIds.png`.
    """
    return name.with_name(name.name.removesuffix("_leftImg8bit") + "_labelIds")


@dataclass(frozen=True)
class Candidate:
    """An input before its name is settled.

    Attributes:
        path: The file.
        name: Its path below what was given, without the suffix.
        is_video: Whether it is a video.
        identity: What tells inputs of one path apart, such as a digest of an address; empty for files.
    """

    path: Path
    name: PurePath
    is_video: bool
    identity: str = ""


def distinct_names(candidates: Sequence[Candidate]) -> list[PurePath]:
    """Settle the names.

    Args:
        candidates: All inputs of a run.

    Returns:
        A name for each, in their order. No file or folder of one input's results is one of another's, or lies in it.
    """
    real = [candidate.path.resolve() for candidate in candidates]
    base = _common_folder(real)
    forms = [_forms(candidate, path, base) for candidate, path in zip(candidates, real, strict=True)]
    level = [0 if _fits(form[0]) else 3 for form in forms]
    while True:
        names = [form[step] for form, step in zip(forms, level, strict=True)]
        longer = {i for i in _meeting(candidates, names) if level[i] < 3}
        if not longer:
            return names
        for i in longer:
            level[i] += 1
            if not _fits(forms[i][level[i]]):
                level[i] = 3


def _common_folder(files: Sequence[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([path.parent for path in files]))
    except ValueError:  # none at all, or on several drives
        return None


def _forms(candidate: Candidate, real: Path, base: Path | None) -> tuple[PurePath, ...]:
    """The names to try, from short to certain."""
    below = PurePath(real.name if base is None else os.path.relpath(real, base))
    whole = os.fsencode(real if base is None else below) + candidate.identity.encode()
    mark = hashlib.sha256(whole).hexdigest()[:10]
    stem = os.fsencode(below.name)[: MOST_BYTES - len(mark) - 1]
    return (
        candidate.name,
        candidate.name.with_name(candidate.path.name),
        below,
        below.with_name(f"{_whole_letters(stem)}~{mark}"),
    )


def _fits(name: PurePath) -> bool:
    return len(os.fsencode(name.name)) <= MOST_BYTES


def _whole_letters(cut: bytes) -> str:
    """Bytes of a cut name without the pieces of a letter at its end."""
    while cut and cut[-1] & 0xC0 == 0x80:
        cut = cut[:-1]
    return os.fsdecode(cut[:-1] if cut and cut[-1] >= 0xC0 else cut)


def _meeting(candidates: Sequence[Candidate], names: Sequence[PurePath]) -> set[int]:
    """Numbers of the inputs that have a result in common with another, or whose file is another's folder."""
    owners: dict[str, list[int]] = {}
    for number, (candidate, name) in enumerate(zip(candidates, names, strict=True)):
        for result in _results(candidate, name):
            owners.setdefault(result, []).append(number)
    found = {number for group in owners.values() if len(set(group)) > 1 for number in group}
    for number, name in enumerate(names):
        for folder in _folded(name).parents:
            found.update(owner for owner in owners.get(str(folder), ()) if owner != number)
    return found


def _results(candidate: Candidate, name: PurePath) -> Iterator[str]:
    folded = str(_folded(name))
    yield from (folded + end for end in (VIDEO_ENDS if candidate.is_video else IMAGE_ENDS))
    if not candidate.is_video:  # in a folder of their own, where `x` and `x_leftImg8bit` would meet
        yield f"labelIds\0{_folded(label_ids_name(name))}"


def _folded(name: PurePath) -> PurePath:
    """A name as the least discerning file system sees it: without case, with composed letters."""
    return PurePath(unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold()))
