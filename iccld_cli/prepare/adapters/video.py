"""Own video: frames at a chosen rate, unlabelled."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import RawFrame

if TYPE_CHECKING:
    import numpy as np

_TIMED = {"mov", "matroska", "flv"}  # hold the time of each frame; FFmpeg guesses those of AVI and raw streams
_HINT = "play it to check, or re-encode it with ffmpeg"


class Video:
    """A video file. It has an adapter's methods; its frames are decoded in order by the parent process."""

    name = "video"
    label_space: LabelSpace = CITYSCAPES
    covers: Mapping[str, str] = {}

    def __init__(self, path: Path, fps: float) -> None:
        """Open a video.

        Args:
            path: The file.
            fps: Frames per second to take; every frame when the video has fewer.

        Raises:
            IccldError: There is no such file.
        """
        self.path, self.fps = path.absolute(), fps
        self._numbers: dict[int, int] = {}  # time stamp -> number of the frame
        if not self.path.is_file():
            raise IccldError(f"no video at {self.path}", "check the path")

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
        stream.thread_type = "AUTO"
        return container, stream

    def scan(self) -> Iterator[RawFrame]:
        """List the frames to take, from the packets' time stamps alone (nothing is decoded).

        Frames that the file announces, by number or by duration, and does not hold are listed too, so that their
        absence is noticed.

        Raises:
            IccldError: The file is no video, or is damaged where its packets are listed.
        """
        import av

        container, stream = self._open()
        times, cut, end = [], 0, Fraction(0)
        with container:
            base, rate = Fraction(stream.time_base or 1), Fraction(stream.average_rate or 25)
            timed = not _TIMED.isdisjoint(container.format.name.split(","))
            try:
                for packet in container.demux(stream):
                    time = packet.pts if packet.pts is not None else packet.dts
                    if packet.is_discard:
                        cut += 1  # what an edit list cuts away is in the file but never decoded
                    elif packet.size and time is not None:
                        times.append(time)
                        timed &= packet.pts is not None
                        end = max(end, time * base + (packet.duration * base if packet.duration else 1 / rate))
            except av.error.FFmpegError as error:
                raise IccldError(f"{self.path} is damaged ({error.strerror})", _HINT) from None
            times.sort()
            # Where every frame has a time of its own, frames are told by it: what a decoder drops shifts no number.
            self._numbers = {time: i for i, time in enumerate(times)} if timed and len(set(times)) == len(times) else {}
            short = Fraction(0) if stream.frames or not times else missing_end(container, stream, times[0] * base, end)
            announced = stream.frames - cut if stream.frames else len(times) + round(short * rate)
        due = 0.0
        for number in range(max(announced, len(times))):
            at = float((times[number] - times[0]) * base) if number < len(times) else number / float(rate)
            if at >= due - 1e-6:
                due = max(due + 1 / self.fps, at + 1e-9)
                yield RawFrame("train", f"{self.path.stem}_{number:06d}", f"frame {number}", None)

    def stamp(self, frame: RawFrame) -> tuple[str, str]:
        """Size and modification time of the file."""
        stat = self.path.stat()
        return str(stat.st_size), f"{stat.st_size},{stat.st_mtime_ns}"

    def stream(self, pending: Iterator[RawFrame]) -> Iterator[tuple[RawFrame, Any]]:
        """Decode the video once and hand out the frames that are wanted."""
        wanted = next(pending, None)
        if wanted is None:
            return
        reached, spoilt = -1, False
        for image in self._decode():
            number = self._numbers.get(image.pts, reached + 1)
            # Frames are predicted from earlier ones: what was lost spoils all that follow up to the next whole picture.
            spoilt = bool(image.is_corrupt or ((spoilt or number > reached + 1) and not image.key_frame))
            while number > _number(wanted):
                yield wanted, "cannot be decoded"
                wanted = next(pending, None)
                if wanted is None:
                    return
            if number == _number(wanted):
                yield wanted, ("is corrupt, or follows a frame that is" if spoilt else _upright(image))
                wanted = next(pending, None)
                if wanted is None:
                    return
            reached = number
        while wanted is not None:
            known = self._numbers and _number(wanted) < len(self._numbers)
            yield wanted, "cannot be decoded" if known else "is missing, the video ends before it"
            wanted = next(pending, None)

    def _decode(self) -> Iterator[Any]:
        """Frames of all packets; a packet that cannot be decoded is passed over, a broken end ends."""
        import av

        container, stream = self._open()
        with container:
            packets = container.demux(stream)
            packet: Any = True
            while packet is not None:
                try:
                    packet = next(packets, None)
                except (av.error.FFmpegError, ValueError):
                    packet = None
                with contextlib.suppress(av.error.FFmpegError, ValueError):
                    yield from stream.decode(packet)

    def load(self, frame: RawFrame) -> tuple[np.ndarray, None]:
        """Never called: `stream` hands out every frame decoded."""
        raise NotImplementedError

    def classes_known(self) -> tuple[str, ...] | None:
        """Nothing is known without labels."""
        return None

    def findings(self) -> dict[str, Any]:
        """Nothing to report."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        return {"adapter": self.name, "path": str(self.path), "options": {"fps": self.fps}}


def missing_end(container: Any, stream: Any, first: Fraction, end: Fraction) -> Fraction:
    """By how much a video stops before the duration that its file states; for files that state no number of frames.

    Args:
        container: Opened with PyAV.
        stream: Its video stream.
        first: Time of the first frame in seconds.
        end: End of the last one.

    Returns:
        Seconds; 0 where the file states nothing or the difference may have another cause.
    """
    frame = 1 / Fraction(stream.average_rate or 25)
    stated, slack = Fraction(container.duration or 0, 1_000_000), frame / 2 + Fraction(1, 100)
    found = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # of a Matroska track
    if found is not None:
        stated = min(stated, 3600 * int(found[1]) + 60 * int(found[2]) + Fraction(found[3]))
    elif len(container.streams) > 1:
        slack = Fraction(2)  # a longer sound track may be what the duration measures
    short = stated - max(end, end - first)
    return short if short > slack else Fraction(0)


def _number(frame: RawFrame) -> int:
    return int(frame.image.removeprefix("frame "))


def _upright(image: Any) -> np.ndarray:
    """RGB pixels with the container's rotation applied, which decoders leave to the player."""
    import numpy as np

    pixels = image.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(image.rotation / 90) % 4))
