"""Prepared data sets and models in object storage, of which a machine fetches what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from iccld_cli import storage
from iccld_cli.data.prepared import INDEX_NAME, INFO_NAME, Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.model import SUFFIXES, find_model


class FetchedDataset(PreparedDataset):
    """A prepared data set in object storage.

    Attributes:
        url: Its address.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        """Fetch what is about all of it.

        Args:
            url: Its address.
            scratch: Folder for what is fetched.

        Raises:
            IccldError: See `PreparedDataset` and `storage.fetch`.
        """
        self.url = url
        root = scratch / "data" / storage.name_below(url)
        storage.fetch_all((storage.join(url, name), root / name) for name in (INFO_NAME, INDEX_NAME))
        super().__init__(root)

    def fetch(self, frames: Iterable[Frame]) -> list[Path]:
        """Fetch the files of frames, several at a time; where they lie then."""
        names = [name for frame in frames for name in (frame.image, frame.label) if name is not None]
        paths = [self.root / name for name in names]
        storage.fetch_all(
            (storage.join(self.url, name), path) for name, path in zip(names, paths, strict=True) if not path.exists()
        )
        return paths

    def _read(self, path: Path, sha256: str | None) -> bytes:
        if not path.exists():
            storage.fetch(storage.join(self.url, path.relative_to(self.root).as_posix()), path)
        return super()._read(path, sha256)


def open_dataset(given: Path | str, scratch: Path) -> PreparedDataset:
    """A prepared data set on a disk or in object storage.

    Raises:
        IccldError: There is none.
    """
    url = storage.url_of(given)
    return PreparedDataset(given) if url is None else FetchedDataset(url, scratch)


def model_file(given: Path | str | None, scratch: Path) -> Path:
    """The model file that is meant; one in object storage is fetched, with its `.bin` where it is an `.xml`.

    Args:
        given: See `find_model`; or an address of a file, or of a folder that holds one.
        scratch: Where to fetch it to, below folders named as its own.

    Raises:
        IccldError: There is none, or several.
    """
    url = storage.url_of(given)
    if url is None:
        return find_model(given)
    found = storage.listing(url)
    base = url.rpartition("/")[0] if "" in found else url
    names = [storage.name_below(url)] if "" in found else [n for n in found if "/" not in n and n[0] != "."]
    models = [name for name in names if Path(name).suffix in SUFFIXES]
    if len(models) != 1:
        says = f"holds {', '.join(models)}" if models else "is no .safetensors, .onnx or .xml file, and holds none"
        raise IccldError(f"{storage.shown_address(url)} {says}", "name the model file itself")
    folders = [name for name in PurePosixPath(base.partition("://")[2]).parts if name not in ("/", "..")]
    file = scratch.joinpath("models", *folders, models[0])
    if not file.exists():
        if file.suffix == ".xml":
            storage.fetch(storage.join(base, file.with_suffix(".bin").name), file.with_suffix(".bin"))
        storage.fetch(storage.join(base, models[0]), file)
    return file


def as_given(given: Path | str | None) -> str | None:
    """A model as a text that a worker reads as this process reads it."""
    return None if given is None else storage.url_of(given) or str(given)
