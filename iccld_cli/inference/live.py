"""Streams and cameras, read while they run.

A background thread reads as fast as the source sends and keeps the newest frame alone: whoever is slower than the
source gets fewer frames, not older ones. A source that breaks off is opened again a bounded number of times.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from iccld_cli.errors import IccldError
from iccld_cli.inference.images import MAX_PIXELS
from iccld_cli.inference.remote import PAUSES, TIMEOUT, shown_url
from iccld_cli.inference.video import DEFAULT_FPS, Choose, VideoFrame, pixels_of, upright

_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto,rtmp,rtmps,rtmpt,srt,data"
"""What FFmpeg may open on behalf of a stream: no file of this machine."""


@dataclass
class _Slot:
    """The newest frame that nobody took yet: what makes its pixels, its number, seconds since the first, arrival."""

    pixels: Callable[[], np.ndarray]
    index: int
    time: Fraction
    arrived: float


class LiveReader:
    """Reads a stream or a camera; the same interface as `VideoReader`.

    Attributes:
        fps: Frames a second that the source states, 25 where it states none.
        sample_aspect_ratio: Width of a pixel by its height.
        announced: 0: nobody knows how many frames there will be.
        decoded: Frames that were handed out.
        received: Frames that the source sent, those included that a newer one replaced.
        turned: Never.
        stopped: Whether `frames` ended because it was told so.
        problem: What ended it, where that was no end of the stream.
    """

    announced = 0
    turned = False

    def __init__(
        self,
        source: str | int,
        tell: Callable[[str], None] = lambda line: None,
        options: dict[str, str] | None = None,
    ) -> None:
        """Open a source and begin to read it.

        Args:
            source: An address that FFmpeg reads, or the number of a camera.
            tell: Called with a line when the source breaks off and is opened again.
            options: FFmpeg's own, besides those that are set here.

        Raises:
            IccldError: It cannot be opened in the tries that are made.
        """
        self.source, self.tell = source, tell
        self._options = {"protocol_whitelist": _PROTOCOLS, **(options or {})}
        self.where = f"camera {source}" if isinstance(source, int) else shown_url(source)
        self.sample_aspect_ratio, self.fps = Fraction(1), Fraction(DEFAULT_FPS)
        self.decoded = self.received = 0
        self.stopped = False
        self.problem: IccldError | None = None
        self._news = threading.Condition()
        self._slot: _Slot | None = None
        self._ended = self._closed = False
        self._began: float | None = None
        opened = self._open_again(0, "")
        self._thread = threading.Thread(target=self._work, args=(opened,), daemon=True, name="iccld-live")
        self._choose: Choose | None = None
        self._started = False

    def __enter__(self) -> LiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._started:
            self._thread.join(2 * TIMEOUT)

    def frames(self, choose: Choose | None = None) -> Iterator[VideoFrame]:
        """The newest frame, whenever one is asked for.

        Args:
            choose: See `VideoReader.frames`; asked for every frame that the source sends.
        """
        self._choose, self._started = choose, True
        self._thread.start()
        while True:
            with self._news:
                while self._slot is None and not self._ended:
                    self._news.wait(0.5)  # an interrupt is answered between two waits
                slot, self._slot = self._slot, None
            if slot is None:
                return
            self.decoded += 1
            yield VideoFrame(slot.index, slot.time, slot.pixels(), arrived=slot.arrived)

    def missing(self) -> int:
        """1 where the source broke off for good, else 0."""
        return int(self.problem is not None)

    def _work(self, opened: _Source | None) -> None:
        """Read until the end; runs in the background."""
        tries = 0
        try:
            while opened is not None and not self._closed:
                reason = ""
                try:
                    for pixels in opened.pixels():
                        tries = 0
                        if not self._put(pixels):
                            return
                    return  # the source said that it ends
                except _errors() as error:
                    reason = _reason(error)
                finally:
                    opened.close()
                tries += 1
                opened = self._open_again(tries, reason)
        except IccldError as problem:
            self.problem = problem
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _open_again(self, tries: int, reason: str) -> _Source | None:
        """Open the source, waiting between tries.

        Args:
            tries: How many were made since it last gave a frame.
            reason: Why it broke off.
        """
        while True:
            if tries > len(PAUSES):
                made = f"{len(PAUSES) + 1} tries were made"
                raise IccldError(f"{self.where} cannot be read ({reason})", f"check the address and the net; {made}")
            if tries:
                self.tell(f"{self.where} does not answer ({reason}); next try in {PAUSES[tries - 1]:.0f} s")
                with self._news:
                    self._news.wait_for(lambda: self._closed, PAUSES[tries - 1])
                    if self._closed:
                        return None
            try:
                source = self.source
                opened = _Camera(source) if isinstance(source, int) else _Stream(source, self._options)
                self.fps, self.sample_aspect_ratio = opened.fps, opened.sample_aspect_ratio
                return opened
            except _errors() as error:
                reason = _reason(error)
                if isinstance(self.source, int):
                    hint = "see which cameras there are, and whether another program has it"
                    raise IccldError(f"{self.where} cannot be opened ({reason})", hint) from None
            tries += 1

    def _put(self, pixels: Callable[[], np.ndarray]) -> bool:
        """Offer a frame; False when no more are wanted."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        index, since = self.received, Fraction(now - self._began).limit_denominator(1_000_000)
        choice = "take" if self._choose is None else self._choose(index, since)
        with self._news:
            self.received += 1
            if choice == "end":
                self.stopped = True
            elif choice == "take":
                self._slot = _Slot(pixels, index, since, now)
                self._news.notify_all()
            return choice != "end" and not self._closed


class _Stream:
    """A stream that FFmpeg reads."""

    def __init__(self, url: str, options: dict[str, str]) -> None:
        import av

        rtsp = {"rtsp_transport": "tcp"} if url.lower().startswith("rtsp") else {}
        self._container = av.open(url, options={**rtsp, **options}, timeout=(TIMEOUT, TIMEOUT))
        if not self._container.streams.video:
            self._container.close()
            raise ValueError("there is no video in it")
        self._stream: Any = self._container.streams.video[0]
        context = self._stream.codec_context
        if context is None or context.width * context.height > MAX_PIXELS:
            self._container.close()
            raise ValueError("its video cannot be decoded")
        self._stream.thread_type = "SLICE"  # threads of frames hold frames back
        self.fps = Fraction(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_FPS)
        self.sample_aspect_ratio = Fraction(self._stream.sample_aspect_ratio or 1)

    def pixels(self) -> Iterator[Callable[[], np.ndarray]]:
        """What makes the pixels of each frame; damaged ones are left out."""
        import av

        size: dict[str, int] = {}

        def of(frame: Any) -> np.ndarray:
            return upright(pixels_of(frame, size), frame.rotation)

        for packet in self._container.demux(self._stream):
            try:
                found = self._stream.decode(packet)
            except av.error.InvalidDataError:  # a lost packet spoils its frame, not the stream
                continue
            except av.error.EOFError:
                return
            for frame in found:
                if frame.is_corrupt:
                    continue
                if not size:  # some streams change it midway
                    size.update(width=frame.width, height=frame.height)
                yield functools.partial(of, frame)

    def close(self) -> None:
        self._container.close()


class _Camera:
    """A camera that OpenCV reads."""

    sample_aspect_ratio = Fraction(1)

    def __init__(self, number: int) -> None:
        level = cv2.setLogLevel(0) if hasattr(cv2, "setLogLevel") else None  # it prints what is raised here
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            if level is not None:
                cv2.setLogLevel(level)
        if not self._capture.isOpened():
            raise OSError("there is none, or it may not be used")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = Fraction(rate).limit_denominator(1001) if 0 < rate <= 1000 else Fraction(DEFAULT_FPS)

    def pixels(self) -> Iterator[Callable[[], np.ndarray]]:
        """What makes the pixels of each frame."""
        while True:
            there, frame = self._capture.read()
            if not there:
                raise OSError("it gives no more frames")
            yield functools.partial(cv2.cvtColor, frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


_Source = _Stream | _Camera


def _errors() -> tuple[type[Exception], ...]:
    import av

    return av.error.FFmpegError, OSError, ValueError


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).strip().lower()
