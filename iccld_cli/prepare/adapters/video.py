"""Own video: frames at a chosen rate, unlabelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import RawFrame

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
            path: The file.
            fps: Frames per second to take; every frame when the video has fewer.

        Raises:
            IccldError: There is no such file.
        """
        self.path, self.fps = path.absolute(), fps
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

        Raises:
            IccldError: The file is no video, or it announces more frames than it holds.
        """
        import av

        container, stream = self._open()
        times, cut = [], 0
        with container:
            try:
                for packet in container.demux(stream):
                    time = packet.pts if packet.pts is not None else packet.dts
                    if packet.is_discard:
                        cut += 1  # what an edit list cuts away is in the file but never decoded
                    elif packet.size and time is not None:
                        times.append(time)
            except av.error.FFmpegError as error:
                raise IccldError(f"{self.path} is damaged ({error.strerror})", _HINT) from None
            announced, base, rate = stream.frames - cut, stream.time_base, float(stream.average_rate or 25)
        times.sort()
        due = 0.0
        for number in range(max(announced, len(times))):
            # Frames that are announced but not there are listed too, so that their absence is noticed.
            at = float((times[number] - times[0]) * base) if number < len(times) else number / rate
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
        number, reason = -1, "is missing, the video ends before it"
        try:
            for number, (image, corrupt) in enumerate(self._decode()):
                if number == _number(wanted):
                    yield wanted, "is corrupt" if corrupt else _upright(image)
                    wanted = next(pending, None)
                    if wanted is None:
                        return
        except _DamagedError as error:
            reason = f"cannot be decoded ({error})"
        while wanted is not None:
            yield wanted, reason
            wanted = next(pending, None)

    def _decode(self) -> Iterator[tuple[Any, bool]]:
        import av

        container, stream = self._open()
        with container:
            try:
                for image in container.decode(stream):
                    yield image, bool(image.is_corrupt)
            except av.error.FFmpegError as error:
                raise _DamagedError(error.strerror) from None

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


class _DamagedError(Exception):
    pass


def _number(frame: RawFrame) -> int:
    return int(frame.image.removeprefix("frame "))


def _upright(image: Any) -> np.ndarray:
    """RGB pixels with the container's rotation applied, which decoders leave to the player."""
    import numpy as np

    pixels = image.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(image.rotation / 90) % 4))
