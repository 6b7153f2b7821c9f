"""Archives read as they are: zip and tar, alone or several beside each other, without unpacking them by hand.

Nothing in an archive is trusted: paths that lead out of it, links and devices, encrypted members, and members
or whole archives that unpack to far more than real data sets do.
"""

from __future__ import annotations

import abc
import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.prepare.storedtree import StoredTree
from iccld_cli.prepare.tree import FolderTree, Stamp, Tree, join, read_start
from iccld_cli.storage import url_of

MAX_MEMBER = 1 << 30
"""Largest member in bytes; the largest image of a known data set is below 100 MB."""

MAX_RATIO = 200
"""How much larger than itself an archive may unpack to, beyond `FREE_BYTES`. Labels reach about 100."""

FREE_BYTES = 256 * 1024 * 1024

_ARCHIVE_DEPTH = 3
"""Levels of folders below the given one that archives are looked for in."""

_COMPRESSED: dict[str, Any] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}
_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive this module reads."""
    names = path.name.lower()
    return names.endswith((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"))


def open_tree(path: Path, cache: Path, peek: bool = False) -> Tree:
    """Open a folder or an archive; archives that lie in the folder are read as if they were unpacked where they lie.

    Args:
        path: Folder or archive; or an address in object storage, see `StoredTree`.
        cache: Folder for the uncompressed form of compressed tar files, which cannot be read in any order otherwise.
        peek: Look into compressed tar files for a short time only and write nothing; see `peek.PeekTree`.

    Raises:
        IccldError: It does not exist, is damaged, or is not safe to read.
    """
    if (url := url_of(path)) is not None:
        return StoredTree.open(url)
    if path.is_dir():
        folder = FolderTree(path)
        archives = [(a, a.parent.relative_to(path).as_posix()) for a in _archives_below(path)]
        parts = [_open_archive(a, cache, "" if where == "." else where, peek) for a, where in archives]
        return UnionTree(folder, parts) if parts else folder
    if path.is_file() and is_archive(path):
        return _open_archive(path, cache, "", peek)
    if path.is_file() and path.suffix.lower() in (".rar", ".7z"):
        raise IccldError(
            f"{path} cannot be read packed", "unpack it (unar, unrar or 7z) and give the folder; zip or tar can be read"
        )
    if path.is_file():
        raise IccldError(f"{path} is a file of a kind that cannot be read", "give a folder, or a zip or tar file")
    return FolderTree(path)


def _archives_below(folder: Path, depth: int = _ARCHIVE_DEPTH) -> list[Path]:
    """Archives in a folder and the folders below it, sorted."""
    found, below = [], []
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            child = Path(entry.path)
            if is_archive(child) and child.is_file():
                found.append(child)
            elif depth and child.is_dir():  # links too, as `FolderTree.walk` does; the depth ends their loops
                below.append(child)
    for child in below:
        found += _archives_below(child, depth - 1)
    return sorted(found)


def _open_archive(path: Path, cache: Path, where: str, peek: bool) -> ArchiveTree:
    try:
        if path.suffix.lower() == ".zip":
            return ZipTree(path, where)
        opener = _COMPRESSED.get(path.suffix.lower())
        if opener is not None and peek:
            from iccld_cli.prepare.peek import PeekTree

            return PeekTree(path, opener, where)
        if opener is None:
            return TarTree(path, path, where)
        plain = _uncompress(path, opener, cache)
        try:
            return TarTree(path, plain, where)
        except BaseException:
            plain.unlink(missing_ok=True)  # a copy of what was refused is of no use
            raise
    except _READ_ERRORS as error:
        hint = "is its download complete? get it again, or move it away if it does not belong here"
        raise IccldError(f"{path} is damaged or no archive ({error})", hint) from None


class ArchiveTree(abc.ABC):
    """What zip and tar have in common: members by cleaned path."""

    def __init__(self, path: Path, where: str = "") -> None:
        """Open an archive.

        Args:
            path: The file.
            where: Folder that its members are put into.
        """
        self.path = path.absolute()
        self.where = where
        self._members: dict[str, tuple[Any, Stamp]] = {}
        self._children: dict[str, set[str]] = {"": set()}
        self._unpacked = 0

    def _add(self, name: str, handle: Any, stamp: Stamp) -> None:
        """Add a file.

        Raises:
            IccldError: Its path leads out of the archive, or it is too large.
        """
        clean = posixpath.normpath(name.replace("\\", "/"))
        if clean.startswith(("/", "../")) or clean == ".." or (len(clean) > 1 and clean[1] == ":"):
            raise self._refuse(name, "its path leads out of the archive")
        self._unpacked += stamp.size
        allowed = FREE_BYTES + MAX_RATIO * self.path.stat().st_size
        if stamp.size > MAX_MEMBER or self._unpacked > allowed:
            raise self._refuse(name, "it unpacks to far more than a data set would")
        clean = join(self.where, clean)
        self._members[clean] = (handle, stamp)
        while clean:
            parent = posixpath.dirname(clean)
            siblings = self._children.setdefault(parent, set())
            if clean not in self._members:
                if clean in siblings:
                    break
                siblings.add(clean)
            clean = parent

    def _refuse(self, name: str, reason: str) -> IccldError:
        return IccldError(f"{self.path} is not safe to read: {name!r}, {reason}", "unpack it yourself if you trust it")

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of the members under a folder."""
        start = f"{folder}/" if folder else ""
        for path in self._members:
            if path.startswith(start) and not os.path.basename(path).startswith("."):
                yield path

    def is_folder(self, folder: str) -> bool:
        """Whether any member lies under the folder."""
        return folder in self._children

    def folders(self, folder: str = "") -> list[str]:
        """Folders directly inside a folder, sorted."""
        return sorted(self._children.get(folder, ()))

    def stamp(self, path: str) -> Stamp | None:
        """Size and checksum or offset of a member."""
        found = self._members.get(path)
        return found and found[1]

    def read(self, path: str) -> bytes:
        """A member's content.

        Raises:
            IccldError: It is missing or damaged.
        """
        found = self._members.get(path)
        if found is None:
            raise IccldError("is missing")
        try:
            return self._read(*found)
        except _READ_ERRORS as error:
            raise IccldError(f"cannot be read from the archive ({error})") from None

    @abc.abstractmethod
    def _read(self, handle: Any, stamp: Stamp) -> bytes:
        """A member's content."""

    def describe(self) -> str:
        """The archive's path."""
        return str(self.path)


class ZipTree(ArchiveTree):
    """A zip file."""

    def __init__(self, path: Path, where: str = "") -> None:
        """Open and check a zip file, see `ArchiveTree`."""
        super().__init__(path, where)
        self._zip: zipfile.ZipFile | None = None
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise self._refuse(info.filename, "it is a link")
                if info.flag_bits & 1:
                    raise self._refuse(info.filename, "it is encrypted")
                self._add(info.filename, info.filename, Stamp(info.file_size, info.CRC))

    def read_start(self, path: str, size: int) -> bytes:
        """The first bytes of a member, without unpacking the rest.

        Raises:
            IccldError: It is missing or damaged.
        """
        found = self._members.get(path)
        if found is None:
            raise IccldError("is missing")
        try:
            with self._opened().open(found[0]) as file:
                return file.read(size)
        except _READ_ERRORS as error:
            raise IccldError(f"cannot be read from the archive ({error})") from None

    def _read(self, handle: Any, stamp: Stamp) -> bytes:
        return self._opened().read(handle)

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:  # opened once in each process; workers get this object without it
            self._zip = zipfile.ZipFile(self.path)
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        """For the workers: without the open file."""
        return {**self.__dict__, "_zip": None}


class TarTree(ArchiveTree):
    """A tar file."""

    def __init__(self, path: Path, plain: Path, where: str = "") -> None:
        """Open and check a tar file.

        Args:
            path: The file as downloaded.
            plain: The same, uncompressed.
            where: Folder that its members are put into.
        """
        super().__init__(path, where)
        self.plain = plain
        self._file: IO[bytes] | None = None
        with tarfile.open(plain, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg():
                    raise self._refuse(member.name, "it is a link or a device")
                self._add(member.name, member.offset_data, Stamp(member.size, int(member.mtime)))

    def _read(self, handle: Any, stamp: Stamp) -> bytes:
        if self._file is None:
            self._file = open(self.plain, "rb")  # noqa: SIM115 - kept open for all members
        self._file.seek(handle)
        data = self._file.read(stamp.size)
        if len(data) < stamp.size:
            raise EOFError("truncated")
        return data

    def __getstate__(self) -> dict[str, Any]:
        """For the workers: without the open file."""
        return {**self.__dict__, "_file": None}


def _uncompress(path: Path, opener: Any, cache: Path) -> Path:
    found = path.stat()
    name = hashlib.sha256(f"{path.absolute()}{found.st_size}{found.st_mtime_ns}".encode()).hexdigest()[:16]
    plain = cache / f".{name}.tar"
    if plain.exists():
        return plain
    allowed, written = FREE_BYTES + MAX_RATIO * found.st_size, 0
    with opener(path, "rb") as source, atomic_path(plain) as temporary, open(temporary, "wb") as file:
        while chunk := source.read(1 << 20):
            written += len(chunk)
            if written > allowed:
                raise IccldError(
                    f"{path} is not safe to read: it unpacks to far more than a data set would",
                    "unpack it yourself if you trust it",
                )
            file.write(chunk)
    return plain


class UnionTree:
    """A folder and the archives in it, as if they were unpacked there; what is unpacked already comes first.

    Attributes:
        folder: The folder alone.
        parts: The folder and the archives.
    """

    def __init__(self, folder: FolderTree, archives: list[ArchiveTree]) -> None:
        """Join them."""
        self.parts: list[Tree] = [folder, *archives]
        self.folder = folder

    @property
    def left_out(self) -> dict[str, str]:
        """As `FolderTree.left_out`."""
        return self.folder.left_out

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of all files under a folder, each once."""
        for number, part in enumerate(self.parts):
            for path in part.walk(folder):
                if not any(earlier.stamp(path) for earlier in self.parts[:number]):
                    yield path

    def is_folder(self, folder: str) -> bool:
        """Whether any part has the folder."""
        return any(part.is_folder(folder) for part in self.parts)

    def folders(self, folder: str = "") -> list[str]:
        """Folders directly inside a folder in any part, sorted."""
        return sorted({child for part in self.parts for child in part.folders(folder)})

    def stamp(self, path: str) -> Stamp | None:
        """Of the first part that has the file."""
        return next((stamp for part in self.parts if (stamp := part.stamp(path))), None)

    def read_start(self, path: str, size: int) -> bytes:
        """The first bytes, from the first part that has the file."""
        for part in self.parts:
            if part.stamp(path):
                return read_start(part, path, size)
        raise IccldError("is missing")

    def holders(self, path: str) -> list[tuple[Tree, Stamp]]:
        """The parts that have a file, the one that it is read from first."""
        return [(part, stamp) for part in self.parts if (stamp := part.stamp(path))]

    def read(self, path: str) -> bytes:
        """From the first part that has the file."""
        for part in self.parts:
            if part.stamp(path):
                return part.read(path)
        raise IccldError("is missing")

    def describe(self) -> str:
        """The folder's path."""
        return self.folder.describe()


def plain_copies(tree: object) -> list[Path]:
    """Uncompressed copies of compressed archives that a tree has made, to be removed when it is done with."""
    parts = tree.parts if isinstance(tree, UnionTree) else [tree]
    return [part.plain for part in parts if isinstance(part, TarTree) and part.plain != part.path]
