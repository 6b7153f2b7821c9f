"""Videos that are encoded in pieces, and joined without encoding them again.

An encoder that is begun anew at fixed frames gives the same packets whoever runs it, so that a video whose stretches
were encoded on several machines is the one that a single run writes. What is left is the order of decoding: the n-th
packet of a file is decoded at the time at which the frame two before the n-th is shown, whatever piece that is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError

BASE = Fraction(1, 90000)  # of the written time stamps: frames of every usual rate fall on whole ticks
_DELAY = 2  # frames by which x264 with B-pyramids reorders at most


class DecodingTimes:
    """Gives packets their decoding times, across pieces."""

    def __init__(self, frame: int) -> None:
        """No packet yet.

        Args:
            frame: Usual length of a frame, in ticks.
        """
        self._frame = frame
        self._before: list[int] = []

    def settle(self, packets: Sequence[Any]) -> None:
        """Set `dts` of the packets of a piece, in order of decoding; their `pts` are those of the whole video."""
        shown = sorted(packet.pts for packet in packets)
        if shown and not self._before:
            self._before = [shown[0] - self._frame * number for number in range(_DELAY, 0, -1)]
        order = [*self._before, *shown]
        for packet, time in zip(packets, order[: len(packets)], strict=True):
            packet.dts = time
        self._before = order[-_DELAY:]


@dataclass(frozen=True)
class Stretch:
    """A video file that holds a stretch of a longer video.

    Attributes:
        path: The file, from `VideoWriter`.
        ticks: When its first frame is shown in the longer video, in units of `BASE`.
    """

    path: Path
    ticks: int


def join_videos(stretches: Sequence[Stretch], path: Path, explain: Callable[[str], IccldError]) -> None:
    """Write the video that a single run would have written.

    Args:
        stretches: Files in the order in which they are shown.
        path: The file to write, `.mp4`.
        explain: What to raise where they do not fit together, given a reason.

    Raises:
        IccldError: They are of different sizes, or damaged.
        OSError: The file cannot be written.
    """
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        target: Any = None
        last: list[int] = []
        for stretch in stretches:
            try:
                container = av.open(str(stretch.path))
            except (av.error.FFmpegError, ValueError):
                raise explain(f"{stretch.path} cannot be read") from None
            with container:
                source: Any = container.streams.video[0]
                if target is None:
                    target = out.add_stream_from_template(source)
                    target.time_base = BASE
                elif source.codec_context.extradata != target.codec_context.extradata:
                    raise explain("their videos are encoded in different ways")
                times: list[int] = []
                for number, packet in enumerate(_packets(container, source, stretch, explain)):
                    packet.pts += stretch.ticks
                    packet.dts += stretch.ticks
                    if not last:  # the times before the first frame, as `DecodingTimes` has them
                        last = [packet.dts, (packet.dts + packet.pts) // _DELAY]
                    elif number < _DELAY and stretch is not stretches[0]:
                        packet.dts = last[number]
                    times = sorted([*times, packet.pts])[-_DELAY:]
                    packet.stream = target
                    try:
                        out.mux(packet)
                    except ValueError as error:  # of FFmpeg; a full disk is an OSError
                        raise explain(f"{stretch.path} does not follow on the one before ({error})") from None
                last = [*last, *times][-_DELAY:]


def _packets(container: Any, source: Any, stretch: Stretch, explain: Callable[[str], IccldError]) -> Any:
    import av

    if source.time_base != BASE:
        raise explain(f"{stretch.path} was not written by this program")
    try:
        for packet in container.demux(source):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        raise explain(f"{stretch.path} is damaged") from None
