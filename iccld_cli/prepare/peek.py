"""A look into a compressed tar file that writes nothing: its names as far as time allows, and a few of its members."""

from __future__ import annotations

import posixpath
import tarfile
import time
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.prepare.archives import ArchiveTree, UnionTree
from iccld_cli.prepare.tree import Stamp, Tree

SECONDS = 12.0
"""How long one archive is read."""

KEPT_BYTES = 96 * 1024 * 1024
"""Bytes of content that are kept of one archive."""

_KEPT_OF_A_FOLDER = 2


class PeekTree(ArchiveTree):
    """A compressed tar file, read from its start for a limited time.

    Attributes:
        share: How much of the file was looked at, in [0, 1].
    """

    def __init__(self, path: Path, opener: Any, where: str = "") -> None:
        """Read names, and the content of the first members of each folder.

        Args:
            path: The file.
            opener: Opens it and uncompresses what is read, such as `gzip.open`.
            where: Folder that its members are put into.
        """
        super().__init__(path, where)
        self.share = 1.0
        kept: dict[str, int] = {}
        left, end = KEPT_BYTES, time.monotonic() + SECONDS
        size = self.path.stat().st_size
        with open(path, "rb") as raw, opener(raw, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg():
                    raise self._refuse(member.name, "it is a link or a device")
                folder, content = posixpath.dirname(member.name), None
                if kept.get(folder, 0) < _KEPT_OF_A_FOLDER and member.size <= left:
                    source = archive.extractfile(member)
                    content = None if source is None else source.read()
                    kept[folder], left = kept.get(folder, 0) + 1, left - member.size
                self._add(member.name, content, Stamp(member.size, int(member.mtime)))
                if time.monotonic() > end:
                    self.share = raw.tell() / size
                    break

    def can_read(self, path: str) -> bool:
        """Whether the member was kept."""
        found = self._members.get(path)
        return found is not None and found[0] is not None

    def _read(self, handle: Any, stamp: Stamp) -> bytes:
        if handle is None:
            raise IccldError("was not read in this look")
        return handle


def peeks(tree: Tree | None) -> list[PeekTree]:
    """The compressed tar files of a tree that were only looked into."""
    parts = tree.parts if isinstance(tree, UnionTree) else [tree]
    return [part for part in parts if isinstance(part, PeekTree)]


def cut_short(tree: Tree | None) -> str:
    """Which of them were not read to the end, as a clause; empty where all were."""
    cut = [f"{100 * one.share:.0f} % of {one.path.name}" for one in peeks(tree) if one.share < 1]
    return f"only {' and '.join(cut)} could be looked at (compressed tar)" if cut else ""
