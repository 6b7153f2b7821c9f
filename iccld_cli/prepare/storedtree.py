"""Raw files in object storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.prepare.tree import INDEX_NAME, INFO_NAME, Stamp, join
from iccld_cli.storage import Entry


@dataclass(frozen=True)
class StoredTree:
    """The objects below an address, listed once, where it is opened; a `tree.Tree`.

    What `tree.FolderTree` passes over is passed over here as well: hidden names, and prepared data sets.

    Attributes:
        url: The address.
        found: Paths below it -> objects.
    """

    url: str
    found: dict[str, Entry]

    @classmethod
    def open(cls, url: str) -> StoredTree:
        """List an address.

        Raises:
            IccldError: Nothing is there, or see `storage.listing`.
        """
        listed = storage.listing(url)
        shown = storage.shown_address(url)
        if "" in listed:
            raise IccldError(f"{shown} is an object", "give the folder the data set was unpacked to")
        prepared = {
            name.rpartition("/")[0]
            for name in listed
            if name.rpartition("/")[2] == INFO_NAME and join(name.rpartition("/")[0], INDEX_NAME) in listed
        } - {""}
        found = {
            name: one
            for name, one in listed.items()
            if not any(part.startswith(".") for part in name.split("/"))
            and not any(name.startswith(f"{folder}/") for folder in prepared)
        }
        if not found:
            raise IccldError(f"there is nothing at {shown}", "give the folder the data set was unpacked to")
        packed = next((name for name in sorted(found) if name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))), None)
        if packed is not None:
            raise IccldError(f"{shown} holds the archive {packed}", "unpack it there: archives are read on disks alone")
        return cls(url, found)

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of all files under a folder."""
        begin = f"{folder}/" if folder else ""
        return (path for path in self.found if path.startswith(begin))

    def is_folder(self, folder: str) -> bool:
        """Whether any file lies under the folder."""
        return next(self.walk(folder), None) is not None

    def folders(self, folder: str = "") -> list[str]:
        """Paths of the folders directly inside a folder, sorted."""
        begin = len(folder) + 1 if folder else 0
        names = {path[begin:].partition("/")[0] for path in self.walk(folder) if "/" in path[begin:]}
        return [join(folder, name) for name in sorted(names)]

    def stamp(self, path: str) -> Stamp | None:
        """Size and mark of a file, None when there is none."""
        one = self.found.get(path)
        return None if one is None else Stamp(one.size, one.mark)

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            IccldError: It cannot be read.
        """
        return self.read_start(path, None)

    def read_start(self, path: str, size: int | None) -> bytes:
        """The first bytes of a file.

        Raises:
            IccldError: It cannot be read.
        """
        if path not in self.found:
            raise IccldError("is missing")
        try:
            return storage.read(storage.join(self.url, path), size)
        except IccldError as error:
            raise IccldError(f"cannot be read ({error.message})", error.hint) from None

    def describe(self) -> str:
        """The address."""
        return storage.shown_address(self.url)


def stored_images(pattern: str, masks: str | None) -> tuple[str, StoredTree, str | None, str | None]:
    """Own images in object storage, as `own.own_images` takes them.

    Args:
        pattern: Address of a folder, or a template with `{placeholders}`.
        masks: The same of the masks; None without.

    Returns:
        A name, the files, and the paths of images and masks in them.

    Raises:
        IccldError: Nothing lies there, or both are not in one bucket.
    """
    coco = masks is not None and masks.lower().endswith(".json") and "{" not in masks
    folder = _fixed(pattern)
    if masks is None:
        inside = pattern[len(folder) :].strip("/")
        return storage.name_below(folder), StoredTree.open(folder), inside if "{" in pattern else None, None
    places = [folder, masks.rpartition("/")[0] if coco else _fixed(masks)]
    parts = [place.split("/") for place in places]
    same = next((at for at, (a, b) in enumerate(zip(*parts, strict=False)) if a != b), min(map(len, parts)))
    root = "/".join(parts[0][:same])
    if same < 3:
        raise IccldError("--images and --masks lie in different buckets", "put them into one")
    inside_root = [text[len(root) :].strip("/") for text in (pattern, masks)]
    return storage.name_below(folder), StoredTree.open(root), inside_root[0], inside_root[1]


def _fixed(template: str) -> str:
    """The folder of a template before its first placeholder."""
    return template if "{" not in template else template[: template.index("{")].rpartition("/")[0]


def is_stored(given: Path | str) -> bool:
    """Whether a path or text is an address in object storage."""
    return storage.url_of(given) is not None
