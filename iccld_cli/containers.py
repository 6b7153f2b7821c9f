"""Whether a video file ends where it says it ends, from its container's own sizes; nothing is decoded.

FFmpeg reads a file that was cut off without an error. Containers that state a number of frames (MP4, AVI) are checked
by counting; the others state the sizes of their parts, which are compared here. Layouts after ISO/IEC 14496-12
(boxes), RFC 8794 and 9559 (Matroska), ISO/IEC 13818-1 (transport and program streams), and the specifications of RIFF,
FLV and ASF.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_LEVEL_1 = frozenset(
    bytes.fromhex(name)
    for name in [
        "114d9b74",
        "1549a966",
        "1654ae6b",
        "1f43b675",
        "1c53bb6b",
        "1043a770",
        "1254c367",
        "1941a469",
        "ec",
        "bf",
    ]
)  # RFC 9559: seek head, info, tracks, cluster, cues, chapters, tags, attachments, void, checksum
_IN_CLUSTER = frozenset(bytes.fromhex(name) for name in ["e7", "a3", "a0", "a7", "ab", "5854", "af", "ec", "bf"])
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_TAIL = 1 << 18
_PACKETS = 1 << 15  # of a transport stream, read at a time


def cut_off(path: Path) -> bool:
    """Whether a part of the file reaches beyond the file's end.

    Args:
        path: A video file.

    Returns:
        False as well where the container is of another kind or does not state its sizes.
    """
    try:
        with open(path, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(1024)
            check = _check_of(head)
            return check is not None and check(file, size, head)
    except (OSError, struct.error, IndexError, ValueError):
        return False


def holes(path: Path, stop: int | None = None) -> list[int]:
    """Where packets of an MPEG transport stream or blocks of a Matroska file are missing or unreadable.

    FFmpeg looks for the next thing that it knows and goes on.

    Args:
        path: A video file.
        stop: Offset in bytes; what lies behind it need not be looked at. None for the whole file.

    Returns:
        Offsets in bytes of what comes behind each gap, ascending; empty for other containers.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
        layout = _packets(head)
        if layout is not None:
            return _transport_holes(file, *layout, stop)
        if head.startswith(_EBML):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    return _matroska_holes(data, stop)
                except (IndexError, ValueError):  # it ends within a number: `cut_off` reports it
                    return []
    return []


def _transport_holes(file: BinaryIO, step: int, lead: int, stop: int | None) -> list[int]:
    """By the counters that packets carry."""
    file.seek(0)
    found: list[int] = []
    last = np.full(1 << 13, -1, np.int64)  # the counter of each stream's last packet
    at = 0
    while (stop is None or at <= stop) and (block := file.read(step * _PACKETS)):
        packets = np.frombuffer(block, np.uint8)[: len(block) // step * step].reshape(-1, step)[:, lead:]
        found += [at + step * int(i) for i in _gaps(packets, last)]
        at += len(block)
    return found


def _matroska_holes(data: mmap.mmap, stop: int | None) -> list[int]:
    """By its elements, each of which begins where the one before it ends."""
    length, width = _vint(data, 4)
    at = 4 + width + length + 4
    at += _vint(data, at)[1]  # the segment, whose children follow
    found: list[int] = []
    while at + 12 < len(data) and (stop is None or at <= stop):
        name = data[at : at + 9 - data[at].bit_length()] if data[at] else b""
        if name not in _LEVEL_1 and name not in _IN_CLUSTER:
            at = data.find(_CLUSTER, at)
            if at < 0:
                break
            found.append(at)
            continue
        at += len(name)
        length, width = _vint(data, at)
        # A cluster is entered, whatever its size; live streams do not know it.
        at += width + (0 if name == _CLUSTER else length)
    return found


def _check_of(head: bytes) -> Callable[[BinaryIO, int, bytes], bool] | None:
    if head.startswith(_EBML):
        return _ebml
    if head.startswith(_ASF):
        return _asf
    if head.startswith(b"FLV"):
        return _flv
    if head.startswith(b"RIFF"):
        return lambda file, size, head: 8 + struct.unpack_from("<I", head, 4)[0] > size
    if head.startswith(b"\x00\x00\x01\xba"):
        return _program_stream
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"styp", b"free", b"wide", b"skip"):
        return _boxes
    if (layout := _packets(head)) is not None:
        step = layout[0]
        return lambda file, size, head: size % step != 0
    return None


def _ebml(file: BinaryIO, size: int, head: bytes) -> bool:
    at = 4
    length, width = _vint(head, at)
    at += width + length
    file.seek(at)
    segment = file.read(12)
    if not segment.startswith(_SEGMENT):
        return True  # the header is all there is
    length, width = _vint(segment, 4)
    unknown = length == (1 << (7 * width)) - 1  # of a live stream
    return not unknown and at + 4 + width + length > size


def _vint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """A number of variable length: its value, and how many bytes it takes."""
    width = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + width], "big") & ((1 << (7 * width)) - 1), width


def _asf(file: BinaryIO, size: int, head: bytes) -> bool:
    at = struct.unpack_from("<Q", head, 16)[0]
    file.seek(at)
    data = file.read(24)
    return len(data) < 24 or at + struct.unpack_from("<Q", data, 16)[0] > size


def _flv(file: BinaryIO, size: int, head: bytes) -> bool:
    """Each tag is followed by its length."""
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 13:
        return size > 13
    file.seek(size - 4 - length)
    tag = file.read(4)
    return (tag[0] & 31) not in (8, 9, 18) or int.from_bytes(tag[1:], "big") + 11 != length


def _program_stream(file: BinaryIO, size: int, head: bytes) -> bool:
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    at = tail.rfind(b"\x00\x00\x01\xba")
    while 0 <= at <= len(tail) - 4:
        code = tail[at + 3]
        if tail[at : at + 3] != b"\x00\x00\x01" or code < 0xB9:
            return False  # something else follows; nothing is known
        if code == 0xB9:
            return False
        if code == 0xBA:
            at += 14 + (tail[at + 13] & 7) if tail[at + 4] >> 6 == 1 else 12
        else:
            at += 6 + struct.unpack_from(">H", tail, at + 4)[0]
    return 0 <= at != len(tail)


def _boxes(file: BinaryIO, size: int, head: bytes) -> bool:
    at = 0
    while at < size:
        file.seek(at)
        box = file.read(16)
        if len(box) < 8:
            return True
        length = int.from_bytes(box[:4], "big")
        if length == 1 and len(box) == 16:
            length = int.from_bytes(box[8:], "big")
        if length == 0:  # up to the end of the file
            return False
        if length < 8:
            return False  # something else follows; nothing is known
        at += length
    return at > size


def _packets(head: bytes) -> tuple[int, int] | None:
    """Size of a transport stream's packets, and what precedes each (a time, on Blu-ray discs and in cameras)."""
    for step, lead in ((188, 0), (192, 4), (204, 0)):
        marks = head[lead::step]
        if len(marks) >= 5 and set(marks[:5]) == {0x47}:
            return step, lead
    return None


def _gaps(packets: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Numbers of packets whose counter does not follow that of the packet before in the same stream.

    Args:
        packets: uint8 (N, at least 188).
        last: int64 (8192,), the counter of each stream's last packet or -1; brought up to date.
    """
    lost_sync = packets[:, 0] != 0x47
    stream = (packets[:, 1].astype(np.int64) & 31) << 8 | packets[:, 2]
    loaded = (packets[:, 3] & 16) != 0  # packets without a payload do not count
    counter = (packets[:, 3] & 15).astype(np.int64)
    meant = ((packets[:, 3] & 32) != 0) & (packets[:, 4] > 0) & ((packets[:, 5] & 128) != 0)  # a gap on purpose
    wrong = lost_sync.copy()
    for one in np.unique(stream[~lost_sync]):
        if one == 0x1FFF:  # stuffing
            continue
        mine = np.flatnonzero((stream == one) & loaded & ~lost_sync)
        if not len(mine):
            continue
        before = np.concatenate([last[one : one + 1], counter[mine[:-1]]])
        step = (counter[mine] - before) % 16
        wrong[mine] |= (before >= 0) & (step > 1) & ~meant[mine]  # the same once more is allowed
        last[one] = counter[mine[-1]]
    return np.flatnonzero(wrong)
