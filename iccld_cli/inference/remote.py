"""What lies behind a URL: a file to fetch, or a stream that is read while it runs.

A file is fetched whole before it is used, so that it is judged as any other file is. Everything waits for a bounded
time and is tried a bounded number of times.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error

FILES = ("http", "https")
"""Schemes of what can be fetched."""

LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp")
"""Schemes of streams."""

PLAYLISTS = (".m3u8", ".mpd")
"""Ends of addresses that name streams in pieces (HLS, DASH)."""

TIMEOUT = 15.0
"""Seconds that a server may be silent."""

TRIES = 4
PAUSES = (1.0, 2.0, 4.0)
"""Seconds before the second try and those after it."""

UNKNOWN = (-1, 0)
"""Stamp of what a server says neither length nor validators of."""

_CHUNK = 1 << 20
_PASSING = (408, 425, 429)  # of the 4xx: those that another try can mend


@dataclass(frozen=True)
class Remote:
    """What a server says of an address.

    Attributes:
        kind: MIME type, such as `video/mp4`; empty where it says none.
        stamp: Numbers that change when the content does: its length, and a digest of its validators.
    """

    kind: str
    stamp: tuple[int, ...]


def is_url(text: str) -> bool:
    """Whether a text is an address that can be read from."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() in FILES + LIVE


def shown_url(url: str) -> str:
    """An address without the password and the query, which may hold keys."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


def url_path(url: str) -> PurePosixPath:
    """Host and path of an address as a path: what its results can be named after.

    Raises:
        IccldError: It is no address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        number = parts.port
    except ValueError:  # its text may show a piece of a password
        hint = "check its host and port, and write / ? # and @ in a password as %2F %3F %23 and %40"
        raise IccldError(f"{shown_url(url)} is no address that can be read", hint) from None
    steps = [step for step in urllib.parse.unquote(parts.path).replace("\\", "/").split("/") if step.strip(".\0 ")]
    port = f"_{number}" if number else ""
    return PurePosixPath(f"{parts.hostname or 'host'}{port}", *(step.replace("\0", "") for step in steps))


def ask(url: str) -> Remote:
    """What a server says of a file, without fetching it.

    Raises:
        IccldError: It does not answer, or there is nothing.
    """
    for method in ("HEAD", "GET"):  # not every server knows HEAD
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "iccld"})
        try:
            with _tried(url, request) as answer:
                length = answer.headers.get("Content-Length", "")
                marks = "\n".join(answer.headers.get(name, "") for name in ("ETag", "Last-Modified"))
                digest = int(hashlib.sha256(marks.encode()).hexdigest()[:12], 16) if marks.strip() else 0
                return Remote(answer.headers.get_content_type(), (int(length) if length.isdecimal() else -1, digest))
        except _Refused as refused:
            if method == "GET" or refused.code not in (400, 403, 405, 501):
                raise IccldError(f"{shown_url(url)} cannot be read ({refused})", "check the address") from None
    raise AssertionError


def fetch(url: str, to: Path, most: int | None = None) -> None:
    """Fetch a file; a connection that breaks is taken up where it broke.

    Args:
        url: Of a scheme in `FILES`, or in object storage.
        to: Where to write it.
        most: Most bytes that it may have.

    Raises:
        IccldError: The server does not answer, or sends less than it announced, also when asked again; the file is too
            large; or it cannot be written.
    """
    if storage.url_of(url):
        storage.fetch(url, to, most)
        return
    have, whole, mark, reason = 0, -1, "", ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSES[attempt - 1])
        headers = {"User-Agent": "iccld", "Accept-Encoding": "identity"}
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        try:
            with _tried(url, urllib.request.Request(url, headers=headers), tries=1) as answer:
                if answer.status != 206:
                    have = 0
                mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                length = answer.headers.get("Content-Length", "")
                whole = have + int(length) if length.isdecimal() else -1
                with open(to, "ab" if have else "wb") as file:
                    while True:
                        piece = answer.read(_CHUNK)
                        if not piece:
                            break
                        have += len(piece)
                        if most is not None and have > most:
                            raise IccldError(f"{shown_url(url)} is larger than {most >> 20} MiB")
                        _written(file.write, piece, to)
            if whole in (-1, have):
                return
            reason = f"{have} of {whole} bytes came"
        except _Refused as refused:
            raise IccldError(f"{shown_url(url)} cannot be read ({refused})", "check the address") from None
        except _Broken as broken:
            reason = str(broken)
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error)
    raise IccldError(f"{shown_url(url)} cannot be fetched in {TRIES} tries ({reason})", "check the address and the net")


class _Refused(Exception):
    """The server answered, and asking again would not change it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code


class _Broken(Exception):
    """No answer."""


def _tried(url: str, request: urllib.request.Request, tries: int = TRIES) -> http.client.HTTPResponse:
    """Open an address, waiting between tries."""
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSES[attempt - 1])
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
            return answer
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in _PASSING:
                raise _Refused(error.code, str(error.reason)) from None
            reason = f"{error.code} {error.reason}"
        except OSError as error:  # some of which, of certificates, are ValueErrors too
            reason = _reason(error)
        except (ValueError, http.client.InvalidURL):
            hint = "write spaces and letters beyond ASCII as %20 and the like"
            raise IccldError(f"{shown_url(url)} is no address that can be asked", hint) from None
        except http.client.HTTPException as error:
            reason = _reason(error)
    if tries == 1:
        raise _Broken(reason)
    raise IccldError(f"{shown_url(url)} does not answer ({reason})", f"check the address; {tries} tries were made")


def _written(write: Callable[[bytes], object], piece: bytes, to: Path) -> None:
    try:
        write(piece)
    except OSError as error:
        raise explain_os_error(error, to) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__).strip().lower()
