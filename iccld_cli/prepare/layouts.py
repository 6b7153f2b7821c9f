"""Where the frames of an official data set lie: paths matched at any depth, packed, unpacked or both.

People unpack each archive into a folder of its own, all into one, or leave them packed. So no folder is
expected at a fixed place: every path of the tree is compared once, and a file whose path ends like that of a frame or
of its label is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.prepare.archives import UnionTree, ZipTree
from iccld_cli.prepare.tree import FolderTree, Tree, join, suffix

COMPARED_BYTES = 64 * 1024 * 1024
"""Copies of a frame are compared by size, and in full until this much has been read: reading a whole set twice would
take as long as preparing it."""

_NOT_READ = (".rar", ".7z", ".z01", ".001")
_UNFINISHED = (".part", ".crdownload", ".download", ".aria2", ".opdownload")
_NAMED = 5

Key = tuple[str, str]
"""Split and name of a frame."""

Place = Callable[[Mapping[str, str]], Key | None]
"""From a path's named groups to the frame it belongs to; None where it is not wanted."""


@dataclass(frozen=True)
class Layout:
    """One way in which a set's files are named.

    Attributes:
        images: Regular expression of an image's path, from a folder's start to the path's end; its named groups tell
            the frame.
        labels: The same of its label, the kind to be preferred first.
        expected: Where the label would be, as a template of the image's groups.
        around: Regular expression of the folders that hold only frames; images there that no pattern matches are
            reported. Empty where such folders also hold other things.
    """

    images: str
    labels: tuple[str, ...] = ()
    expected: str = ""
    around: str = ""


@dataclass
class Found:
    """What a tree holds of a set.

    Attributes:
        images: Paths of each frame's image.
        labels: Paths of each frame's labels by kind; a smaller kind is preferred.
        expected: Where the label of each frame would be, without the folder in front.
        label_folder: Folder in front of the first label of each split.
        strays: Some images in the set's folders that are not named as its frames.
        stray_count: How many there are.
        not_read: Files that cannot be read as they are: RAR archives, unfinished downloads.
        backslashes: One name that holds a backslash, empty where there is none.
        extras: Further files that belong to the set, such as a list of its splits.
    """

    images: dict[Key, list[str]] = field(default_factory=dict)
    labels: dict[Key, dict[int, list[str]]] = field(default_factory=dict)
    expected: dict[Key, str] = field(default_factory=dict)
    label_folder: dict[str, str] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    stray_count: int = 0
    not_read: list[str] = field(default_factory=list)
    backslashes: str = ""
    extras: list[str] = field(default_factory=list)

    def hint(self) -> str:
        """What to do about files that are there but cannot be read; empty where there are none."""
        rar = [path for path in self.not_read if path.lower().endswith(_NOT_READ)]
        cut = [path for path in self.not_read if path not in rar]
        if rar:
            return f"{rar[0]} cannot be read packed, unpack it (unar, unrar or 7z) and give the folder"
        if cut:
            return f"{cut[0]} looks like a download that has not ended"
        if self.backslashes:
            return f"names hold backslashes ({self.backslashes}), unpack again with another program (unar or 7z)"
        return ""


def collect(tree: Tree, layouts: Sequence[Layout], place: Place, extras: str = "") -> Found:
    """Walk a tree once and sort its files.

    Args:
        tree: Where to look.
        layouts: How the set's files may be named.
        place: Tells the frame of a path.
        extras: Regular expression of the names of further files to be listed.

    Returns:
        What was found.
    """
    found = Found()
    images = [(re.compile(f"(?:^|/){layout.images}$"), layout) for layout in layouts]
    patterns = [pattern for layout in layouts for pattern in layout.labels]
    labels = [(kind, re.compile(f"(?:^|/){pattern}$")) for kind, pattern in enumerate(patterns)]
    around = [re.compile(f"(?:^|/){layout.around}") for layout in layouts if layout.around]
    extra = re.compile(f"(?:^|/)(?:{extras})$") if extras else None
    for path in tree.walk():
        ending = suffix(path)
        if ending in _NOT_READ or ending in _UNFINISHED:
            found.not_read.append(path)
        elif "\\" in path:
            found.backslashes = found.backslashes or path
        elif extra is not None and extra.search(path):
            found.extras.append(path)
        elif _take_image(found, path, images, place) or _take_label(found, path, labels, place):
            continue
        elif ending in IMAGE_SUFFIXES and any(pattern.search(path) for pattern in around):
            found.stray_count += 1
            found.strays = sorted([*found.strays, path])[:_NAMED]
    found.not_read.sort()
    found.extras.sort(key=lambda path: (path.count("/"), path))
    return found


def _take_image(found: Found, path: str, patterns: list[tuple[re.Pattern[str], Layout]], place: Place) -> bool:
    for pattern, layout in patterns:
        if match := pattern.search(path):
            groups = match.groupdict()
            if (key := place(groups)) is not None:
                found.images.setdefault(key, []).append(path)
                found.expected.setdefault(key, layout.expected.format(**groups))
            return True
    return False


def _take_label(found: Found, path: str, patterns: list[tuple[int, re.Pattern[str]]], place: Place) -> bool:
    for kind, pattern in patterns:
        if match := pattern.search(path):
            if (key := place(match.groupdict())) is not None:
                found.labels.setdefault(key, {}).setdefault(kind, []).append(path)
                found.label_folder.setdefault(key[0], path[: match.start()])
            return True
    return False


class Chooser:
    """Takes one of several copies of a file and refuses those that differ.

    Attributes:
        copies: How many files were there more than once.
        replaced: Unpacked files that differ from their packed form, which they replace.
    """

    def __init__(self, tree: Tree) -> None:
        """Bind to the files."""
        self.tree = tree
        self.copies = 0
        self.replaced = 0
        self._unread = COMPARED_BYTES

    def one(self, paths: Sequence[str]) -> str:
        """The path to be read: the least deep one, unless they differ.

        Raises:
            IccldError: Two of them have different content, so that it is unclear which one is meant.
        """
        first, *others = sorted(paths, key=lambda path: (path.count("/"), path))
        self._look_at_archives(first)
        for other in others:
            self.copies += 1
            if not self._same(first, other):
                raise IccldError(
                    f"{first} and {other} in {self.tree.describe()} are the same frame with different content",
                    "remove one of them or give a folder that holds one",
                )
        return first

    def _same(self, one: str, other: str) -> bool:
        stamps = self.tree.stamp(one), self.tree.stamp(other)
        if stamps[0] is None or stamps[1] is None or stamps[0].size != stamps[1].size:
            return False
        if self._unread <= 0:
            return True
        self._unread -= 2 * stamps[0].size
        try:
            return self.tree.read(one) == self.tree.read(other)
        except IccldError:
            return True  # a file that cannot be read is reported when its turn comes

    def _look_at_archives(self, path: str) -> None:
        holders = self.tree.holders(path) if isinstance(self.tree, UnionTree) else []
        if len(holders) < 2:
            return
        (first, stamp), *others = holders
        for other, another in others:
            packed = isinstance(first, ZipTree) and isinstance(other, ZipTree)
            if stamp.size == another.size and (not packed or stamp.mark == another.mark):
                self.copies += 1
            elif isinstance(first, FolderTree):
                self.replaced += 1
                return
            else:
                raise IccldError(
                    f"{path} is in {first.describe()} and with different content in {other.describe()}",
                    "remove one of the archives",
                )


def missing_labels(found: Found, key: Key) -> str:
    """Where a frame's label should be."""
    return join(found.label_folder.get(key[0], ""), found.expected[key])


def ranges(numbers: Sequence[int], name: str) -> str:
    """Names with a number in them in short: "01.zip, 03.zip to 05.zip".

    Args:
        numbers: Sorted numbers.
        name: What they are put into, with one place such as `{:02d}_images.zip`.
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        ends = [name.format(run[0]), name.format(run[-1])]
        parts.append(ends[0] if len(run) == 1 else f"{ends[0]} to {ends[1]}")
    return ", ".join(parts)
