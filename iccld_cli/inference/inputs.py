"""What `iccld predict` is given: files, folders, globs, lists, addresses, cameras, each with a name of its own."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.inference.naming import Candidate, distinct_names
from iccld_cli.inference.remote import LIVE, PLAYLISTS, Remote, ask, is_url, shown_url, url_path
from iccld_cli.inference.threads import in_order
from iccld_cli.inference.video import VIDEO_SUFFIXES
from iccld_cli.reading import MIB, ReadError, kind_problem, read_bytes
from iccld_cli.storage import Entry, join, listing, matching, name_below, shown_address, url_of

MAX_LIST = 64 * MIB
"""Most bytes of a list of inputs."""

ASKED = 8
"""Addresses that are asked about at a time."""


@dataclass(frozen=True)
class Input:
    """One image or video to predict.

    Attributes:
        path: The file; of what is no local file, a path that exists nowhere, to be named after.
        name: Where its results go below each kind's folder, without a suffix.
        is_video: Whether it is a video.
        source: The address or the number of a camera; None for a local file.
        live: Whether it is read while it runs: a stream or a camera.
        stamp: Of an address, what changes when its content does.
    """

    path: Path
    name: PurePath
    is_video: bool
    source: str | int | None = None
    live: bool = False
    stamp: tuple[int, ...] = ()

    @property
    def where(self) -> str:
        """What to call it in messages."""
        if isinstance(self.source, int):
            return f"camera {self.source}"
        if self.stored:
            return shown_address(str(self.source))
        return str(self.path) if self.source is None else shown_url(self.source)

    @property
    def stored(self) -> bool:
        """Whether it lies in object storage: its size is known, and it does not go away."""
        return isinstance(self.source, str) and url_of(self.source) is not None

    @property
    def identity(self) -> str:
        """Of an address or camera a digest of it, with the query and the password that `where` leaves out."""
        return "" if self.source is None else hashlib.sha256(str(self.source).encode("utf-8", "replace")).hexdigest()


def collect(inputs: Sequence[str | Path], out: Path, left_out: dict[Path, str] | None = None) -> list[Input]:
    """Find the images and videos.

    A folder's tree is kept in the names. Hidden files, files of other kinds and the output folder are passed over.

    Args:
        inputs: Files, folders, glob patterns (`**` goes into folders), the same in object storage, `.txt` files with an
            input a line, `-` for such a list on standard input, HTTP(S) files, streams (RTSP and others, HLS), and
            numbers of cameras.
        out: Output folder.
        left_out: Filled with what has an image's or a video's name and is no file to read (a pipe, a device, a loop of
            links), and what it is.

    Returns:
        In the order given, sorted by path within one.

    Raises:
        IccldError: An input does not exist, is of no known kind, or holds nothing; a server does not answer.
    """
    found: dict[object, tuple[Candidate, Input]] = {}
    lines = [line for given in inputs for line in _listed(str(given))]
    stored = {line: listing(url) for line in lines if (url := url_of(line)) and not glob.has_magic(url)}
    folders = sum(Path(line).is_dir() for line in lines) + sum("" not in found for found in stored.values())
    answers = _asked(lines)
    for line in lines:
        for item in (
            _stored(line, url, stored.get(line), out, keep_folder=folders > 1)
            if (url := url_of(line))
            else _inputs(line, out.resolve(), answers, keep_folder=folders > 1, left_out=left_out)
        ):
            one = Candidate(item.path, item.name, item.is_video, "" if item.stored else item.identity)
            found.setdefault(item.path.resolve() if item.source is None else item.source, (one, item))
    names = distinct_names([one for one, _ in found.values()])
    return [replace(item, name=name) for (_, item), name in zip(found.values(), names, strict=True)]


def _listed(given: str) -> list[str]:
    """The inputs that a list holds; anything else is itself."""
    if given == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise IccldError("the input - reads a list from standard input, and there is none", "pipe one in")
        where, data = "standard input", sys.stdin.buffer.read(MAX_LIST + 1)
    elif Path(given).suffix.lower() == ".txt" and Path(given).is_file():
        try:
            where, data = given, read_bytes(given, start=MAX_LIST + 1)
        except ReadError as error:
            raise IccldError(f"{given} {error.message}", "give a list that can be read") from None
    else:
        return [given]
    if len(data) > MAX_LIST:
        raise IccldError(f"the list on {where} has more than {MAX_LIST >> 20} MiB", "give folders or globs")
    if b"\0" in data:
        raise IccldError(f"{where} is no list of inputs", "write one file, folder or address a line")
    lines = [os.fsdecode(line).strip("\r") for line in data.split(b"\n")]
    found = [line for line in lines if line.strip()]
    if not found:
        raise IccldError(f"the list on {where} is empty", "write one file, folder or address a line")
    if "-" in found:
        raise IccldError(f"the list on {where} holds the input -", "leave it out")
    return found


def _asked(lines: Sequence[str]) -> dict[str, Remote]:
    """What servers say of the files among the inputs, several of them asked at a time."""
    urls = [line for line in dict.fromkeys(lines) if is_url(line) and not _is_stream(line)]
    with contextlib.closing(in_order(ask, urls, ASKED)) as answers:
        return dict(zip(urls, answers, strict=True))


def _is_stream(url: str) -> bool:
    return url.partition("://")[0].lower() in LIVE or url_path(url).suffix.lower() in PLAYLISTS


def _inputs(
    given: str, out: Path, answers: Mapping[str, Remote], keep_folder: bool, left_out: dict[Path, str] | None
) -> Iterator[Input]:
    """What is behind one input, with the names that it suggests."""
    if is_url(given):
        yield _remote(given, answers.get(given))
    elif given.isascii() and given.isdecimal() and len(given) < 4 and not os.path.lexists(given):
        yield Input(Path(f"camera{int(given)}"), PurePath(f"camera{int(given)}"), True, int(given), live=True)
    else:
        for path, name in _expand(given, out, keep_folder, left_out):
            yield Input(path, name.with_suffix(""), path.suffix.lower() in VIDEO_SUFFIXES)


def _stored(given: str, url: str, found: Mapping[str, Entry] | None, out: Path, keep_folder: bool) -> Iterator[Input]:
    """What is behind an address in object storage; names are those that a folder of the same files gives."""
    place = url_of(out)
    if found is None:
        root = str(_fixed_part(url.partition("://")[2]))
        base = f"{url.partition('://')[0]}://{root}"
        whole = matching(url, base)
        hint = "quote the pattern and check the folder"
        nothing = IccldError(f"no image or video matches {given!r}", hint)
    else:
        base, whole = url, dict(found)
        nothing = IccldError(f"{shown_address(url)} holds no image or video", f"known suffixes: {_suffixes()}")
        if not found:
            raise IccldError(f"there is nothing at {shown_address(url)}", "check the bucket and the name")
        if "" in found:
            base, _, last = url.rpartition("/")
            whole = {last: found[""]}
            if PurePosixPath(last).suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                raise IccldError(
                    f"{shown_address(url)} is neither an image nor a video", f"known suffixes: {_suffixes()}"
                )
            keep_folder = False
        elif place is not None and f"{url}/".startswith(f"{place}/"):
            raise IccldError(
                f"{shown_address(url)} is taken for results, because --out is {place}", "choose another --out"
            )
    usable: dict[PurePosixPath, str] = {}
    for name in whole:
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") for part in path.parts)
        result = place is not None and join(base, name).startswith(f"{place}/")
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not hidden and not result:
            usable[path] = name
    if not usable:
        raise nothing
    for path in sorted(usable):
        address = join(base, usable[path])
        shown_name = PurePath(name_below(base), path) if keep_folder else PurePath(path)
        one = whole[usable[path]]
        yield Input(
            Path(address.partition("://")[2]),
            shown_name.with_suffix(""),
            path.suffix.lower() in VIDEO_SUFFIXES,
            address,
            stamp=(one.size, one.mark),
        )


def _remote(url: str, remote: Remote | None) -> Input:
    where = url_path(url)
    suffix = where.suffix.lower()
    stem = PurePath(where.name).with_suffix("") if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES else PurePath(where.name)
    if remote is None:
        return Input(Path(where), PurePath("_".join(where.parts)), True, url, live=True)
    kind = remote.kind.partition("/")[0]
    if kind == "multipart":  # pictures that a camera sends one after the other: FFmpeg was seen to wait for ever
        raise IccldError(f"{shown_url(url)} sends pictures without an end", "give the camera's RTSP address")
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return Input(Path(where), stem, suffix in VIDEO_SUFFIXES, url, stamp=remote.stamp)
    if kind not in ("image", "video"):
        raise IccldError(f"{shown_url(url)} is neither an image nor a video but {remote.kind}", "check the address")
    return Input(Path(where), stem, kind == "video", url, stamp=remote.stamp)


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
