"""Results of predictions in object storage.

    OUT/parts/inputs.jsonl, I-of-N/...    as on a disk; a part's `part.json` is written when all else of it is there
    OUT/parts/publishing                  results are getting their names, or all have them
    OUT/<kind>/<name>                     results; what is about all of them comes last, and then the parts go away

As long as OUT/parts is there, OUT is not complete. Joining makes the tree of results on a disk, where files that need
no joining are stand-ins of the right size, without content: the store itself copies those objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from iccld_cli import storage
from iccld_cli.inference.collected import DATASET, FRAMES_NAME
from iccld_cli.inference.parts import HEAD, INPUTS, LINES, PROBLEMS, VIDEOS
from iccld_cli.parts import FOLDER, Part
from iccld_cli.plainjson import parse_json
from iccld_cli.storage import Entry

PUBLISHING = "publishing"
_ALL = b"joined"
"""What the mark holds when all results have their names."""

_ABOUT_ALL = (FRAMES_NAME, "to_label.jsonl")
_FACTS = (HEAD, PROBLEMS)


class Target:
    """An output folder in object storage.

    Attributes:
        url: Its address.
        found: What lies there: names -> objects.
    """

    def __init__(self, url: str) -> None:
        """List it.

        Raises:
            IccldError: See `storage.listing`.
        """
        self.url = url
        self.look()

    def look(self) -> None:
        """List it again."""
        self.found = storage.listing(self.url)

    @property
    def results(self) -> dict[str, Entry]:
        """What lies there besides parts."""
        return {name: one for name, one in self.found.items() if not name.startswith(f"{FOLDER}/")}

    @property
    def parts(self) -> dict[str, Entry]:
        """What lies there of parts."""
        return {name: one for name, one in self.found.items() if name.startswith(f"{FOLDER}/")}

    @property
    def publishing(self) -> bool:
        """Whether results were getting their names when an earlier run ended."""
        return f"{FOLDER}/{PUBLISHING}" in self.found

    def joined(self) -> bool:
        """Whether all had their names when an earlier run ended, which was removing parts."""
        return self.publishing and storage.read(storage.join(self.url, FOLDER, PUBLISHING)) == _ALL

    def begun(self) -> int | None:
        """Of how many parts an unfinished work is; None where there is none."""
        numbers = [part.of for name in self.parts if (part := Part.named(Path(PurePosixPath(name).parts[1])))]
        return numbers[0] if numbers else None

    def inputs_digest(self) -> str | None:
        """What the inputs of the unfinished work were; None where there is none, or its list is damaged."""
        if f"{FOLDER}/{INPUTS}" not in self.found:
            return None
        first = storage.read(storage.join(self.url, FOLDER, INPUTS), most=4096).split(b"\n")[0]
        try:
            return str(parse_json(first)["inputs"])
        except (ValueError, KeyError, TypeError):
            return None

    def remove_parts(self) -> None:
        """Remove all of the parts, the mark that results are published last."""
        mark = f"{FOLDER}/{PUBLISHING}"
        storage.write(storage.join(self.url, mark), _ALL)
        self.look()
        storage.remove_all([storage.join(self.url, name) for name in self.parts if name != mark])
        storage.remove_all([storage.join(self.url, mark)])


def stand_in(path: Path, size: int) -> None:
    """A file of a size, without content that takes room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)


def mirror(results: Mapping[str, Entry], out: Path, url: str) -> None:
    """Put stand-ins for results that exist where a command looks for them; what it reads is fetched.

    Args:
        results: Names -> objects.
        out: The folder that stands for the target.
        url: The target.
    """
    for name, one in results.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            continue
        if name in _ABOUT_ALL or (path.parts[0] == DATASET and path.suffix in (".json", ".jsonl")):
            storage.fetch(storage.join(url, name), out / path)
        else:
            stand_in(out / path, one.size)


class PartFolder:
    """A part's folder in object storage, and the folder on this machine that stands for it.

    Attributes:
        out: Folder of this machine that stands for the target.
    """

    def __init__(self, url: str, out: Path, part: Part) -> None:
        self.url, self.out, self.part = url, out, part
        self.folder = out / FOLDER / part.name
        self._at = storage.join(url, FOLDER, part.name)

    def restore(self) -> bool:
        """Fetch what the part says of itself; whether it says that it is done."""
        if storage.entry(storage.join(self._at, HEAD)) is None:
            return False
        storage.fetch_all((storage.join(self._at, name), self.folder / name) for name in _FACTS)
        return True

    def hand_over(self) -> None:
        """Send all of it, what says that it is done last."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not _hidden(path, self.folder)]
        rest = [path for path in files if path != self.folder / HEAD]
        storage.send_all((path, self._address(path)) for path in rest)
        storage.send_all([(self.folder / HEAD, storage.join(self._at, HEAD))])

    def _address(self, path: Path) -> str:
        return storage.join(self._at, path.relative_to(self.folder).as_posix())


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder that this program keeps for itself; inputs may have any name."""
    return path.relative_to(folder).parts[0].startswith(".")


def lay_out(target: Target, out: Path) -> Callable[[Path], str | None]:
    """Put the parts where `merge` finds them.

    Args:
        target: Where they lie.
        out: The folder that stands for it.

    Returns:
        A function of a file below `out`: the object whose stand-in it is, or None for a file with content.
    """
    parts = target.parts
    storage.fetch(storage.join(target.url, FOLDER, INPUTS), out / FOLDER / INPUTS)
    cut = _cut_videos(out / FOLDER / INPUTS)
    links = _links_work(out)
    real: list[tuple[str, Path]] = []
    objects: dict[int, str] = {}
    for name, one in parts.items():
        path = PurePosixPath(name)
        if len(path.parts) < 3 or ".." in path.parts:  # `inputs.jsonl` and marks
            continue
        inside = PurePosixPath(*path.parts[2:])
        facts = inside.parts[0] in (VIDEOS, LINES) or (inside.name in _FACTS and len(inside.parts) == 1)
        joined = inside.suffix == ".mp4" and PurePosixPath(*inside.parts[1:]).with_suffix("").as_posix() in cut
        url = storage.join(target.url, name)
        if facts or joined or not links:
            real.append((url, out / path))
            continue
        stand_in(out / path, one.size)
        objects[os.stat(out / path).st_ino] = url
    storage.fetch_all(real)
    return lambda file: objects.get(os.stat(file).st_ino)


def _links_work(folder: Path) -> bool:
    """Whether a file can have two names there, without which stand-ins would be copied and lose what they stand for."""
    one, other = folder / ".link-1", folder / ".link-2"
    try:
        one.touch()
        os.link(one, other)
        return True
    except OSError:
        return False
    finally:
        one.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


def _cut_videos(path: Path) -> set[str]:
    """Names of the videos of which several parts have a stretch."""
    found = set()
    with open(path, encoding="utf-8") as file:
        next(file, None)
        for line in file:
            row: dict[str, Any] = json.loads(line)
            if row["video"] and row["parts"][0] != row["parts"][1]:
                found.add(str(row["name"]))
    return found


def version(path: Path) -> tuple[int, int]:
    """What tells a file from one that takes its name: a number of the system's may be given again, but not at once."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def publish(
    target: Target,
    out: Path,
    source: Callable[[Path], str | None],
    old: Mapping[Path, tuple[int, int]],
    progress: Callable[[int, int], None],
) -> None:
    """Give joined results their names in the store.

    Args:
        target: Where.
        out: The folder that stands for it, with the results.
        source: From `lay_out`.
        old: What stands for results that were there before, by `version`.
        progress: Called with results done, and results in all.
    """
    files = [
        path
        for path in sorted(out.rglob("*"))
        if path.is_file() and not _hidden(path, out) and old.get(path) != version(path)
    ]
    about_all = [path for path in files if _order(path.relative_to(out))]
    about_all.sort(key=lambda path: _order(path.relative_to(out)))
    rest = [path for path in files if not _order(path.relative_to(out))]
    step = 256
    for at in range(0, len(rest), step):
        piece = rest[at : at + step]
        copied = [(found, path) for path in piece if (found := source(path)) is not None]
        storage.copy_all((found, _address(target, out, path)) for found, path in copied)
        given = {path for _, path in copied}
        storage.send_all((path, _address(target, out, path)) for path in piece if path not in given)
        progress(min(at + step, len(rest)), len(files))
    for path in about_all:
        storage.send_all([(path, _address(target, out, path))])
    progress(len(files), len(files))


def _address(target: Target, out: Path, path: Path) -> str:
    return storage.join(target.url, path.relative_to(out).as_posix())


def _order(path: Path) -> int:
    """0 for results of inputs, higher for what is about all of them."""
    if path.as_posix() in _ABOUT_ALL:
        return 1
    inside_set = path.parts[0] == DATASET and len(path.parts) == 2
    return 3 if inside_set and path.name == "dataset.json" else 2 if inside_set else 0
