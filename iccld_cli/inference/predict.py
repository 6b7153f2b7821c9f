"""Predictions for images and videos, streamed: memory does not grow with their number or length.

OUT/overlay/NAME.jpg|png|mp4       the input in class colours
OUT/labels/NAME.png                8-bit trainIds; of a video NAME/000000.png, ...
OUT/color/NAME.png|mp4             class colours alone
OUT/confidence/NAME.png|mp4        255 x probability of the predicted class
OUT/uncertainty/NAME.png|mp4       255 x uncertainty, see `model.Segmentation`
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli import __version__
from iccld_cli.errors import IccldError
from iccld_cli.inference.images import read_image
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.journal import Journal
from iccld_cli.inference.model import Model, Sampling, Want
from iccld_cli.inference.outputs import (
    KINDS,
    Maps,
    VideoOutputs,
    existing_outputs,
    stage_image_outputs,
)
from iccld_cli.inference.threads import WriteBehind, group, in_order, prefetch
from iccld_cli.inference.video import VideoFrame, VideoReader
from iccld_cli.report.overlay import DEFAULT_ALPHA


@dataclass(frozen=True)
class PredictOptions:
    """What to predict and what to keep of it.

    Attributes:
        out: Output folder.
        save: Kinds of results, out of `KINDS`.
        sampling: How the model predicts.
        alpha: Opacity of the colours in overlays.
        legend: Whether overlays name the classes.
        batch_size: Images per pass; None leaves it to the model.
        limit: At most this many images, and frames of each video; None for all.
        overwrite: Replace results that exist.
        skip_existing: Leave out inputs whose results all exist.
    """

    out: Path
    save: tuple[str, ...] = ("overlay",)
    sampling: Sampling = field(default_factory=Sampling)
    alpha: float = DEFAULT_ALPHA
    legend: bool = True
    batch_size: int | None = None
    limit: int | None = None
    overwrite: bool = False
    skip_existing: bool = False

    def settings(self) -> dict[str, Any]:
        """What results depend on besides the model, JSON-ready."""
        return {
            "save": list(self.save),
            "steps": self.sampling.steps,
            "samples": self.sampling.samples,
            "seed": self.sampling.seed,
            "scales": list(self.sampling.scales),
            "flip": self.sampling.flip,
            "average": self.sampling.average,
            "height": self.sampling.height,
            "alpha": self.alpha,
            "legend": self.legend,
            "limit": self.limit,
            "batch size": self.batch_size,
        }

    def wants(self) -> tuple[Want, ...]:
        """What the model is asked for besides labels."""
        every: tuple[Want, ...] = ("confidence", "uncertainty")
        return tuple(name for name in every if name in self.save)


@dataclass(frozen=True)
class Summary:
    """What `predict` did.

    Attributes:
        images: Images predicted.
        frames: Video frames predicted.
        skipped: Inputs whose results existed.
        problems: (input, what was wrong with it), for inputs that could not be read or only in part.
        resumed: Inputs that an earlier, unfinished run with the same settings had finished.
    """

    images: int
    frames: int
    skipped: int
    problems: tuple[tuple[Path, IccldError], ...]
    resumed: int = 0


def predict(
    model: Model,
    items: Sequence[Input],
    options: PredictOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict a list of inputs.

    Inputs that cannot be read do not stop the others. A video that breaks off is predicted as far as it decodes.
    Results get their names when their input is done, so that no name ever holds a part. A run that ended early, killed
    or by an error, goes on when it is called again with the same settings (see `Journal`), and its results equal an
    undisturbed run's. An interrupt moreover leaves a video under work as `NAME.partial.mp4`.

    Args:
        model: The model.
        items: From `collect`.
        options: What to do.
        progress: Called with (units done, units in all); a unit is an image or a video frame.

    Raises:
        IccldError: A result exists already or cannot be written, the model cannot do what is asked, or the output
            folder holds an unfinished run with other settings.
    """
    unknown = [kind for kind in options.save if kind not in KINDS]
    if unknown or not options.save:
        raise IccldError(f"cannot save {', '.join(unknown) or 'nothing'}", f"choose of {', '.join(KINDS)}")
    options = replace(options, sampling=model.settle(options.sampling))
    images = [item for item in items if not item.is_video][: options.limit]
    videos = [item for item in items if item.is_video]
    settings = {
        "version": __version__,
        "model": model.digest,
        "backend": model.backend,
        "device": model.device.partition(":")[0],
        **options.settings(),
    }
    with Journal(options.out, settings) as journal:
        chosen = [*images, *videos]
        left = [item for item in chosen if not journal.finished(item)]
        todo = _without_existing(left, chosen, options, journal)
        journal.claim(chosen)
        run = _Run(model, options, progress or (lambda done, total: None), journal)
        again = set(left)
        before = [(item.path, journal.problem(item)) for item in chosen if item not in again]
        run.problems += [(path, problem) for path, problem in before if problem is not None]
        run.total = sum(run.count(item) for item in todo)
        run.progress(0, run.total)
        run.images([item for item in todo if not item.is_video])
        for item in todo:
            if item.is_video:
                run.video(item)
    return Summary(
        run.done_images, run.done_frames, len(left) - len(todo), tuple(run.problems), len(chosen) - len(left)
    )


class _Run:
    """The state of one call of `predict`."""

    def __init__(
        self,
        model: Model,
        options: PredictOptions,
        progress: Callable[[int, int], None],
        journal: Journal,
    ) -> None:
        self.model, self.options, self.progress, self.journal = model, options, progress, journal
        self.total = self.done_images = self.done_frames = 0
        self.problems: list[tuple[Path, IccldError]] = []

    def count(self, item: Input) -> int:
        """Units of an input; 0 for a video that cannot be opened, which is reported when its turn comes."""
        if not item.is_video:
            return 1
        try:
            with VideoReader(item.path) as reader:
                return min(reader.announced, self.options.limit or reader.announced)
        except IccldError:
            return 0

    def images(self, items: list[Input]) -> None:
        """Predict single images; neighbours of equal size share a pass."""
        with WriteBehind() as writer, contextlib.closing(prefetch(self._read(items), 4)) as images:
            batches = group(images, lambda item: item[1].shape, self._batch_size)
            found = in_order(self._of_images, batches, self.model.parallel)
            with contextlib.closing(found):
                for batch, maps in found:
                    writer.submit(self._save_images, batch, maps)
                    self.done_images += len(batch)
                    self._advance()

    def _of_images(self, batch: list[tuple[Input, np.ndarray]]) -> tuple[list[tuple[Input, np.ndarray]], list[Maps]]:
        return batch, self._maps([image for _, image in batch])

    def _save_images(self, batch: list[tuple[Input, np.ndarray]], maps: list[Maps]) -> None:
        done = [
            (item, stage_image_outputs(self.journal, item, image, result, self.options, self.model.header), None)
            for (item, image), result in zip(batch, maps, strict=True)
        ]
        self.journal.publish(done)

    def video(self, item: Input) -> None:
        """Predict one video."""
        try:
            reader = VideoReader(item.path)
        except IccldError as error:
            self.problems.append((item.path, error))
            return
        with reader:
            before = self.done_frames
            with VideoOutputs(item, reader, self.options, self.model.header, self.journal) as outputs:
                self._video_frames(reader, outputs)
            decoded = self.done_frames - before
            lost = 0 if self.options.limit and decoded >= self.options.limit else reader.missing()
            problem = self._lost(item, decoded, reader.announced, outputs) if lost else None
            if problem is not None:
                self.problems.append((item.path, problem))
            if decoded:
                outputs.publish(problem)

    def _video_frames(self, reader: VideoReader, outputs: VideoOutputs) -> None:
        frames = prefetch(itertools.islice(reader.frames(), self.options.limit), 4)
        with WriteBehind() as writer, contextlib.closing(frames):
            batches = group(frames, lambda frame: frame.image.shape, self._batch_size)
            found = in_order(self._of_frames, batches, self.model.parallel)
            with contextlib.closing(found):
                for batch, maps in found:
                    for frame, result in zip(batch, maps, strict=True):
                        writer.submit(outputs.write, frame, result)
                    self.done_frames += len(batch)
                    self._advance()

    def _of_frames(self, batch: list[VideoFrame]) -> tuple[list[VideoFrame], list[Maps]]:
        return batch, self._maps([frame.image for frame in batch])

    def _lost(self, item: Input, decoded: int, announced: int, outputs: VideoOutputs) -> IccldError:
        of = f" of {announced}" if announced > decoded else ""
        if not decoded:
            return IccldError(f"no frame{of} in {item.path} could be decoded", "the file is damaged")
        return IccldError(
            f"{item.path} is damaged or cut off, {decoded}{of} frames could be decoded",
            f"{outputs.described()} holds those",
        )

    def _read(self, items: list[Input]) -> Iterator[tuple[Input, np.ndarray]]:
        for item in items:
            try:
                image = read_image(item.path)
            except IccldError as error:
                self.problems.append((item.path, error))
            else:
                yield item, image

    def _advance(self) -> None:
        self.progress(self.done_images + self.done_frames, self.total)

    def _batch_size(self, item: tuple[Input, np.ndarray] | VideoFrame) -> int:
        image = item.image if isinstance(item, VideoFrame) else item[1]
        return self.options.batch_size or self.model.batch_size(image.shape[:2], self.options.sampling)

    def _maps(self, images: list[np.ndarray]) -> list[Maps]:
        """Segment images of equal size and keep one byte a pixel of what is asked for."""
        wants = self.options.wants()
        segmentation = self.model.segment(np.stack(images), wants, sampling=self.options.sampling)
        kept = {name: _to_byte(value) for name in wants if (value := getattr(segmentation, name)) is not None}
        return [
            Maps(labels, **{name: value[i] for name, value in kept.items()})
            for i, labels in enumerate(segmentation.labels)
        ]


def _without_existing(
    items: list[Input], all_items: list[Input], options: PredictOptions, journal: Journal
) -> list[Input]:
    """The inputs to do; checked before the work starts, not after it."""
    inputs = {item.path.resolve() for item in all_items}
    for folder in {path.parent for path in inputs}:
        inputs.update((folder, *folder.parents))
    todo: list[Input] = []
    for item in items:
        existing, missing = existing_outputs(item, options, inputs)
        own = journal.owns(item)
        if existing and options.skip_existing and not missing and not own:
            continue
        if existing and not options.overwrite and not options.skip_existing and not own:
            raise IccldError(f"{existing[0]} exists", "give another --out, --overwrite to replace, or --skip-existing")
        todo.append(item)
    return todo


def _to_byte(fraction: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 [0, 255], rounded."""
    return np.clip(np.rint(fraction * np.float32(255)), 0, 255).astype(np.uint8)
