"""Frames of a video in the order they are shown, and which of them can be trusted.

A decoder conceals damage: it repeats what it has, and the frames that are predicted from there carry the error on up to
the next key frame. It marks few of them. So each frame is judged by the packets that were decoded before it: one that
was lost, or came out damaged, spoils all that were decoded after it up to the next key frame that is shown before them.

VP8, VP9, H.265 and motion JPEG hold next to nothing by which a decoder would notice a changed bit.
"""

from __future__ import annotations

import bisect
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

# Errors are reported instead of concealed; what a bitstream's own checks find counts as one. The sound files that this
# was tried on, of sixteen kinds, gave the same frames with and without it.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_TIMED = frozenset({"mov", "matroska", "flv", "mpegts", "asf"})
_INDEXED = frozenset({"mov", "matroska"})
MOST_HELD = 32
"""Frames; more than any standard reorders."""


def timed(container: Any) -> bool:
    """Whether a container holds the time of each frame; FFmpeg guesses those of AVI and of raw streams."""
    return not _TIMED.isdisjoint(container.format.name.split(","))


def indexed(container: Any) -> bool:
    """Whether a container has an index of its frames; seeking in the others lands anywhere."""
    return not _INDEXED.isdisjoint(container.format.name.split(","))


def hidden(packet: Any, stream: Any) -> bool:
    """Whether a packet is decoded and never shown, as VP8's alternative references (RFC 6386, 9.1, `show_frame`)."""
    return stream.codec_context.name == "vp8" and packet.size > 0 and not memoryview(packet)[0] & 16


def stated_end(container: Any, stream: Any) -> Callable[[Fraction, Fraction], Fraction]:
    """What a file says about its end; for files that state no number of frames.

    Args:
        container: Opened with PyAV.
        stream: Its video stream.

    Returns:
        A function: times of the first frame and of the last one's end, in seconds -> by how many seconds the video
        stops before the duration that the file states; 0 where it states nothing or the difference may have another
        cause.
    """
    frame = 1 / Fraction(stream.average_rate or 25)
    stated, slack = Fraction(container.duration or 0, 1_000_000), frame / 2 + Fraction(1, 100)
    found = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # of a Matroska track
    if found is not None:
        stated = min(stated, 3600 * int(found[1]) + 60 * int(found[2]) + Fraction(found[3]))
    elif len(container.streams) > 1:
        slack = Fraction(2)  # a longer sound track may be what the duration measures

    def missing(first: Fraction, end: Fraction) -> Fraction:
        short = stated - max(end, end - first)
        return short if short > slack else Fraction(0)

    return missing


@dataclass(frozen=True)
class Picture:
    """A decoded frame.

    Attributes:
        frame: PyAV's frame.
        index: Its number, from 0; lost frames are counted where the container holds the time of each.
        spoilt: Whether it is damaged or depends on what was damaged or lost.
    """

    frame: Any
    index: int
    spoilt: bool


class Pictures:
    """Decodes a stream; a packet that cannot be decoded is passed over, a broken end ends.

    Attributes:
        damaged: Whether anything was lost or damaged so far.
    """

    def __init__(self, container: Any, stream: Any, holes: Sequence[int] = ()) -> None:
        """Set up the decoder; nothing is read.

        Args:
            container: Opened with PyAV.
            stream: Its video stream, not decoded yet.
            holes: Offsets in the file in front of which packets are missing, in ascending order.
        """
        stream.thread_type = "AUTO"  # not for speed alone: with slice threads H.264 reports no errors
        stream.codec_context.options = STRICT
        self.damaged = False
        self._container, self._stream, self._holes = container, stream, deque(holes)
        self._timed = timed(container)
        self._count = 0  # of packets so far
        self._waiting: dict[int, int] = {}  # time -> number of the packet, in order of decoding, not shown yet
        self._hurt: list[int] = []  # numbers of packets that were lost or damaged, ascending
        self._keys: deque[tuple[int, int]] = deque(maxlen=64)  # number and time of key frames
        self._held: deque[tuple[Any, int, int]] = deque()  # frame, number of its packet, index
        self._next = 0  # index of the next frame
        self._shown: int | None = None  # time of the last frame
        self._given_up: set[int] = set()  # times of frames that were missed, and counted

    def __iter__(self) -> Iterator[Picture]:
        """Decode.

        Yields:
            The frames, later than they are decoded by as much as is needed to judge them.
        """
        import av

        packets = self._container.demux(self._stream)
        packet: Any = True
        while packet is not None:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, ValueError):
                self.damaged, packet = True, None
            if packet is not None:
                self._note(packet)
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, ValueError):
                frames, self.damaged = [], True
                if packet is None or packet.pts not in self._waiting:  # else it will be missed when its time has passed
                    self._hurt_by(self._count)
            for frame in frames:
                if frame.pts in self._given_up:  # after frames that are shown later; damage does that
                    continue
                number = self._number(frame)
                self._held.append((frame, number, self._next))
                self._next += 1
            yield from self._judged()
        # What no frame came of by now was lost.
        late = [number for time, number in self._waiting.items() if self._shown is None or time > self._shown]
        self._waiting.clear()
        self.damaged |= bool(late)
        yield from self._judged()

    def _note(self, packet: Any) -> None:
        if not packet.size:
            return
        self._count += 1
        if self._timed and packet.pts is not None and not packet.is_discard and not hidden(packet, self._stream):
            self._waiting[packet.pts] = self._count
        while self._holes and packet.pos is not None and packet.pos >= self._holes[0]:
            self._holes.popleft()
            self._hurt_by(self._count - 1)
            self._hurt_by(self._count)
        if packet.is_corrupt:
            self._hurt_by(self._count)

    def _number(self, frame: Any) -> int:
        """Which packet a frame came of; those that should have come before it and did not were lost."""
        number = self._waiting.pop(frame.pts, None)
        if number is None:  # no times, or none that can be relied on
            number = self._count
        else:
            first = self._shown is None
            for time in [t for t in self._waiting if t < frame.pts]:
                lost = self._waiting.pop(time)
                if not first:  # a recording may begin between two key frames
                    self._hurt_by(lost)
                    self._next += 1
                    self._given_up.add(time)
        self._shown = frame.pts if self._shown is None or frame.pts is None else max(self._shown, frame.pts)
        if frame.is_corrupt:
            self._hurt_by(number)
        if frame.key_frame and frame.pts is not None:
            self._keys.append((number, frame.pts))
        elif frame.key_frame:
            self._keys.append((number, -1))
        return number

    def _hurt_by(self, number: int) -> None:
        self.damaged = True
        bisect.insort(self._hurt, number)
        del self._hurt[:-1024]

    def _judged(self) -> Iterator[Picture]:
        """Frames for which every packet that was decoded before them is accounted for."""
        while self._held:
            frame, number, index = self._held[0]
            if len(self._held) <= MOST_HELD and any(other < number for other in self._waiting.values()):
                return
            self._held.popleft()
            yield Picture(frame, index, self._spoilt(frame, number))

    def _spoilt(self, frame: Any, number: int) -> bool:
        before = bisect.bisect_right(self._hurt, number)
        if not before:
            return False
        hurt = self._hurt[before - 1]
        # A key frame ends the damage, except for frames that are shown before it: they may look back behind it.
        return not any(hurt < key <= number and (frame.pts is None or time <= frame.pts) for key, time in self._keys)
