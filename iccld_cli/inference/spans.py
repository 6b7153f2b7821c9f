"""Stretches of videos: which frames a part answers for, and how they are reached without decoding what comes before.

Frames are known by their numbers, which only reading from the beginning gives for certain. Where a container holds the
time of each frame, and nothing is missing in it, the times of its packets give the same numbers, and decoding begins at
the last key frame before the first frame that is needed. Where that is not so, or the decoder then does not give every
frame, the video is decoded from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from iccld_cli.containers import cut_off, holes
from iccld_cli.decoding import Pictures, hidden
from iccld_cli.errors import IccldError
from iccld_cli.inference.video import Choose, VideoFrame, VideoReader, openable, upright

_SOUGHT = frozenset({"mov", "matroska"})
"""Containers with an index of their frames; seeking in the others lands anywhere."""


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
        self._may_seek = seek
        self.sought = False

    @property
    def damaged(self) -> bool:
        """Whether anything was lost or damaged in what was decoded."""
        return self._damaged

    def frames(self, choose: Choose | None = None) -> Iterator[VideoFrame]:
        """Decode frame by frame, see `VideoReader.frames`.

        `choose` is asked about every frame, in order; of those before `needed` it should take none.

        Raises:
            Inexact: A frame from `needed` on did not come as it should. What was handed out does not count; open the
                video again with `seek=False`.
        """
        table = _table(self.path) if self._may_seek and self.needed > 0 else None
        if table is None or choose is None:
            yield from super().frames(choose)
            return
        times, keys, size = table
        key = max((number for number in keys if number <= self.needed), default=0)
        if key == 0:
            yield from super().frames(choose)
            return
        self.sought = True
        yield from self._from_key(choose, times, key, size)

    def missing(self) -> int:
        """See `VideoReader.missing`; of a sound file that was not read from its beginning, 0."""
        return 0 if self.sought else super().missing()

    def _from_key(self, choose: Choose, times: list[int], key: int, size: tuple[int, int]) -> Iterator[VideoFrame]:
        base = Fraction(self._stream.time_base or 1)
        number_of = {time: number for number, time in enumerate(times)}

        def told(number: int) -> Fraction:
            return (times[number] - times[0]) * base

        for number in range(self.needed):
            if choose(number, told(number)) == "end":
                self.stopped = True
                return
        self._container.seek(times[key], stream=self._stream)
        expected = self.needed
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
                image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                yield VideoFrame(number, told(number), upright(image, frame.rotation))
        if expected != len(times):
            raise Inexact


def _table(path: Path) -> tuple[list[int], list[int], tuple[int, int]] | None:
    """Of a sound video: the times of its frames in order, the numbers of its key frames, and (width, height).

    None where reading from the beginning may give other numbers or times.
    """
    import av

    times: list[int] = []
    keys: list[int] = []
    try:
        if holes(path) or cut_off(path):
            return None
        with av.open(openable(path)) as container:
            if _SOUGHT.isdisjoint(container.format.name.split(",")):
                return None
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if not packet.size or hidden(packet, stream):
                    continue
                if packet.is_corrupt or packet.is_discard or packet.pts is None:
                    return None
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
            announced = stream.frames
        if not times or times[0] != min(times) or keys[:1] != times[:1] or announced not in (0, len(times)):
            return None
        shown = sorted(times)
        number_of = {time: number for number, time in enumerate(shown)}
        if len(number_of) != len(shown):
            return None
        with av.open(openable(path)) as container:
            frame = next(iter(Pictures(container, container.streams.video[0]))).frame
        if frame.is_corrupt or frame.pts != shown[0]:
            return None
        return shown, [number_of[time] for time in keys], (frame.width, frame.height)
    except (av.error.FFmpegError, ValueError, IndexError, OSError, StopIteration, IccldError):
        return None
