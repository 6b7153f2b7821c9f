"""Stretches of videos: which frames a part answers for, and how they are reached without decoding what comes before.

Frames are known by their numbers, which only reading from the beginning gives for certain. Where a container holds the
time of each frame, and nothing is missing in it, the times of its packets give the same numbers, and decoding begins at
the last key frame before the first frame that is needed. Where that is not so, or the decoder then does not give every
frame, the video is decoded from its beginning. Neither reads on far behind the last frame that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from iccld_cli.containers import cut_off, holes
from iccld_cli.decoding import MOST_HELD, Pictures, hidden, indexed
from iccld_cli.errors import IccldError
from iccld_cli.inference.video import Choose, VideoFrame, VideoReader, openable, pixels_of, upright


@dataclass(frozen=True)
class Span:
    """Frames of a video, by their numbers in the file.

    Attributes:
        first: The first frame; None for the video's first.
        last: The first frame behind it; None for all frames up to the end.
    """

    first: int | None = None
    last: int | None = None

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        return (self.first is None or number >= self.first) and (self.last is None or number < self.last)


class Inexact(Exception):
    """What was decoded from a key frame on is not what decoding from the beginning gives."""


class SpanReader(VideoReader):
    """A `VideoReader` that need not hand out the first frames.

    Attributes:
        needed: Number of the first frame that has to be right.
        last: Number of the first frame behind those that are wanted; None for all up to the end.
        end: Time of the first frame behind those that are wanted, in seconds since the video's first frame; None for
            any.
        sought: Whether decoding begins at a key frame.
    """

    def __init__(self, path: Path | str, seek: bool = True) -> None:
        """Open a video.

        Args:
            path: The file.
            seek: Whether decoding may begin at a key frame.

        Raises:
            IccldError: See `VideoReader`.
        """
        super().__init__(path)
        self.needed = 0
        self.last: int | None = None
        self.end: Fraction | None = None
        self._may_seek = seek
        self.sought = False

    @property
    def damaged(self) -> bool:
        """Whether anything was lost or damaged in what was decoded."""
        return self._damaged

    def frames(self, choose: Choose | None = None) -> Iterator[VideoFrame]:
        """Decode frame by frame, see `VideoReader.frames`.

        `choose` is asked about every frame, in order; of those before `needed` it should take none, and it should end
        at `last` and at `end`: what follows is not read, so that nobody knows whether it is there.

        Raises:
            Inexact: A frame from `needed` on did not come as it should. What was handed out does not count; open the
                video again with `seek=False`.
        """
        wanted = self._may_seek and self.needed > 0 and choose is not None
        table = _table(self.path, self.last, self.end) if wanted else None
        key = 0 if table is None else max((number for number in table.keys if number <= self.needed), default=0)
        if table is None or choose is None or key == 0:
            yield from super().frames(choose)
            return
        self.sought = True
        yield from self._from_key(choose, table, key)

    def missing(self) -> int:
        """See `VideoReader.missing`; of a sound file that was not read from its beginning, 0."""
        return 0 if self.sought else super().missing()

    def _from_key(self, choose: Choose, table: _Table, key: int) -> Iterator[VideoFrame]:
        times, size = table.times, table.size
        base = Fraction(self._stream.time_base or 1)
        number_of = {time: number for number, time in enumerate(times)}

        def told(number: int) -> Fraction:
            return (times[number] - times[0]) * base

        expected = min(self.needed, len(times))
        for number in range(expected):
            if choose(number, told(number)) == "end":
                self.stopped = True
                return
        self._container.seek(times[key], stream=self._stream)
        for picture in Pictures(self._container, self._stream):
            frame = picture.frame
            number = number_of.get(frame.pts, -1)
            if 0 <= number < self.needed:
                continue
            if number != expected or frame.is_corrupt:
                raise Inexact
            expected += 1
            self.turned = round(frame.rotation / 90) % 2 == 1
            choice = choose(number, told(number))
            if choice == "end":
                self.stopped = True
                return
            if choice == "take":
                image = pixels_of(frame, {"width": size[0], "height": size[1]})
                yield VideoFrame(number, told(number), upright(image, frame.rotation))
        if expected != len(times) or not table.whole:
            raise Inexact


@dataclass(frozen=True)
class _Table:
    """Frames of a sound video, as its packets tell them.

    Attributes:
        times: Of the frames that are certain: when each is shown, ascending, in units of the stream.
        keys: Numbers of the key frames among them.
        size: (width, height) of the first frame.
        whole: Whether these are all frames of the file.
    """

    times: list[int]
    keys: list[int]
    size: tuple[int, int]
    whole: bool


def _table(path: Path, last: int | None = None, end: Fraction | None = None) -> _Table | None:
    """The frames of a sound video, up to the frame number `last` and the first one at the time `end` in seconds.

    None where reading from the beginning may give other numbers or times.
    """
    import av

    times: list[int] = []
    keys: list[int] = []
    first = late = 0  # the least time, and the packets in a row that are late enough
    whole, announced, place = True, 0, None
    try:
        if cut_off(path):
            return None
        with av.open(openable(path)) as container:
            if not indexed(container):
                return None
            stream = container.streams.video[0]
            announced, base = stream.frames, Fraction(stream.time_base or 1)
            for packet in container.demux(stream):
                if not packet.size or hidden(packet, stream):
                    continue
                if packet.is_corrupt or packet.is_discard or packet.pts is None:
                    return None
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                first = min(first, packet.pts) if len(times) > 1 else packet.pts
                late = late + 1 if end is not None and (packet.pts - first) * base >= end else 0
                # Frames are shown at most so many after those that are stored behind them.
                if late > MOST_HELD or (last is not None and len(times) > last + MOST_HELD):
                    whole, place = False, packet.pos
                    break
        if holes(path, place):
            return None
        if not times or times[0] != min(times) or keys[:1] != times[:1]:
            return None
        if whole and announced not in (0, len(times)):
            return None
        shown = sorted(times)
        number_of = {time: number for number, time in enumerate(shown)}
        if len(number_of) != len(shown):
            return None
        with av.open(openable(path)) as container:
            frame = next(iter(Pictures(container, container.streams.video[0]))).frame
        if frame.is_corrupt or frame.pts != shown[0]:
            return None
        certain = len(shown) if whole else len(shown) - MOST_HELD
        found = [number_of[time] for time in keys]
        return _Table(shown[:certain], [n for n in found if n < certain], (frame.width, frame.height), whole)
    except (av.error.FFmpegError, ValueError, IndexError, OSError, StopIteration, IccldError):
        return None
