"""Own video: frames at a chosen rate, unlabelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli import storage
from iccld_cli.containers import cut_off, holes
from iccld_cli.decoding import Pictures, hidden, indexed, stated_end, timed
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import FileProblem, RawFrame

if TYPE_CHECKING:
    import numpy as np

_HINT = "play it to check, or re-encode it with ffmpeg"


class Video:
    """A video file. It has an adapter's methods; its frames are decoded in order by the parent process."""

    name = "video"
    label_space: LabelSpace = CITYSCAPES
    covers: Mapping[str, str] = {}

    def __init__(self, path: Path, fps: float) -> None:
        """Open a video.

        Args:
            path: The file; of what lies in object storage, its address, and `fetch` must be called.
            fps: Frames per second to take; every frame when the video has fewer.

        Raises:
            IccldError: There is no such file.
        """
        self.url, self.fps = storage.url_of(path), fps
        self.path = path.absolute()
        self._numbers: dict[int, int] = {}  # time stamp -> number of the frame
        self._holes: list[int] = []  # where packets of a transport stream are missing
        self._keys: list[tuple[int, int]] = []  # number and time stamp of key frames, where decoding may begin at them
        self._mark: int | None = None
        if self.url is not None:
            found = storage.entry(self.url)
            if found is None:
                raise IccldError(f"no video at {storage.shown_address(self.url)}", "check the bucket and the name")
            self._mark = found.mark
        elif not self.path.is_file():
            raise IccldError(f"no video at {self.path}", "check the path")

    def fetch(self, scratch: Path) -> None:
        """Fetch the file, where it lies in object storage."""
        if self.url is not None:
            self.path = scratch / storage.name_below(self.url)
            if not self.path.exists():
                storage.fetch(self.url, self.path)

    def _open(self) -> Any:
        import av

        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise IccldError(f"{self.path} cannot be opened as a video ({error.strerror})", _HINT) from None
        if not container.streams.video:
            container.close()
            raise IccldError(f"{self.path} has no video stream", "give a video file")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            container.close()
            raise IccldError(f"{self.path} holds a video that this FFmpeg cannot decode", _HINT)
        return container, stream

    def scan(self) -> Iterator[RawFrame]:
        """List the frames to take, from the packets' time stamps alone (nothing is decoded).

        Frames that the file announces, by number or by duration, and does not hold are listed too, so that their
        absence is noticed.

        Raises:
            IccldError: The file is no video, or is damaged where its packets are listed.
        """
        import av

        self._holes = holes(self.path)
        container, stream = self._open()
        times, keys, cut, end = [], [], 0, Fraction(0)
        with container:
            base, rate = Fraction(stream.time_base or 1), Fraction(stream.average_rate or 25)
            distinct = timed(container)
            try:
                for packet in container.demux(stream):
                    time = packet.pts if packet.pts is not None else packet.dts
                    if packet.is_discard:
                        cut += 1  # what an edit list cuts away is in the file but never decoded
                    elif packet.size and time is not None and not hidden(packet, stream):
                        times.append(time)
                        if packet.is_keyframe:
                            keys.append(time)
                        distinct &= packet.pts is not None
                        end = max(end, time * base + (packet.duration * base if packet.duration else 1 / rate))
            except av.error.FFmpegError as error:
                raise IccldError(f"{self.path} is damaged ({error.strerror})", _HINT) from None
            times.sort()
            # Where each frame has its own time, it gives the number: frames that the decoder drops shift no number.
            self._numbers = (
                {time: i for i, time in enumerate(times)} if distinct and len(set(times)) == len(times) else {}
            )
            if not self._holes and not cut and indexed(container):
                self._keys = sorted((self._numbers[time], time) for time in keys if time in self._numbers)
            short = Fraction(0) if stream.frames or not times else stated_end(container, stream)(times[0] * base, end)
            announced = stream.frames - cut if stream.frames else len(times) + round(short * rate)
            if announced <= len(times) and not stream.frames and cut_off(self.path):
                announced = len(times) + 1  # it is not known how many are missing
        due, listed = 0.0, -1
        total = max(announced, len(times))
        digits = max(6, len(str(total - 1)))  # names are sorted as the frames are
        for number in range(total):
            at = float((times[number] - times[0]) * base) if number < len(times) else number / float(rate)
            untold = len(times) <= number == announced - 1 and listed < len(times)  # that some are missing
            if at >= due - 1e-6 or untold:
                due, listed = max(due + 1 / self.fps, at + 1e-9), number
                yield RawFrame("train", f"{self.path.stem}_{number:0{digits}d}", f"frame {number}", None)

    def stamp(self, frame: RawFrame) -> tuple[str, str]:
        """Size and modification time of the file."""
        stat = self.path.stat()
        return str(stat.st_size), f"{stat.st_size},{stat.st_mtime_ns if self._mark is None else self._mark}"

    def stream(self, pending: Iterator[RawFrame]) -> Iterator[tuple[RawFrame, Any]]:
        """Decode the video and hand out the frames that are wanted.

        A run that begins late in the video, as a part does, begins at a key frame; should a frame not come as it
        should from there, at the video's beginning.
        """
        wanted = next(pending, None)
        seek = wanted is not None and len([1 for number, _ in self._keys if number <= _number(wanted)]) > 1
        while wanted is not None:
            reached = -1
            container, stream = self._open()
            with container:
                # Not at the last key frame: what comes behind one may look back behind it, and spoil the rest.
                if seek:
                    before = [time for number, time in self._keys if number <= _number(wanted)]
                    container.seek(before[-2], stream=stream)
                for picture in Pictures(container, stream, self._holes):
                    number = self._numbers.get(picture.frame.pts, reached + 1)
                    if seek and (number > _number(wanted) or (number == _number(wanted) and picture.spoilt)):
                        break
                    while number > _number(wanted):
                        yield wanted, "cannot be decoded"
                        wanted = next(pending, None)
                        if wanted is None:
                            return
                    if number == _number(wanted):
                        spoilt = "is damaged, or follows a frame that is"
                        yield wanted, (spoilt if picture.spoilt else _upright(picture.frame))
                        wanted = next(pending, None)
                        if wanted is None:
                            return
                    reached = number
            if not seek:
                break
            seek = False
        while wanted is not None:
            known = self._numbers and _number(wanted) < len(self._numbers)
            yield wanted, "cannot be decoded" if known else "is missing, the video ends before it"
            wanted = next(pending, None)

    def load(self, frame: RawFrame) -> tuple[np.ndarray, None]:
        """Decode one frame; `stream` decodes many at the cost of one pass.

        Raises:
            FileProblem: It cannot be decoded.
        """
        ((_, found),) = self.stream(iter([frame]))
        if isinstance(found, str):
            raise FileProblem(frame.image, found)
        return found, None

    def classes_known(self) -> tuple[str, ...] | None:
        """Nothing is known without labels."""
        return None

    def findings(self) -> dict[str, Any]:
        """Nothing to report."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        place = str(self.path) if self.url is None else storage.shown_address(self.url)
        return {"adapter": self.name, "path": place, "options": {"fps": self.fps}}


def _number(frame: RawFrame) -> int:
    return int(frame.image.removeprefix("frame "))


def _upright(image: Any) -> np.ndarray:
    """RGB pixels with the container's rotation applied, which decoders leave to the player."""
    import numpy as np

    pixels = image.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(image.rotation / 90) % 4))
