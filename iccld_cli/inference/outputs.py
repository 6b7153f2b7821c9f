"""Where predictions go, and how each kind is written."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from iccld_cli.checkpoint import ModelHeader
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.inference.inputs import Job
from iccld_cli.inference.video import VideoFrame, VideoReader, VideoWriter
from iccld_cli.report.overlay import colorize, draw_overlay

if TYPE_CHECKING:
    from iccld_cli.inference.predict import PredictOptions

KINDS = ("overlay", "labels", "color", "confidence", "uncertainty")
"""What can be asked for."""

JPEG = {".jpg", ".jpeg", ".jfif"}
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Maps:
    """One image's prediction, a byte a pixel: uint8 (H, W) each, None where it was not asked for.

    Attributes:
        labels: TrainIds.
        confidence: 255 x probability of the predicted class.
        uncertainty: 255 x normalised entropy.
        disagreement: 255 x disagreement of the noise seeds.
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    disagreement: np.ndarray | None = None

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


def output_path(job: Job, kind: str, out: Path) -> Path:
    """Where a kind of a job's result lies; a folder for the labels of a video."""
    base = out / kind / job.name
    if job.is_video:
        return base if kind == "labels" else base.with_name(base.name + ".mp4")
    suffix = ".jpg" if kind == "overlay" and job.path.suffix.lower() in JPEG else ".png"
    return base.with_name(base.name + suffix)


def existing_outputs(job: Job, options: PredictOptions) -> tuple[list[Path], list[Path]]:
    """A job's results that exist, and those that do not.

    Raises:
        IccldError: A result would replace the input.
    """
    existing: list[Path] = []
    missing: list[Path] = []
    for kind in options.kinds():
        path = output_path(job, kind, options.out)
        if path.resolve() == job.path.resolve():
            raise IccldError(f"the result would replace its input {job.path}", "give another --out")
        there = any(path.iterdir()) if path.is_dir() else path.exists()
        (existing if there else missing).append(path)
    return existing, missing


def save_image_outputs(job: Job, image: np.ndarray, maps: Maps, options: PredictOptions, header: ModelHeader) -> None:
    """Write every kind of one image's result."""
    for kind in options.kinds():
        write_image(output_path(job, kind, options.out), maps.picture(kind, image, options, header))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey, atomically, in the format of the suffix.

    Raises:
        IccldError: The disk is full or the folder cannot be written.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix in JPEG else []
    done, data = cv2.imencode(path.suffix, pixels, quality)
    assert done
    # Encoded in memory first: OpenCV's own writer does not say why it failed, a full disk for instance.
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


class VideoOutputs:
    """The files of one video's result, opened with the first frame.

    As a context it finishes them; an interrupt finishes what there is as `NAME.partial.mp4`, an error removes it.
    """

    def __init__(self, job: Job, reader: VideoReader, options: PredictOptions, header: ModelHeader) -> None:
        """Nothing is opened yet.

        Args:
            job: The video.
            reader: It, opened.
            options: What to keep.
            header: Of the model.
        """
        self.job, self.reader, self.options, self.header = job, reader, options, header
        self._writers: dict[str, VideoWriter] = {}
        self._temporary: dict[str, Path] = {}
        self._files = contextlib.ExitStack()
        self._cleared = False

    def __enter__(self) -> VideoOutputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            for writer in self._writers.values():
                if kind is None or interrupted:
                    writer.close()
                else:
                    writer.abandon()
        except BaseException as problem:
            self._files.__exit__(type(problem), problem, problem.__traceback__)
            raise
        if interrupted:
            for name, temporary in self._temporary.items():
                path = output_path(self.job, name, self.options.out)
                os.replace(temporary, path.with_name(f"{path.stem}.partial.mp4"))
        self._files.__exit__(kind, error, None)

    def write(self, frame: VideoFrame, maps: Maps) -> None:
        """Append one frame to every file."""
        for kind in self.options.kinds():
            path = output_path(self.job, kind, self.options.out)
            if kind == "labels":
                if not self._cleared:
                    _clear_sequence(path)
                    self._cleared = True
                write_image(path / f"{frame.index:06d}.png", maps.labels)
            else:
                picture = maps.picture(kind, frame.image, self.options, self.header)
                self._writer(kind, path, picture).write(picture, frame.time)

    def described(self) -> str:
        """The first result's path, for a message."""
        return str(output_path(self.job, self.options.kinds()[0], self.options.out))

    def _writer(self, kind: str, path: Path, picture: np.ndarray) -> VideoWriter:
        if kind not in self._writers:
            aspect, turned = self.reader.sample_aspect_ratio, self.reader.turned
            temporary = self._files.enter_context(atomic_path(path))
            self._writers[kind] = VideoWriter(
                temporary,
                (picture.shape[1], picture.shape[0]),
                self.reader.fps,
                sample_aspect_ratio=Fraction(1) / aspect if turned else aspect,
            )
            self._temporary[kind] = temporary
        return self._writers[kind]


def _clear_sequence(folder: Path) -> None:
    """Remove the frames of an earlier, longer prediction that is being overwritten."""
    for old in folder.glob("[0-9]" * 6 + ".png"):
        old.unlink()
