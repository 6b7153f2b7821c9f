"""Videos in, H.264 videos out, frame by frame with constant memory.

FFmpeg does not raise on a video that is cut off; it just ends early. The reader therefore compares what it
decoded with what the file announces, and leaves it to the caller what to do about the difference.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iccld_cli.containers import cut_off, holes
from iccld_cli.decoding import MOST_HELD, Pictures, hidden, stated_end
from iccld_cli.errors import IccldError
from iccld_cli.inference.images import MAX_PIXELS
from iccld_cli.inference.joining import BASE, DecodingTimes

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp"}
)
MAX_SIDE = 16384  # libx264's limit
DEFAULT_FPS = Fraction(25)
BT709 = 1  # the number of this standard in H.264's colour fields


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame.

    Attributes:
        index: Number of the frame, from 0; corrupt ones are counted, and lost ones where the file's times show them.
        time: Seconds since the first frame.
        image: uint8 (H, W, 3), RGB, upright.
        arrived: Of a live source, when it came, by `time.monotonic`.
    """

    index: int
    time: Fraction
    image: np.ndarray
    arrived: float | None = None


Choose = Callable[[int, Fraction], Literal["take", "skip", "end"]]
"""What to do with a frame, by its number and its time in seconds since the first; after `end` there are no more."""


class VideoReader:
    """Decodes the first video stream of a file.

    Attributes:
        path: The file.
        fps: Average frames per second.
        announced: Number of frames the file claims to hold, estimated from its duration where it does not
            say; 0 when it says neither.
        sample_aspect_ratio: Width of a stored pixel by its height, before rotation; 1 for nearly all videos.
        decoded: Number of frames decoded so far.
        stopped: Whether `frames` ended because it was told so.
        turned: Whether frames are turned by a quarter; known after the first.
    """

    def __init__(self, path: Path | str, file: Any = None) -> None:
        """Open a video.

        Args:
            path: The file.
            file: Its content, of what is no local file: a file to read and seek in, whose header alone is looked at.

        Raises:
            IccldError: The file is missing, is no video or is damaged beyond opening.
        """
        import av

        self.path = Path(path)
        if file is None and not self.path.is_file():
            raise IccldError(f"no video at {self.path}")
        try:
            self._container = av.open(openable(self.path) if file is None else file)
        except (av.error.FFmpegError, ValueError) as error:
            raise IccldError(
                f"{self.path} is not a video that can be read ({_reason(error)})",
                "play it to check; a recording that was cut off may lack its index",
            ) from None
        if not self._container.streams.video:
            self._container.close()
            raise IccldError(f"{self.path} has no video stream")
        stream: Any = self._container.streams.video[0]
        if stream.codec_context is None:
            self._container.close()
            raise IccldError(f"{self.path} holds a video that this FFmpeg cannot decode", "re-encode it")
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            self._container.close()
            raise IccldError(f"{self.path} claims frames of more than {MAX_PIXELS // 1_000_000} million pixels")
        self._stream = stream
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        self._counted = bool(stream.frames)
        base = Fraction(stream.time_base or 0)
        self._start = Fraction(stream.start_time or 0) * base
        self._short = stated_end(self._container, stream)
        self._duration = Fraction(stream.duration or 0) * base or Fraction(self._container.duration or 0, 1_000_000)
        self.announced = int(stream.frames or round(float(self._duration * self.fps)))
        self.sample_aspect_ratio = Fraction(stream.sample_aspect_ratio or 1)
        self.decoded = 0
        self.stopped = False
        self.turned = False
        self._end: Fraction | None = None  # end of the last frame seen, on the stream's own clock
        self._damaged = False

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def container(self) -> Any:
        """PyAV's container, for whoever seeks in it instead of reading frames."""
        return self._container

    @property
    def stream(self) -> Any:
        """PyAV's video stream."""
        return self._stream

    def frames(self, choose: Choose | None = None) -> Iterator[VideoFrame]:
        """Decode frame by frame; frames that the decoder marks as corrupt are left out.

        A stream that breaks off ends the iteration without an error: see `missing`.

        Args:
            choose: Which frames to hand out; None for all.
        """
        first: Fraction | None = None
        size: dict[str, int] = {}
        previous = Fraction(-1)
        pictures = Pictures(self._container, self._stream, holes(self.path))
        for picture in pictures:
            self._damaged |= pictures.damaged
            frame, index = picture.frame, picture.index
            if frame.is_corrupt:
                continue
            stamp = None if frame.pts is None else frame.pts * frame.time_base
            first = stamp if first is None and stamp is not None else first
            time = Fraction(index) / self.fps if stamp is None else stamp - (first or 0)
            if time <= previous:  # broken clocks exist; the encoder needs time to move forward
                time = previous + 1 / (4 * self.fps)
            previous = time
            self._end = (time if stamp is None else stamp) + 1 / self.fps
            self.decoded += 1
            size = size or {"width": frame.width, "height": frame.height}  # some streams change it midway
            self.turned = round(frame.rotation / 90) % 2 == 1
            choice = "take" if choose is None else choose(index, time)
            if choice == "end":
                self.stopped = True
                return
            if choice == "skip":
                continue
            yield VideoFrame(index, time, upright(pixels_of(frame, size), frame.rotation))
        self._damaged |= pictures.damaged

    def missing(self) -> int:
        """After the last frame: how many of the announced frames could not be decoded.

        The count of the file's index alone does not prove a loss (an edit list hides frames on purpose), so
        the clock or the file's size has to fall short as well, unless the decoder complained.
        """
        lost = max(0, self.announced - self.decoded)
        if self._damaged:
            return max(1, lost)
        if self._end is None:
            return max(1, lost)
        if self._counted:
            short_clock = self._end - self._start < self._duration - 1 / self.fps - Fraction(1, 100)
            return lost if lost and (short_clock or cut_off(self.path)) else 0
        short = self._short(self._start, self._end)
        return max(1, round(short * self.fps)) if short or cut_off(self.path) else 0


_EQUAL_EACH_TIME = {"x264-params": "asm=ssse3"} if platform.machine().lower() in ("x86_64", "amd64") else {}
"""With its AVX2 code x264 (core 165) gives small frames other bits now and then, for the same input on one thread: up
to half of the videos of 96x64, 7 % of some of 200x160. Without it 360 of 360 were equal, in the same time and size."""


def frames_before(path: Path, seconds: Fraction) -> int | None:
    """How many frames of a video come before a time since its first frame; nothing is decoded, and no more is read.

    Returns:
        Their number; None where packets have no times.
    """
    import av

    times: list[int] = []
    first = late = 0  # the least time, and the packets in a row that are late enough
    try:
        with av.open(openable(path)) as container:
            stream = container.streams.video[0]
            base = Fraction(stream.time_base or 1)
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard or hidden(packet, stream):
                    continue
                if packet.pts is None:
                    return None
                times.append(packet.pts)
                first = min(first, packet.pts) if len(times) > 1 else packet.pts
                late = late + 1 if (packet.pts - first) * base >= seconds else 0
                if late > MOST_HELD:  # frames are shown at most so many after those that are stored behind them
                    break
    except (av.error.FFmpegError, ValueError, IndexError):
        pass  # as far as it can be read
    if not times:
        return None
    return sum((time - first) * base < seconds for time in times)


class VideoWriter:
    """Writes an H.264 MP4 that browsers play: yuv420p, index in front, BT.709 colours.

    Widths and heights that are odd are extended by one pixel, which yuv420p needs.
    """

    def __init__(
        self,
        path: Path | str,
        size: tuple[int, int],
        fps: Fraction,
        *,
        sample_aspect_ratio: Fraction = Fraction(1),
        crf: int = 21,
        preset: str = "veryfast",
    ) -> None:
        """Open a file for writing.

        Args:
            path: The file; its suffix must be `.mp4`.
            size: (width, height) of the images in pixels.
            fps: Average frames per second; each frame keeps its own time.
            sample_aspect_ratio: Width of a pixel by its height.
            crf: Quality of x264, lower is better.
            preset: Speed of x264.

        Raises:
            IccldError: This FFmpeg has no H.264 encoder, or it refuses the size.
        """
        import av

        self.size = size
        width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._fps = fps
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        try:
            if max(width, height) > MAX_SIDE:
                raise ValueError(f"no side may exceed {MAX_SIDE} pixels")
            # The nominal rate only; some files state a nonsensical one, which x264 would refuse.
            self._rate = fps.limit_denominator(1001) if 0 < fps <= 1000 else DEFAULT_FPS
            self._options = {"crf": str(crf), "preset": preset, **_EQUAL_EACH_TIME}
            stream: Any = self._container.add_stream("libx264", rate=self._rate, options=self._options)
            self._aspect = sample_aspect_ratio
            self._encoder = self._opened(stream.codec_context, width, height)
        except (av.error.FFmpegError, ValueError) as error:
            self._container.close()
            raise IccldError(
                f"cannot encode a {width}x{height} H.264 video ({_reason(error)})",
                "`iccld doctor` shows whether this machine has an encoder",
            ) from None
        self._stream = stream
        self._piece: int | None = None
        self._held: list[Any] = []  # packets of the piece
        self._times = DecodingTimes(round(1 / self._rate / BASE))

    def write(self, image: np.ndarray, time: Fraction, piece: int | None = None) -> None:
        """Append a frame.

        Args:
            image: uint8 (H, W, 3) RGB or (H, W) grey.
            time: Seconds since the start, later than that of the frame before.
            piece: The encoder begins anew where this changes, so that each piece is encoded the same whatever comes
                before it; None for all frames where that is not wanted.
        """
        import av

        if piece is not None and self._piece is not None and piece != self._piece:
            self._end_piece()
            context = av.CodecContext.create("libx264", "w")
            context.framerate, context.options = self._rate, self._options
            context.flags |= av.codec.context.Flags.global_header
            width, height = self._stream.width, self._stream.height
            self._encoder = self._opened(context, width, height)
        self._piece = piece
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        down, right = image.shape[0] % 2, image.shape[1] % 2
        if down or right:
            image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        frame: Any = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")  # not copied
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", **_one_thread())
        frame.pts, frame.time_base = round(time / BASE), BASE
        self._take(self._encoder.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        self._end_piece()
        self._container.close()

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        import av

        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()

    def _opened(self, context: Any, width: int, height: int) -> Any:
        """An encoder, ready to use."""
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = BASE
        context.sample_aspect_ratio = self._aspect
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.open()
        return context

    def _take(self, packets: list) -> None:
        if self._piece is None:
            self._mux(packets)
        else:
            self._held += packets

    def _end_piece(self) -> None:
        self._take(self._encoder.encode())
        held, self._held = self._held, []
        self._times.settle(held)
        self._mux(held)

    def _mux(self, packets: list) -> None:
        import av

        for packet in packets:
            packet.stream = self._stream
            if not packet.duration:  # without it the last frame would not last, and the video end one frame early
                packet.duration = round(1 / self._fps / packet.time_base)
            try:
                self._container.mux(packet)
            except av.error.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise OSError(errno.EIO, _reason(error)) from None


def openable(path: Path) -> Any:
    """What FFmpeg opens: the name, or the file itself where the name is not UTF-8, which FFmpeg insists on."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return open(path, "rb")  # closed with its last reference, which the container holds
    return str(path)


def pixels_of(frame: Any, size: dict[str, int]) -> np.ndarray:
    """PyAV's frame as uint8 (H, W, 3), RGB, of a `width` and `height`; of its own where there are none."""
    return np.asarray(frame.to_ndarray(format="rgb24", **size, **_one_thread()))


@functools.cache
def _one_thread() -> dict[str, int]:
    """For PyAV's conversions: since version 17 they start threads for each frame, which takes longer than the work."""
    import av

    return {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Turn a decoded frame the way a player would.

    Args:
        image: uint8 (H, W, 3).
        rotation: Degrees counter-clockwise that the file asks for.
    """
    quarter_turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def check_encoder() -> str | None:
    """Encode and decode two frames in memory.

    Returns:
        None when H.264 works, else the reason why it does not.
    """
    import io

    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as out:
            stream: Any = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for value in (40, 200):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        buffer.seek(0)
        with av.open(buffer) as back:
            levels = [frame.to_ndarray(format="rgb24").mean() for frame in back.decode(video=0)]
    except (av.error.FFmpegError, ValueError) as error:
        return _reason(error)
    if len(levels) != 2 or abs(levels[0] - 40) > 8 or abs(levels[1] - 200) > 8:
        return f"two frames went in, and {len(levels)} of other brightness came out"
    return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
