"""Object storage behind fsspec: `s3://bucket/key`, and what else has a scheme that fsspec knows.

Credentials and endpoints come from where the store's own library looks for them (`AWS_ACCESS_KEY_ID`,
`AWS_ENDPOINT_URL`, `FSSPEC_S3_ENDPOINT_URL`, profiles, roles); this program neither takes nor writes any. Stores have
no rename: an object is there whole or not at all, and what says that many belong together is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from iccld_cli.errors import IccldError, reason_of
from iccld_cli.files import explain_os_error

INSTALL = "pip install 'iccld[ray]'"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_OTHERS = frozenset({"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp"})  # see `inference.remote`
_AT_A_TIME = 16
"""Objects that are fetched, sent or copied at a time."""

_BLOCK = 1 << 20
"""Bytes that are read at a time where a little of an object is wanted."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        size: Bytes.
        mark: A number that changes when its content does.
    """

    size: int
    mark: int


def url_of(given: str | Path | None) -> str | None:
    """The address in object storage that is meant; None for a path or another address.

    A path that was made of an address has lost a slash (`s3:/bucket/key`), which is given back.
    """
    if given is None:
        return None
    found = _URL.fullmatch(str(given))
    if found is None or found[1].lower() in _OTHERS or found[1].lower() == "file":
        return None
    if len(found[2]) != 2 and not isinstance(given, Path):
        return None
    return f"{found[1].lower()}://{found[3].strip('/')}"


def local_path(given: Path) -> Path:
    """A path as it is; of `file:///folder/file` the path that this names."""
    found = _URL.fullmatch(str(given))
    if found is None or found[1].lower() != "file":
        return given
    return Path(unquote(urlsplit(f"file:///{found[3].lstrip('/')}").path))


def shown_address(url: str) -> str:
    """An address without the name and password that some stores take in front of the host."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def join(url: str, *names: str) -> str:
    """An address below another."""
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names if name)])


def listing(url: str) -> dict[str, Entry]:
    """All objects below an address, by their names from it on; of an object itself one of an empty name.

    Raises:
        IccldError: The store does not answer or lets nobody in, or there is no such bucket.
    """
    with _explained(url):
        fs, root = _opened(url)
        try:
            found = fs.find(root, detail=True)
        except FileNotFoundError:
            fs.ls(root.split("/", 1)[0])  # without the bucket there is nothing to be below
            return {}
        if not found:
            fs.ls(root.split("/", 1)[0])
        base = root.rstrip("/")
        return {
            path[len(base) :].strip("/"): _entry(raw)
            for path, raw in found.items()
            if raw.get("type") == "file" and not path.endswith("/")
        }


def matching(url: str, base: str) -> dict[str, Entry]:
    """The objects that match a glob pattern, by their names below an address.

    Args:
        url: The pattern.
        base: The address, of which the pattern is below.

    Raises:
        IccldError: See `listing`.
    """
    with _explained(url):
        fs, root = _opened(url)
        begin = len(_opened(base)[1].rstrip("/"))
        found = fs.glob(root, detail=True)
        return {path[begin:].strip("/"): _entry(raw) for path, raw in found.items() if raw.get("type") == "file"}


def entry(url: str) -> Entry | None:
    """An object; None where there is none.

    Raises:
        IccldError: See `listing`.
    """
    with _explained(url):
        fs, path = _opened(url)
        try:
            raw = fs.info(path)
        except FileNotFoundError:
            return None
        return _entry(raw) if raw.get("type") == "file" else None


def read(url: str, most: int | None = None) -> bytes:
    """An object's content, or its first bytes.

    Raises:
        IccldError: There is none, or see `listing`.
    """
    with _explained(url):
        fs, path = _opened(url)
        data: bytes = fs.cat_file(path, end=most)
        return data


def write(url: str, data: bytes) -> None:
    """Write an object.

    Raises:
        IccldError: See `listing`.
    """
    with _explained(url):
        fs, path = _opened(url)
        fs.pipe_file(path, data)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Any]:
    """An object as a file to read and seek in, of which no more is fetched than is read.

    Raises:
        IccldError: There is none, or see `listing`.
    """
    with _explained(url):
        fs, path = _opened(url)
        with fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
            yield file


def fetch(url: str, to: Path, most: int | None = None) -> None:
    """Fetch an object; the file is there whole or not at all.

    Args:
        url: The object.
        to: Where to write it; its folder is made.
        most: Most bytes that it may have.

    Raises:
        IccldError: There is none, it is too large, it cannot be written, or see `listing`.
    """
    if most is not None and (known := entry(url)) is not None and known.size > most:
        raise IccldError(f"{shown_address(url)} is larger than {most >> 20} MiB")
    part = to.with_name(f".{hashlib.sha256(to.name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, to) from error
    try:
        with _explained(url, to):
            fs, path = _opened(url)
            fs.get_file(path, str(part))
        os.replace(part, to)
    finally:
        part.unlink(missing_ok=True)


def fetch_all(pairs: Iterable[tuple[str, Path]]) -> None:
    """Fetch objects, see `fetch`, several at a time."""
    _each(lambda pair: fetch(*pair), pairs)


def send_all(pairs: Iterable[tuple[Path, str]]) -> None:
    """Write files as objects, several at a time.

    Raises:
        IccldError: See `listing`.
    """

    def send(pair: tuple[Path, str]) -> None:
        file, url = pair
        with _explained(url):
            fs, path = _opened(url)
            fs.put_file(str(file), path)

    _each(send, pairs)


def copy_all(pairs: Iterable[tuple[str, str]]) -> None:
    """Give objects further names in the same store, without fetching them, several at a time.

    Raises:
        IccldError: See `listing`.
    """

    def copy(pair: tuple[str, str]) -> None:
        with _explained(pair[0]):
            fs, path = _opened(pair[0])
            fs.cp_file(path, _opened(pair[1])[1])

    _each(copy, pairs)


def remove_all(urls: Sequence[str]) -> None:
    """Remove objects.

    Raises:
        IccldError: See `listing`.
    """
    if not urls:
        return
    with _explained(urls[0]):
        fs, _ = _opened(urls[0])
        for at in range(0, len(urls), 1000):
            with contextlib.suppress(FileNotFoundError):
                fs.rm([_opened(url)[1] for url in urls[at : at + 1000]])


def name_below(url: str) -> str:
    """The last name of an address."""
    return PurePosixPath(url.partition("://")[2]).name


def _each(call: Callable[[Item], None], items: Iterable[Item]) -> None:
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="iccld-storage") as pool:
        waiting = [pool.submit(call, item) for item in items]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            raise


def _entry(raw: dict[str, Any]) -> Entry:
    mark = raw.get("ETag") or raw.get("etag") or raw.get("md5Hash") or raw.get("LastModified") or raw.get("mtime") or ""
    return Entry(int(raw.get("size") or 0), int(hashlib.sha256(str(mark).encode()).hexdigest()[:12], 16))


def _opened(url: str) -> tuple[Any, str]:
    """The store of an address, and the object's path in it."""
    try:
        import fsspec
    except ImportError as error:
        raise IccldError(
            f"{shown_address(url)} needs fsspec, which is not installed ({reason_of(error)})", INSTALL
        ) from None
    scheme = url.partition("://")[0]
    try:
        fs = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise IccldError(f"{scheme}:// cannot be read here ({reason_of(error)})", "install that package") from None
    except ValueError:
        raise IccldError(
            f"{shown_address(url)}: there is no storage {scheme}://", "write s3://, gs:// or a path"
        ) from None
    path = fs._strip_protocol(url)
    return fs, str(path)


@contextlib.contextmanager
def _explained(url: str, file: Path | None = None) -> Iterator[None]:
    """Turn what stores raise into one sentence."""
    where = shown_address(url)
    try:
        yield
    except IccldError:
        raise
    except PermissionError as error:
        raise IccldError(
            f"no permission for {where} ({reason_of(error).lower()})",
            "check the credentials that the environment gives (AWS_ACCESS_KEY_ID and the like) and the bucket's policy",
        ) from None
    except FileNotFoundError:
        raise IccldError(f"there is nothing at {where}", "check the bucket and the name") from None
    except Exception as error:
        name = type(error).__name__
        if "Credentials" in name:
            raise IccldError(
                f"no credentials for {where}", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            ) from None
        if isinstance(error, OSError) and file is not None and error.filename is not None:
            raise explain_os_error(error, file) from error
        if not isinstance(error, OSError) and not _of_library(error):
            raise
        raise IccldError(
            f"{where} cannot be used ({reason_of(error)})", "check the address, the endpoint and the net"
        ) from None


def _of_library(error: Exception) -> bool:
    """Whether an error is one of the libraries that talk to stores."""
    return type(error).__module__.partition(".")[0] in {
        *("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs", "azure", "google", "fsspec", "asyncio"),
        *("s3transfer", "concurrent", "urllib3"),
    }
