"""Where predictions go, and how each kind is written."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Set
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error
from iccld_cli.header import ModelHeader
from iccld_cli.imagefiles import DATA_QUALITY, JPEG_SUFFIXES, RESULT_QUALITY
from iccld_cli.inference.collected import DATASET, DatasetFiles, part_line
from iccld_cli.inference.facts import FrameFacts
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.joining import BASE
from iccld_cli.inference.journal import Journal, Result, staged_file, sync
from iccld_cli.inference.live import LiveReader
from iccld_cli.inference.naming import label_ids_name
from iccld_cli.inference.smooth import GRID
from iccld_cli.inference.video import VideoFrame, VideoReader, VideoWriter
from iccld_cli.labels import CITYSCAPES_LABEL_IDS, LabelSpace
from iccld_cli.report.overlay import colorize, draw_overlay

if TYPE_CHECKING:
    from iccld_cli.inference.predict_options import PredictOptions

KINDS = (
    "overlay",
    "side",
    "labels",
    "palette",
    "labelIds",
    "color",
    "confidence",
    "uncertainty",
    "probabilities",
    "frames",
    "dataset",
)
"""What can be asked for."""

DATASET_IMAGES, DATASET_LABELS = f"{DATASET}/images", f"{DATASET}/labels"

FRAME_FILES = {
    "labels": ".png",
    "palette": ".png",
    "labelIds": "_labelIds.png",
    "probabilities": ".safetensors",
    DATASET_IMAGES: ".jpg",
    DATASET_LABELS: ".png",
}
"""Kinds of which a video gets a folder with a file a frame, and how these end; of the others it gets a video."""

_PART = "part"

_FRAME = re.compile(r"\d{6,}(_labelIds)?\.(png|jpg|safetensors)")


@dataclass(frozen=True)
class Maps:
    """One image's prediction, a byte a pixel: uint8 (H, W) each, None where it was not asked for.

    Attributes:
        labels: TrainIds.
        confidence: 255 x probability of the predicted class.
        uncertainty: 255 x uncertainty, see `Segmentation`.
        probabilities: float16 (K, H, W).
        trusted: TrainIds, 255 where the model is not sure enough to be learned from.
        facts: The frame in numbers.
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    trusted: np.ndarray | None = None
    facts: FrameFacts | None = None

    def encoded(self, kind: str, suffix: str, image: np.ndarray, options: PredictOptions, header: ModelHeader) -> bytes:
        """The file of a kind.

        Args:
            kind: Out of `PredictOptions.kinds`.
            suffix: Of its name.
            image: uint8 (H, W, 3), RGB.
            options: How it is drawn.
            header: Of the model.
        """
        if kind == "palette":
            return _with_palette(self.labels, header.label_space)
        if kind == "probabilities":
            assert self.probabilities is not None
            return _tensor_file(self.probabilities, header)
        quality = DATA_QUALITY if kind == DATASET_IMAGES else RESULT_QUALITY
        return encode_image(suffix, self.picture(kind, image, options, header), quality)

    def picture(self, kind: str, image: np.ndarray, options: PredictOptions, header: ModelHeader) -> np.ndarray:
        """The picture of a kind: uint8 (H, W, 3) RGB or (H, W) grey."""
        if kind in ("overlay", "side"):
            legend = header.classes if options.legend else None
            overlay = draw_overlay(image, self.labels, header.label_space, alpha=options.alpha, legend=legend)
            return overlay if kind == "overlay" else np.concatenate([image, overlay], axis=1)
        if kind == "color":
            return colorize(self.labels, header.label_space)
        if kind == "labelIds":
            return label_ids(header.label_space)[self.labels]
        if kind == DATASET_IMAGES:
            return image
        picture: np.ndarray | None = getattr(self, "trusted" if kind == DATASET_LABELS else kind)
        assert picture is not None
        return picture


def output_path(item: Input, kind: str, out: Path) -> Path:
    """Where a kind of an input's result lies; of a video a folder for the kinds that have a file a frame."""
    base = out / kind / item.name
    if item.is_video:
        return base if kind in FRAME_FILES else base.with_name(base.name + ".mp4")
    if kind == "labelIds":
        name = label_ids_name(item.name)
        return out / kind / name.with_name(name.name + ".png")
    if kind == "probabilities":
        return base.with_name(base.name + ".safetensors")
    photograph = kind in ("overlay", "side", DATASET_IMAGES) and item.path.suffix.lower() in JPEG_SUFFIXES
    return base.with_name(base.name + (".jpg" if photograph else ".png"))


def label_ids(space: LabelSpace) -> np.ndarray:
    """The numbers of the Cityscapes benchmark for trainIds.

    Returns:
        uint8 (256,), by trainId; 0, "unlabeled", where there is no class.

    Raises:
        IccldError: A class of the space has no number there.
    """
    unknown = [name for name in space.names if name not in CITYSCAPES_LABEL_IDS]
    if unknown:
        raise IccldError(
            f"labelIds are numbers of the Cityscapes classes, and {unknown[0]!r} is none of them",
            "leave labelIds out of --save; labels has the trainIds",
        )
    table = np.zeros(256, np.uint8)
    table[: len(space)] = [CITYSCAPES_LABEL_IDS[name] for name in space.names]
    return table


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
    for kind in options.kinds():
        path = output_path(item, kind, options.out)
        if path.resolve() in inputs:
            its = "its input" if path.resolve() == item.path.resolve() else "the input"
            raise IccldError(f"the result would replace {its} {path}", "give another --out")
        _refuse_obstacle(path, options.out, frames=item.is_video and kind in FRAME_FILES)
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
        raise IccldError(f"{path} is a file, and is to be a folder of frames", "move it away or give another --out")
    if path.is_dir() and not (frames and all(_FRAME.fullmatch(name) for name in os.listdir(path))):
        what = "holds other files than the frames of a video" if frames else "is a folder"
        raise IccldError(f"{path} {what}", "move it away or give another --out")


def stage_image_outputs(
    journal: Journal, item: Input, image: np.ndarray, maps: Maps, options: PredictOptions, header: ModelHeader
) -> list[Result]:
    """Build every kind of one image's result, not yet under its name."""
    found, dataset = [], {}
    for kind in options.kinds():
        final = output_path(item, kind, options.out)
        data = maps.encoded(kind, final.suffix, image, options, header)
        found.append(staged_file(journal, final, functools.partial(_write_bytes, data=data)))
        if kind.startswith(DATASET):
            dataset[kind] = (final, data)
    if options.collects():
        line = _part_line(item, None, image, maps, dataset, options, header)
        write = functools.partial(_write_bytes, data=line.encode())
        found.append(staged_file(journal, journal.part(item), write))
    return found


def _part_line(
    item: Input,
    frame: VideoFrame | None,
    image: np.ndarray,
    maps: Maps,
    dataset: dict[str, tuple[Path, bytes]],
    options: PredictOptions,
    header: ModelHeader,
) -> str:
    """A frame's line for the files about all frames; `dataset` holds path and content of its files there."""
    files = None
    if dataset:
        assert maps.trusted is not None
        ids, counts = np.unique(maps.trusted, return_counts=True)
        (image_path, image_data), (label_path, label_data) = dataset[DATASET_IMAGES], dataset[DATASET_LABELS]
        files = DatasetFiles(
            image_path.relative_to(options.out / DATASET).as_posix(),
            label_path.relative_to(options.out / DATASET).as_posix(),
            hashlib.sha256(image_data).hexdigest(),
            hashlib.sha256(label_data).hexdigest(),
            dict(zip(ids.tolist(), counts.tolist(), strict=True)),
        )
    assert maps.facts is not None
    when = None if frame is None else (frame.index, float(frame.time))
    return part_line(item, when, image, maps.facts, files, header)


def _with_palette(labels: np.ndarray, space: LabelSpace) -> bytes:
    """A PNG whose pixels are trainIds and which viewers show in the colours of the classes."""
    picture = Image.fromarray(labels, "L")
    picture.putpalette([value for color in space.colors for value in color])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _tensor_file(probabilities: np.ndarray, header: ModelHeader) -> bytes:
    from safetensors.numpy import save

    # One entry: the library writes several in any order, and results are to be the same bytes each time.
    return save({"probabilities": probabilities}, {"classes": json.dumps(header.label_space.names)})


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def encode_image(suffix: str, image: np.ndarray, quality: int = RESULT_QUALITY) -> bytes:
    """A picture as the bytes of its file.

    In memory, because OpenCV's own writer does not say why it failed, a full disk for instance.

    Args:
        suffix: `.png`, `.jpg`...: the format.
        image: uint8 (H, W, 3) RGB or (H, W) grey.
        quality: Of a JPEG.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    how = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in JPEG_SUFFIXES else []
    done, data = cv2.imencode(suffix, pixels, how)
    assert done
    return data.tobytes()


class VideoOutputs:
    """The files of one video's result, opened with the first frame and built out of sight.

    As a context it finishes them, for `publish`; an interrupt leaves what there is as `NAME.partial.mp4` and, of
    kinds with a file a frame, as the folder `NAME.partial`, but nothing of the data set; an error leaves nothing.

    Attributes:
        first: Time of the first frame of the result, with which its videos begin; None before the first frame. A
            stretch of a video has that of the whole video's result.
        ticks: When the first frame written comes after it, in units of `joining.BASE`.
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
        self.first: Fraction | None = None
        self.ticks: int | None = None

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
            shown = [name for name in self._staged if not name.startswith(DATASET) and name != _PART]
            self.journal.publish_partial(
                self.item, [Result(self._staged[name], _partial(name, self._final(name))) for name in shown]
            )

    def write(self, frame: VideoFrame, maps: Maps) -> None:
        """Append one frame to every file.

        Raises:
            IccldError: The disk is full or the folder cannot be written.
        """
        self.first = frame.time if self.first is None else self.first
        ticks = round((frame.time - self.first) / BASE)
        self.ticks = ticks if self.ticks is None else self.ticks
        # The encoder begins anew where the running mean of steady video does: stretches of a video fit together.
        piece = None if isinstance(self.reader, LiveReader) else frame.index // self.options.every // GRID
        dataset = {}
        for kind in self.options.kinds():
            try:
                if kind in FRAME_FILES:
                    written = self._write_file(kind, frame, maps)
                    if kind.startswith(DATASET):
                        dataset[kind] = written
                else:
                    picture = maps.picture(kind, frame.image, self.options, self.header)
                    self._writer(kind, picture).write(picture, (ticks - self.ticks) * BASE, piece)
            except OSError as error:
                raise explain_os_error(error, self._final(kind)) from error
        if self.options.collects():
            line = _part_line(self.item, frame, frame.image, maps, dataset, self.options, self.header)
            try:
                with open(self._staged.setdefault(_PART, self.journal.stage(".jsonl")), "a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise explain_os_error(error, self._final(_PART)) from error

    def publish(self, problem: IccldError | None, *more: Result) -> None:
        """Give the results their names, with what was wrong with the video, and more results with them."""
        if _PART in self._staged:
            sync(self._staged[_PART])
        results = [Result(path, self._final(name)) for name, path in self._staged.items()] + [*more]
        self.journal.publish([(self.item, results, problem)])

    def described(self) -> str:
        """The first result's path, for a message."""
        kinds = self.options.kinds()
        return str(self._final(kinds[0]) if kinds else self.options.out)

    def _final(self, kind: str) -> Path:
        return self.journal.part(self.item) if kind == _PART else output_path(self.item, kind, self.options.out)

    def _write_file(self, kind: str, frame: VideoFrame, maps: Maps) -> tuple[Path, bytes]:
        """Write a frame's file of a kind: the path that it will have, and its content."""
        if kind not in self._staged:
            self._staged[kind] = self.journal.stage()
            self._staged[kind].mkdir()
        path = self._staged[kind] / f"{frame.index:06d}{FRAME_FILES[kind]}"
        data = maps.encoded(kind, path.suffix, frame.image, self.options, self.header)
        path.write_bytes(data)
        sync(path)
        return self._final(kind) / path.name, data

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
    return final.with_name(f"{final.name}.partial" if kind in FRAME_FILES else f"{final.stem}.partial{final.suffix}")
