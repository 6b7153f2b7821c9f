"""What lies where a set is to go, finished or not, and in which options it differs from what a run would make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli import __version__
from iccld_cli.data.prepared import DatasetInfo, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import write_text
from iccld_cli.names import json_safe
from iccld_cli.plainjson import parse_json
from iccld_cli.prepare import growth
from iccld_cli.prepare.journal import DONE, Journal

if TYPE_CHECKING:
    from iccld_cli.prepare.prepare import PrepareOptions

JOURNAL_NAME = "journal.sqlite"

_MARKER_NAME = "run.json"
"""What unfinished work says of itself: the program's version, and `source` of the `dataset.json` that it will write."""


@dataclass(frozen=True)
class OtherWork:
    """Unfinished work that a run cannot go on with.

    Attributes:
        folder: Where it lies.
        frames: How many frames are done.
        differs: In what it differs from the run, see `differences`.
        other_version: Whether only the program's version differs.
    """

    folder: Path
    frames: int
    differs: list[str]
    other_version: bool

    def __str__(self) -> str:
        """In words."""
        what = f"{self.frames} frame{'' if self.frames == 1 else 's'} of an unfinished set"
        return f"{self.folder} holds {what} with other options ({'; '.join(self.differs)})"

    def refusal(self) -> IccldError:
        """The error that keeps it."""
        return IccldError(
            str(self),
            "give the same ones to finish it, another --out, or --force (or remove that folder) to give it up",
        )


def other_work(work: Path, source: object, origin: Mapping[str, Any]) -> OtherWork | None:
    """What was left in the folder that a run works in; None where there is nothing, or the run goes on with it.

    Args:
        work: The folder.
        source: What the run prepares.
        origin: `source` of the `dataset.json` that it would write; the digest may be lacking.

    Raises:
        sqlite3.Error: The list of frames is damaged.
    """
    if not work.exists():
        return None
    now, by_version = json.loads(json.dumps(origin)), []
    try:
        version, before = parse_json((work / _MARKER_NAME).read_bytes())
        differs = differences(before, now, growth.growing_option(source, before))
        if version != __version__:
            by_version = [f"version was {version}, now {__version__}"]
    except (OSError, ValueError, TypeError, AttributeError):
        differs = [f"its {_MARKER_NAME} is damaged"]
    if not differs and not by_version:
        return None
    frames = 0
    if (work / JOURNAL_NAME).is_file():
        journal = Journal(work / JOURNAL_NAME)
        try:
            frames = journal.count(DONE)
        finally:
            journal.close()
    return OtherWork(work, frames, by_version + differs, not differs)


def mark(work: Path, origin: Mapping[str, Any]) -> None:
    """Note in the folder that a run works in what it makes there."""
    write_text(work / _MARKER_NAME, json_safe(json.dumps([__version__, origin], indent=2, ensure_ascii=False)))


def same_set(final: Path, source: object, origin: Mapping[str, Any], options: PrepareOptions) -> bool:
    """Whether the finished data set is what this run would make.

    Args:
        final: Its folder.
        source: What the run prepares.
        origin: `source` of the `dataset.json` that it would write.
        options: How it prepares.

    Raises:
        IccldError: It is not, and `force` is not given.
    """
    info = PreparedDataset(final).info
    differs = differences_of_set(info, source, origin)
    if not differs and info.source.get("digest") != origin["digest"]:
        differs = ["the source's files have changed"]
    if not differs:
        return True
    if not options.force:
        raise other_set(final, differs)
    return False


def other_set(final: Path, differs: list[str]) -> IccldError:
    """The error that keeps a finished set."""
    return IccldError(
        f"{final} was prepared with other options ({'; '.join(differs)})",
        "--force replaces it, --out puts it elsewhere",
    )


def cannot_grow(final: Path) -> IccldError:
    """The error that keeps a finished set from parts with more frames."""
    return IccldError(f"{final} exists and would grow, which parts cannot do", "leave --part out")


def differences_of_set(info: DatasetInfo, source: object, origin: Mapping[str, Any]) -> list[str]:
    """In which options a finished data set differs from a run, without more frames where they continue the set.

    Args:
        info: The finished set.
        source: What the run prepares.
        origin: `source` of the `dataset.json` that it would write.
    """
    return differences(info.source, origin, None if info.skipped else growth.growing_option(source, info.source))


def differences(old: Mapping[str, Any], origin: Mapping[str, Any], grows: str | None = None) -> list[str]:
    """In which options a data set differs from a run, each named once.

    Args:
        old: `source` of its `dataset.json`.
        origin: The same of the run.
        grows: An option that is no difference when it is raised.
    """
    differs = [
        f"{label} was {old.get(key)!r}, now {origin.get(key)!r}"
        for key, label in (("adapter", "data set"), ("path", "path"))
        if old.get(key) != origin.get(key)
    ]
    was, wanted = old.get("options") or {}, origin.get("options") or {}
    found = {
        key: f"{key} was {was.get(key)!r}, now {wanted.get(key)!r}"
        for key in sorted(was.keys() | wanted.keys())
        if was.get(key) != wanted.get(key) and not (key == grows and growth.is_raised(was.get(key), wanted.get(key)))
    }
    before, now = old.get("prepared_with", {}), origin["prepared_with"]
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key):  # the town records its size among its options, too
            found.setdefault(key, f"{key} was {before.get(key)}, now {now.get(key)}")
    return differs + list(found.values())
