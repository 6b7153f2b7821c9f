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


@dataclass(frozen=True)
class Stamp:
    """What tells one version of a file from another.

    Attributes:
        size: Bytes.
        mark: Modification time of a file, checksum of an archive's member.
    """

    size: int
    mark: int


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
    """The files below a folder."""

    def __init__(self, root: Path | str) -> None:
        """Open a folder.

        Raises:
            IccldError: It does not exist or is no folder.
        """
        self.root = Path(root).absolute()
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
            try:
                entries = os.scandir(self.root / here)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue  # desktop leftovers such as ._0001.png, which only look like images
                    path = f"{here}/{entry.name}" if here else entry.name
                    if _is_folder(entry):
                        stack.append(path)
                    else:
                        yield path

    def is_folder(self, folder: str) -> bool:
        """Whether the folder exists."""
        return (self.root / folder).is_dir()

    def folders(self, folder: str = "") -> list[str]:
        """Paths of the folders directly inside a folder, sorted."""
        try:
            with os.scandir(self.root / folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" if folder else name for name in names]

    def stamp(self, path: str) -> Stamp | None:
        """Size and modification time."""
        try:
            stat = os.stat(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # as good as not there, and told as that one frame's
                return None
            raise
        return Stamp(stat.st_size, stat.st_mtime_ns)

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            IccldError: It cannot be read.
        """
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            raise IccldError("is missing") from None
        except OSError as error:
            raise IccldError(f"cannot be read ({error.strerror})") from None

    def read_start(self, path: str, size: int) -> bytes:
        """The first bytes of a file.

        Raises:
            IccldError: It cannot be read.
        """
        try:
            with open(self.root / path, "rb") as file:
                return file.read(size)
        except FileNotFoundError:
            raise IccldError("is missing") from None
        except OSError as error:
            raise IccldError(f"cannot be read ({error.strerror})") from None

    def describe(self) -> str:
        """The folder's path."""
        return str(self.root)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is no folder, and as a file it is told by its name
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
            if (self.root / path).is_file():
                yield Path(path).as_posix()

    def describe(self) -> str:
        """The pattern."""
        return str(self.root / self.pattern)


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
