"""Where raw files are read from: a folder, or archives as downloaded."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from iccld_cli.errors import IccldError
from iccld_cli.reading import kind_problem, read_bytes

INFO_NAME, INDEX_NAME = "dataset.json", "index.jsonl"  # as in `data.prepared`, which imports too much for `--help`


@dataclass(frozen=True)
class Stamp:
    """What identifies a version of a file.

    Attributes:
        size: Bytes.
        mark: Modification time of a file, checksum of an archive's member.
    """

    size: int
    mark: int


MOST_LEFT_OUT = 1000
"""Paths that are no files to read are listed up to this many."""


class Tree(Protocol):
    """Files under forward-slash paths. Implementations are picklable and read only."""

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of all files under a folder, recursively, in any order; nothing when it does not exist."""

    def is_folder(self, folder: str) -> bool:
        """Whether any file lies under the folder."""

    def folders(self, folder: str = "") -> list[str]:
        """Paths of the folders directly inside a folder, sorted."""

    def stamp(self, path: str) -> Stamp | None:
        """Size and mark of a file, None when there is none."""

    def read(self, path: str) -> bytes:
        """A file's content; raises an `IccldError` that reads on after the file's name ("is missing")."""

    def describe(self) -> str:
        """Where it lies, for messages and `dataset.json`."""


def read_start(tree: Tree, path: str, size: int) -> bytes:
    """The first bytes of a file; the whole file where no less can be read.

    Raises:
        IccldError: See `Tree.read`.
    """
    start = getattr(tree, "read_start", None)
    return tree.read(path)[:size] if start is None else start(path, size)


class FolderTree:
    """The files below a folder.

    Prepared data sets inside it are passed over: they are most likely this program's own output.

    Attributes:
        root: The folder.
        left_out: What listing files has met that is no file to read (a pipe, a device, a loop of links): path -> what
            it is; the first `MOST_LEFT_OUT`.
    """

    def __init__(self, root: Path | str) -> None:
        """Open a folder.

        Raises:
            IccldError: It does not exist or is no folder.
        """
        self.root = Path(root).absolute()
        self.left_out: dict[str, str] = {}
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise IccldError(f"{self.root} {what}", "give the folder the data set was unpacked to")

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of all files under a folder; links are followed, loops of links are not."""
        stack, seen = [folder], set()
        while stack:
            here = stack.pop()
            real = os.path.realpath(self.root / here)
            if real in seen:
                continue
            seen.add(real)
            for entry in self._entries(here):
                if entry.name.startswith("."):
                    continue  # desktop leftovers such as ._0001.png, which only look like images
                path = f"{here}/{entry.name}" if here else entry.name
                if _is_folder(entry):
                    if not is_prepared(entry.path):
                        stack.append(path)
                elif _is_plain(entry) or self._is_usable(path):
                    yield path

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            entries = os.scandir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise IccldError(
                f"cannot read folder {self.root / folder} ({error.strerror})", "make it readable, or leave it out"
            ) from None
        with entries:
            yield from entries

    def _is_usable(self, path: str) -> bool:
        """Whether a path may be read; a link to nothing may, so that it is reported as a missing file."""
        problem = kind_problem(self.root / path)
        if problem is not None and len(self.left_out) < MOST_LEFT_OUT:
            self.left_out[path] = problem
        return problem is None

    def is_folder(self, folder: str) -> bool:
        """Whether the folder exists."""
        return (self.root / folder).is_dir()

    def folders(self, folder: str = "") -> list[str]:
        """Paths of the folders directly inside a folder, sorted."""
        entries = (e for e in self._entries(folder) if not e.name.startswith("."))
        names = sorted(e.name for e in entries if _is_folder(e) and not is_prepared(e.path))
        return [f"{folder}/{name}" if folder else name for name in names]

    def stamp(self, path: str) -> Stamp | None:
        """Size and modification time."""
        try:
            stat = os.stat(self.root / path)
        except OSError:  # treated as missing: reading it reports the error for that one frame
            return None
        return Stamp(stat.st_size, stat.st_mtime_ns)

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            IccldError: It cannot be read.
        """
        return read_bytes(self.root / path)

    def read_start(self, path: str, size: int) -> bytes:
        """The first bytes of a file.

        Raises:
            IccldError: It cannot be read.
        """
        return read_bytes(self.root / path, start=size)

    def describe(self) -> str:
        """The folder's path."""
        return str(self.root)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is no folder, and as a file it is reported by name
            return False
        raise


class GlobTree(FolderTree):
    """The files that match a glob pattern; paths count from the last folder without a wildcard."""

    def __init__(self, pattern: str) -> None:
        """Split the pattern.

        Raises:
            IccldError: The folder before the first wildcard does not exist.
        """
        parts = Path(pattern).parts
        first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        super().__init__(Path(*parts[:first]))
        self.pattern = "/".join(parts[first:])

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of the matching files."""
        for path in glob.iglob(self.pattern, root_dir=self.root, recursive=True):
            whole = self.root / path
            inside = any(is_prepared(folder) for folder in whole.parents[: len(Path(path).parts) - 1])
            if not inside and not whole.is_dir() and self._is_usable(path):
                yield Path(path).as_posix()

    def describe(self) -> str:
        """The pattern."""
        return str(self.root / self.pattern)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)  # known from the listing, without a look at the file


def is_prepared(folder: Path | str) -> bool:
    """Whether a folder is a data set that this program has prepared."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (INFO_NAME, INDEX_NAME))


def join(*parts: str) -> str:
    """Join path parts with forward slashes, leaving out empty ones."""
    return "/".join(part for part in parts if part)


def stem(path: str) -> str:
    """File name without folder and suffix."""
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def suffix(path: str) -> str:
    """Suffix in lower case, with its dot; empty when there is none."""
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else ""
