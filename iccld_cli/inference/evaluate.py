"""Scores of a model on the labelled frames of a prepared data set.

The training's validation and `iccld evaluate` are this one function, so that their numbers mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset, labelled_pixels
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.inference.evaluation import Evaluation, FrameScore, Rule
from iccld_cli.inference.model import Model, Sampling, Segmentation, Want
from iccld_cli.inference.threads import group, prefetch
from iccld_cli.labels import IGNORE, LabelSpace, shared_classes
from iccld_cli.metrics.boundary import boundary_counts
from iccld_cli.metrics.calibration import CalibrationError, ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix, scores_from

_WANTED: tuple[Want, ...] = ("confidence", "uncertainty")


@dataclass(frozen=True)
class Scope:
    """What of a data set is scored.

    Attributes:
        split: Which of its splits.
        classes: TrainIds to score; None for all that model and labels know (`scored_classes`).
        limit: Only this many frames, evenly spread over the split; None or 0 for all.
        batch_size: Frames of equal size per pass; None leaves it to the model.
        rule: Which labelled pixels count.
        boundary: Whether boundaries are scored too, which takes longer than all the rest.
    """

    split: str = "val"
    classes: Sequence[int] | None = None
    limit: int | None = None
    batch_size: int | None = None
    rule: Rule = "known"
    boundary: bool = True


class _Scorer:
    """Accumulates everything that is scored, one frame at a time."""

    def __init__(
        self,
        classes: Sequence[int],
        counted: Sequence[int],
        num_classes: int,
        folds: dict[int, int],
        boundary: bool,
        each: Callable[[Frame, np.ndarray], None] | None,
    ) -> None:
        self.each = each
        self.classes, self.counted = tuple(classes), tuple(counted)
        self.fold = np.arange(256, dtype=np.uint8)
        self.fold[list(folds)] = list(folds.values())
        self.kept = np.full(256, IGNORE, np.uint8)  # trainIds whose pixels count, the others to 255
        self.kept[list(counted)] = counted
        self.boundary = np.zeros((2, num_classes), np.int64) if boundary else None
        self.matrix = ConfusionMatrix(num_classes)
        self.calibration = CalibrationError()
        self.by_uncertainty = ErrorDetection()
        self.frames: list[FrameScore] = []

    def add(self, frame: Frame, label: np.ndarray, segmentation: Segmentation, number: int) -> None:
        """Score one frame: label uint8 (h, w), and the segmentation's row of that number."""
        predicted = self.fold[segmentation.labels[number]]
        single = ConfusionMatrix(len(self.matrix.counts))
        single.update(predicted, label)
        self.matrix.counts += single.counts
        if self.each is not None:
            self.each(frame, single.counts)
        counts, pixels = single.class_counts(self.classes, self.counted), int(single.counts[list(self.counted)].sum())
        own = scores_from(self.classes, counts, pixels)
        self.frames.append(FrameScore(frame, own.pixel_accuracy, own.miou, counts, pixels))

        label = self.kept[label]
        if self.boundary is not None:
            self.boundary += boundary_counts(predicted, label, len(self.matrix.counts))
        valid = label != IGNORE
        correct = (predicted == label)[valid]
        assert segmentation.confidence is not None and segmentation.uncertainty is not None
        self.calibration.update(segmentation.confidence[number][valid], correct)
        self.by_uncertainty.update(segmentation.uncertainty[number][valid], correct)

    def boundary_iou(self) -> np.ndarray:
        """Boundary IoU of the scored classes, float64 in [0, 1]; NaN for one that nothing shows, or unasked."""
        if self.boundary is None:
            return np.full(len(self.classes), np.nan)
        both, either = self.boundary[:, list(self.classes)]
        return np.divide(both, either, out=np.full(len(self.classes), np.nan), where=either > 0)


def folded_predictions(model_classes: Sequence[int], dataset: PreparedDataset) -> dict[int, int]:
    """TrainIds that a model knows and a data set's labels do not distinguish -> those that their pixels have there.

    A prediction of the first kind is scored as the second: a truck is right where the labels know cars alone.
    """
    info = dataset.info
    ids, known = {name: i for i, name in enumerate(info.label_space.names)}, info.known_ids()
    pairs = ((ids[fine], ids[coarse]) for fine, coarse in info.covers.items())
    if known is None:
        return {}
    return {fine: coarse for fine, coarse in pairs if fine in model_classes and fine not in known and coarse in known}


def scored_classes(model_classes: Sequence[int], dataset: PreparedDataset) -> tuple[int, ...]:
    """The classes on which a model can be scored on a data set: those both know, its predictions folded.

    Args:
        model_classes: TrainIds the model was trained on.
        dataset: The data set.

    Raises:
        IccldError: They have no class in common.
    """
    folds = folded_predictions(model_classes, dataset)
    predicted = {folds.get(train_id, train_id) for train_id in model_classes}
    return shared_classes([predicted, dataset.info.known_ids()], len(dataset.info.label_space))


def chosen_classes(names: str, known: Sequence[int], space: LabelSpace) -> tuple[int, ...]:
    """Read the names of the classes to score.

    Pixels with other labels are left out; the model may still predict any class it knows, and is wrong where it
    predicts one of the others.

    Args:
        names: Class names, separated by commas.
        known: TrainIds that can be scored.
        space: Label space of both.

    Raises:
        IccldError: A name is not among the classes that can be scored.
    """
    possible = {space.names[i]: i for i in known}
    chosen = set()
    for name in (part.strip() for part in names.split(",")):
        if name not in possible:
            raise IccldError(f"class {name!r} cannot be scored here", did_you_mean(name, possible))
        chosen.add(possible[name])
    return tuple(sorted(chosen))


def check_label_space(space: LabelSpace, dataset: PreparedDataset) -> None:
    """Refuse a data set whose trainIds mean other classes than the model's.

    Raises:
        IccldError: The label spaces differ.
    """
    other = dataset.info.label_space
    if other.names != space.names:
        raise IccldError(
            f"{dataset.root} uses label space {other.name!r} ({len(other)} classes), "
            f"the model {space.name!r} ({len(space)} classes)",
            "prepare the data in the model's label space, or train a model on this one",
        )


def evaluate(
    model: Model,
    dataset: PreparedDataset,
    scope: Scope,
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[Frame, np.ndarray], None] | None = None,
) -> Evaluation:
    """Score a model on a split, at the resolution of each label.

    Args:
        model: The model.
        dataset: Where the frames come from.
        scope: What of it is scored.
        sampling: How the model predicts.
        progress: Called with (frames done, frames in all) after every batch.
        each: Called with every frame and its confusion matrix, int64 (K, K): row = label, column = folded prediction.

    Raises:
        IccldError: The split is missing or has no labels, a file cannot be read, the label space differs, or the model
            cannot do what is asked.
    """
    check_label_space(model.header.label_space, dataset)
    sampling = model.settle(sampling or Sampling())
    frames = labelled_frames(dataset, scope.split, scope.limit)
    classes = scored_classes(model.header.classes, dataset) if scope.classes is None else scope.classes
    space, folds = dataset.info.label_space, folded_predictions(model.header.classes, dataset)
    labelled = shared_classes([dataset.info.known_ids()], len(space))
    answered = {folds.get(train_id, train_id) for train_id in model.header.classes}
    counted = classes if scope.rule == "known" else sorted({*labelled, *classes})
    scorer = _Scorer(classes, counted, len(space), folds, scope.boundary, each)
    seconds, done = 0.0, 0

    def most(item: tuple[Frame, np.ndarray, np.ndarray]) -> int:
        return scope.batch_size or model.batch_size(item[1].shape[:2], sampling)

    loaded = prefetch(_read(dataset, frames), 4)
    try:
        for batch in group(loaded, lambda item: (item[1].shape, item[2].shape), most):
            started = time.perf_counter()
            images = np.stack([image for _, image, _ in batch])  # (B, H, W, 3)
            segmentation = model.segment(images, _WANTED, batch[0][2].shape, sampling)
            seconds += time.perf_counter() - started
            for number, (frame, _, label) in enumerate(batch):
                try:
                    scorer.add(frame, label, segmentation, number)
                except ValueError as error:
                    raise IccldError(f"{dataset.root / str(frame.label)}: {error}", "prepare it again") from None
            done += len(batch)
            if progress is not None:
                progress(done, len(frames))
    finally:
        loaded.close()
    assert sampling.steps is not None and sampling.seed is not None and sampling.height is not None
    return Evaluation(
        dataset=dataset.info.name,
        split=scope.split,
        label_space=space,
        rule=scope.rule,
        unknown=tuple(i for i in labelled if i not in answered),
        scores=scorer.matrix.scores(classes, counted),
        boundary_iou=scorer.boundary_iou(),
        confusion=scorer.matrix.counts,
        images=len(frames),
        steps=sampling.steps,
        samples=sampling.samples,
        seed=sampling.seed,
        scales=sampling.scales,
        flip=sampling.flip,
        average=sampling.average,
        height=sampling.height,
        backend=model.backend,
        precision=model.precision,
        folded={space.names[a]: space.names[b] for a, b in folds.items()},
        ece=scorer.calibration.value(),
        auroc=scorer.by_uncertainty.value(),
        reliability=tuple(scorer.calibration.curve()),
        seconds_per_image=seconds / len(frames),
        frames=tuple(scorer.frames),
    )


def labelled_frames(dataset: PreparedDataset, split: str, limit: int | None = None) -> list[Frame]:
    """The frames of a split that have a label.

    Args:
        dataset: The data set.
        split: The split.
        limit: Keep only this many, evenly spread; None or 0 for all.

    Raises:
        IccldError: The split is missing, or none of its frames has a label, or none a labelled pixel.
    """
    frames = [frame for frame in dataset.frames(split) if frame.label is not None]
    if not frames:
        raise IccldError(
            f"{dataset.root} has no labels in split {split!r}",
            "evaluation needs labels; choose another split",
        )
    if labelled_pixels(frames, range(len(dataset.info.label_space))) == 0:
        raise IccldError(f"{dataset.root} has no labelled pixel in split {split!r}", "is its label map right?")
    return evenly(frames, limit)


def _read(dataset: PreparedDataset, frames: list[Frame]) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
    """(frame, image (H, W, 3), label (h, w)) of each frame."""
    for frame in frames:
        yield frame, dataset.read_image(frame), dataset.read_label(frame)
