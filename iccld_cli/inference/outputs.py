"""Where predictions go, and how each kind is written."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Set
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error
from iccld_cli.header import ModelHeader
from iccld_cli.imagefiles import JPEG_SUFFIXES, RESULT_QUALITY
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.journal import Journal, Result, staged_file, sync
from iccld_cli.inference.live import LiveReader
from iccld_cli.inference.video import VideoFrame, VideoReader, VideoWriter
from iccld_cli.labels import IGNORE
from iccld_cli.report.overlay import colorize, draw_overlay

if TYPE_CHECKING:
    from iccld_cli.inference.predict import PredictOptions

KINDS = ("overlay", "labels", "color", "confidence", "uncertainty")
"""What can be asked for."""

_FRAME = re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class Maps:
    """One image's prediction, a byte a pixel: uint8 (H, W) each, None where it was not asked for.

    Attributes:
        labels: TrainIds.
        confidence: 255 x probability of the predicted class.
        uncertainty: 255 x uncertainty, see `Segmentation`.
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    uncertainty: np.ndarray | None = None

    def without(self, region: np.ndarray) -> Maps:
        """The same with nothing said of a region, bool (H, W): labels 255, the others 0."""
        said = {name: np.where(region, np.uint8(0), value) for name, value in vars(self).items() if value is not None}
        return Maps(**{**said, "labels": np.where(region, np.uint8(IGNORE), self.labels)})

    def picture(self, kind: str, image: np.ndarray, options: PredictOptions, header: ModelHeader) -> np.ndarray:
        """The picture of a kind: uint8 (H, W, 3) RGB or (H, W) grey."""
        if kind == "overlay":
            legend = header.classes if options.legend else None
            return draw_overlay(image, self.labels, header.label_space, alpha=options.alpha, legend=legend)
        if kind == "color":
            return colorize(self.labels, header.label_space)
        picture: np.ndarray | None = getattr(self, kind)
        assert picture is not None
        return picture


def output_path(item: Input, kind: str, out: Path) -> Path:
    """Where a kind of an input's result lies; a folder for the labels of a video."""
    base = out / kind / item.name
    if item.is_video:
        return base if kind == "labels" else base.with_name(base.name + ".mp4")
    suffix = ".jpg" if kind == "overlay" and item.path.suffix.lower() in JPEG_SUFFIXES else ".png"
    return base.with_name(base.name + suffix)


def existing_outputs(item: Input, options: PredictOptions, inputs: Set[Path]) -> tuple[list[Path], list[Path]]:
    """An input's results that exist, and those that do not.

    Args:
        item: The input.
        options: What is kept of it.
        inputs: Real paths of all inputs and of the folders they lie in.

    Raises:
        IccldError: A result would replace an input, or something that is no such result has its name.
    """
    existing: list[Path] = []
    missing: list[Path] = []
    for kind in options.save:
        path = output_path(item, kind, options.out)
        if path.resolve() in inputs:
            its = "its input" if path.resolve() == item.path.resolve() else "the input"
            raise IccldError(f"the result would replace {its} {path}", "give another --out")
        _refuse_obstacle(path, options.out, frames=item.is_video and kind == "labels")
        there = any(path.iterdir()) if path.is_dir() else os.path.lexists(path)
        (existing if there else missing).append(path)
    return existing, missing


def _refuse_obstacle(path: Path, out: Path, frames: bool) -> None:
    """Refuse what could only be replaced by deleting what is no earlier result of that name."""
    for folder in path.parents:
        if folder == out:
            break
        if os.path.lexists(folder) and not folder.is_dir():
            raise IccldError(f"cannot create {path}: {folder} is a file", "move it away or give another --out")
    if frames and os.path.lexists(path) and not path.is_dir():
        raise IccldError(f"{path} is a file, and is to be a folder of labels", "move it away or give another --out")
    if path.is_dir() and not (frames and all(_FRAME.fullmatch(name) for name in os.listdir(path))):
        what = "holds other things than the labels of a video" if frames else "is a folder"
        raise IccldError(f"{path} {what}", "move it away or give another --out")


def stage_image_outputs(
    journal: Journal, item: Input, image: np.ndarray, maps: Maps, options: PredictOptions, header: ModelHeader
) -> list[Result]:
    """Build every kind of one image's result, not yet under its name."""
    found = []
    for kind in options.save:
        data = encode_image(output_path(item, kind, options.out).suffix, maps.picture(kind, image, options, header))
        final = output_path(item, kind, options.out)
        found.append(staged_file(journal, final, functools.partial(_write_bytes, data=data)))
    return found


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def encode_image(suffix: str, image: np.ndarray) -> bytes:
    """A picture as the bytes of its file.

    In memory, because OpenCV's own writer does not say why it failed, a full disk for instance.

    Args:
        suffix: `.png`, `.jpg`...: the format.
        image: uint8 (H, W, 3) RGB or (H, W) grey.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, RESULT_QUALITY] if suffix in JPEG_SUFFIXES else []
    done, data = cv2.imencode(suffix, pixels, quality)
    assert done
    return data.tobytes()


class VideoOutputs:
    """The files of one video's result, opened with the first frame and built out of sight.

    As a context it finishes them, for `publish`; an interrupt leaves what there is as `NAME.partial.mp4` and, of
    labels, as the folder `NAME.partial`; an error leaves nothing.
    """

    def __init__(
        self,
        item: Input,
        reader: VideoReader | LiveReader,
        options: PredictOptions,
        header: ModelHeader,
        journal: Journal,
    ) -> None:
        """Nothing is opened yet.

        Args:
            item: The video.
            reader: It, opened.
            options: What to keep.
            header: Of the model.
            journal: Where results are built and published.
        """
        self.item, self.reader, self.options, self.header, self.journal = item, reader, options, header, journal
        self._writers: dict[str, VideoWriter] = {}
        self._staged: dict[str, Path] = {}
        self._first: Fraction | None = None

    def __enter__(self) -> VideoOutputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            for name, writer in self._writers.items():
                if kind is None or interrupted:
                    writer.close()
                    sync(self._staged[name])
                else:
                    writer.abandon()
        except OSError as problem:
            raise explain_os_error(problem, self._final(name)) from problem
        if interrupted:
            self.journal.publish_partial(
                self.item, [Result(path, _partial(name, self._final(name))) for name, path in self._staged.items()]
            )

    def write(self, frame: VideoFrame, maps: Maps) -> None:
        """Append one frame to every file.

        Raises:
            IccldError: The disk is full or the folder cannot be written.
        """
        self._first = frame.time if self._first is None else self._first
        for kind in self.options.save:
            try:
                if kind == "labels":
                    self._write_labels(frame, maps)
                else:
                    picture = maps.picture(kind, frame.image, self.options, self.header)
                    self._writer(kind, picture).write(picture, frame.time - self._first)
            except OSError as error:
                raise explain_os_error(error, self._final(kind)) from error

    def publish(self, problem: IccldError | None) -> None:
        """Give the results their names, with what was wrong with the video."""
        results = [Result(path, self._final(name)) for name, path in self._staged.items()]
        self.journal.publish([(self.item, results, problem)])

    def described(self) -> str:
        """The first result's path, for a message."""
        return str(self._final(self.options.save[0]))

    def _final(self, kind: str) -> Path:
        return output_path(self.item, kind, self.options.out)

    def _write_labels(self, frame: VideoFrame, maps: Maps) -> None:
        if "labels" not in self._staged:
            self._staged["labels"] = self.journal.stage()
            self._staged["labels"].mkdir()
        path = self._staged["labels"] / f"{frame.index:06d}.png"
        path.write_bytes(encode_image(".png", maps.labels))
        sync(path)

    def _writer(self, kind: str, picture: np.ndarray) -> VideoWriter:
        if kind not in self._writers:
            aspect, turned = self.reader.sample_aspect_ratio, self.reader.turned
            self._staged[kind] = self.journal.stage(".mp4")
            self._writers[kind] = VideoWriter(
                self._staged[kind],
                (picture.shape[1], picture.shape[0]),
                self.reader.fps / self.options.every,
                sample_aspect_ratio=Fraction(1) / aspect if turned else aspect,
            )
        return self._writers[kind]


def _partial(kind: str, final: Path) -> Path:
    """The name of a result that an interrupt cut short."""
    return final.with_name(f"{final.name}.partial" if kind == "labels" else f"{final.stem}.partial{final.suffix}")
