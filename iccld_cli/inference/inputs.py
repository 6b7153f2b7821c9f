"""What `iccld predict` is given: files, folders and globs become a list of inputs with distinct output names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.inference.naming import Candidate, distinct_names
from iccld_cli.inference.video import VIDEO_SUFFIXES
from iccld_cli.reading import kind_problem


@dataclass(frozen=True)
class Input:
    """One image or video to predict.

    Attributes:
        path: The file.
        name: Where its results go below each kind's folder, without a suffix.
        is_video: Whether it is a video.
    """

    path: Path
    name: PurePath
    is_video: bool


def collect(inputs: Sequence[str | Path], out: Path, left_out: dict[Path, str] | None = None) -> list[Input]:
    """Find the images and videos.

    A folder's tree is kept in the names. Hidden files, files of other kinds and the output folder are passed over.

    Args:
        inputs: Files, folders and glob patterns (`**` goes into folders).
        out: Output folder.
        left_out: Filled with what has an image's or a video's name and is no file to read (a pipe, a device, a loop of
            links), and what it is.

    Returns:
        In the order given, sorted by path within one.

    Raises:
        IccldError: An input does not exist, is of no known kind, or holds nothing.
    """
    found: dict[Path, Candidate] = {}
    folders = sum(Path(i).is_dir() for i in inputs)
    for given in inputs:
        for path, name in _expand(str(given), out.resolve(), keep_folder=folders > 1, left_out=left_out):
            one = Candidate(path, name.with_suffix(""), path.suffix.lower() in VIDEO_SUFFIXES)
            found.setdefault(path.resolve(), one)
    candidates = list(found.values())
    names = distinct_names(candidates)
    return [Input(one.path, name, one.is_video) for one, name in zip(candidates, names, strict=True)]


def _expand(
    given: str, out: Path, keep_folder: bool, left_out: dict[Path, str] | None
) -> Iterator[tuple[Path, PurePath]]:
    """(path, name relative to what was given) of every file behind one input."""
    if not given:
        raise IccldError("one of the inputs is an empty text", "check how the command was put together")
    path = Path(given)
    if path.is_dir():
        if path.resolve().is_relative_to(out):
            raise IccldError(f"{path} is taken for results, because --out is {out}", "choose another --out")
        found = sorted(p for p in path.rglob("*") if _usable(p, path, out, left_out))
        base = path.resolve().parent if keep_folder else path.resolve()
        if not found:
            raise IccldError(f"{path} holds no image or video", f"known suffixes: {_suffixes()}")
        yield from ((p, PurePath(os.path.relpath(p.resolve().parent / p.name, base))) for p in found)
    elif path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            raise IccldError(f"{path} is neither an image nor a video", f"known suffixes: {_suffixes()}")
        yield path, PurePath(path.name)
    elif glob.has_magic(given):
        root = _fixed_part(given)
        found = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if _usable(p, root, out, left_out))
        if not found:
            raise IccldError(f"no image or video matches {given!r}", "quote the pattern and check the folder")
        yield from ((p, PurePath(os.path.relpath(p, root))) for p in found)
    elif problem := kind_problem(path):
        raise IccldError(f"{path} {problem}", "give an image, a video or a folder")
    else:
        raise IccldError(f"no file or folder at {given}", "check the path")


def _usable(path: Path, root: Path, out: Path, left_out: dict[Path, str] | None) -> bool:
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.relative_to(root).parts)
    if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES or hidden:
        return False
    if not path.is_file():
        if left_out is not None and (problem := kind_problem(path)):
            left_out[path] = problem
        return False
    return not path.resolve().is_relative_to(out)


def _fixed_part(pattern: str) -> Path:
    """The folder in front of a pattern's first wildcard."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first]) if first else Path(".")


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
