"""Scores of a model on the labelled frames of a prepared data set.

The training's validation and `iccld evaluate` are this one function, so that their numbers mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset, labelled_pixels
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.inference.evaluation import Evaluation, FrameScore, Rule
from iccld_cli.inference.model import Model, Sampling, Segmentation, Want
from iccld_cli.inference.scoreparts import PIECE, State, pack, pieces, unpack
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
        each: Callable[[Frame, np.ndarray], None] | None = None,
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
        self.frames.append(_frame_score(frame, self.classes, counts, pixels))

        label = self.kept[label]
        if self.boundary is not None:
            self.boundary += boundary_counts(predicted, label, len(self.matrix.counts))
        valid = label != IGNORE
        correct = (predicted == label)[valid]
        assert segmentation.confidence is not None and segmentation.uncertainty is not None
        self.calibration.update(segmentation.confidence[number][valid], correct)
        self.by_uncertainty.update(segmentation.uncertainty[number][valid], correct)

    def absorb(self, other: _Scorer) -> None:
        """Add the frames of another one, which come after these."""
        self.matrix.counts += other.matrix.counts
        if self.boundary is not None and other.boundary is not None:
            self.boundary += other.boundary
        self.calibration.add(other.calibration)
        self.by_uncertainty.add(other.by_uncertainty)
        self.frames += other.frames

    def state(self) -> State:
        """All of it, JSON-ready."""
        return {
            "confusion": pack(self.matrix.counts),
            "boundary": None if self.boundary is None else pack(self.boundary),
            "calibration": [pack(self.calibration.count), pack(self.calibration.right)],
            "confidence": self.calibration.confidence.tolist(),
            "uncertainty": [pack(self.by_uncertainty.right), pack(self.by_uncertainty.wrong)],
            "frames": [[pack(score.counts), score.pixels] for score in self.frames],
        }

    def restore(self, state: State, frames: Sequence[Frame]) -> None:
        """Add what `state` gave of these frames.

        Raises:
            ValueError: It does not fit.
        """
        other = _Scorer(self.classes, self.counted, len(self.matrix.counts), {}, self.boundary is not None)
        try:
            other.matrix.counts += unpack(state["confusion"])
            if other.boundary is not None:
                other.boundary += unpack(state["boundary"])
            other.calibration.count += unpack(state["calibration"][0])
            other.calibration.right += unpack(state["calibration"][1])
            other.calibration.confidence += np.array(state["confidence"], np.float64)
            other.by_uncertainty.right += unpack(state["uncertainty"][0])
            other.by_uncertainty.wrong += unpack(state["uncertainty"][1])
            for frame, (counts, pixels) in zip(frames, state["frames"], strict=True):
                other.frames.append(_frame_score(frame, self.classes, unpack(counts), int(pixels)))
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError("a field is missing or damaged") from error
        self.absorb(other)

    def boundary_iou(self) -> np.ndarray:
        """Boundary IoU of the scored classes, float64 in [0, 1]; NaN for one that nothing shows, or unasked."""
        if self.boundary is None:
            return np.full(len(self.classes), np.nan)
        both, either = self.boundary[:, list(self.classes)]
        return np.divide(both, either, out=np.full(len(self.classes), np.nan), where=either > 0)


def _frame_score(frame: Frame, classes: Sequence[int], counts: np.ndarray, pixels: int) -> FrameScore:
    own = scores_from(classes, counts, pixels)
    return FrameScore(frame, own.pixel_accuracy, own.miou, counts, pixels)


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
    work = Scoring(model, dataset, scope, sampling)
    work.run(pieces(len(work.frames)), progress, each=each)
    return work.result()


class Scoring:
    """The frames of a split, scored in pieces of `PIECE`.

    Attributes:
        frames: All of them.
    """

    def __init__(self, model: Model, dataset: PreparedDataset, scope: Scope, sampling: Sampling | None = None) -> None:
        """Nothing is read yet but the index.

        Args:
            model: The model.
            dataset: Where the frames come from.
            scope: What of it is scored.
            sampling: How the model predicts.

        Raises:
            IccldError: The split is missing or has no labels, the label space differs, or the model cannot do what is
                asked.
        """
        check_label_space(model.header.label_space, dataset)
        self.model, self.dataset, self.scope = model, dataset, scope
        self.sampling = model.settle(sampling or Sampling())
        self.frames = labelled_frames(dataset, scope.split, scope.limit)
        self.classes = scored_classes(model.header.classes, dataset) if scope.classes is None else scope.classes
        self.folds = folded_predictions(model.header.classes, dataset)
        self.labelled = shared_classes([dataset.info.known_ids()], len(dataset.info.label_space))
        self.counted = self.classes if scope.rule == "known" else sorted({*self.labelled, *self.classes})
        self._total, self._seconds = self._scorer(), 0.0

    def run(
        self,
        numbers: Iterable[int],
        progress: Callable[[int, int], None] | None = None,
        keep: Callable[[int, State], None] | None = None,
        each: Callable[[Frame, np.ndarray], None] | None = None,
    ) -> None:
        """Score pieces.

        Args:
            numbers: Which, ascending.
            progress: Called with (frames done, frames in all) after every batch.
            keep: Called with the number of a piece that is done and what it gave; batches then end with pieces.
            each: See `evaluate`.

        Raises:
            IccldError: A file cannot be read.
        """
        wanted = list(numbers)
        todo = [position for number in wanted for position in self._positions(number)]
        own, current, done, before = self._scorer(each), None, 0, self._seconds

        def most(item: tuple[int, Frame, np.ndarray, np.ndarray]) -> int:
            return self.scope.batch_size or self.model.batch_size(item[2].shape[:2], self.sampling)

        def finish() -> None:
            if current is not None and keep is not None:
                keep(current, {**own.state(), "seconds": self._seconds - before})
            self._total.absorb(own)

        def alike(item: tuple[int, Frame, np.ndarray, np.ndarray]) -> object:
            return item[2].shape, item[3].shape, None if keep is None else item[0] // PIECE

        loaded = prefetch(self._read(todo), 4)
        try:
            for batch in group(loaded, alike, most):
                previous = self._seconds
                started = time.perf_counter()
                images = np.stack([image for _, _, image, _ in batch])  # (B, H, W, 3)
                segmentation = self.model.segment(images, _WANTED, batch[0][3].shape, self.sampling)
                self._seconds += time.perf_counter() - started
                for row, (position, frame, _, label) in enumerate(batch):
                    if position // PIECE != current:  # sums are made piece by piece, as those of parts are
                        finish()
                        own, current, before = self._scorer(each), position // PIECE, previous
                    try:
                        own.add(frame, label, segmentation, row)
                    except ValueError as error:
                        file = self.dataset.root / str(frame.label)
                        raise IccldError(f"{file}: {error}", "prepare it again") from None
                done += len(batch)
                if progress is not None:
                    progress(done, len(todo))
            finish()
        finally:
            loaded.close()

    def restore(self, number: int, state: State) -> None:
        """Take in what a piece gave elsewhere; pieces come in order.

        Raises:
            ValueError: It is damaged.
        """
        self._total.restore(state, [self.frames[position] for position in self._positions(number)])
        self._seconds += float(state["seconds"])

    def result(self) -> Evaluation:
        """The scores of all pieces so far."""
        space, sampling, model, total = self.dataset.info.label_space, self.sampling, self.model, self._total
        answered = {self.folds.get(train_id, train_id) for train_id in model.header.classes}
        assert sampling.steps is not None and sampling.seed is not None and sampling.height is not None
        return Evaluation(
            dataset=self.dataset.info.name,
            split=self.scope.split,
            label_space=space,
            rule=self.scope.rule,
            unknown=tuple(i for i in self.labelled if i not in answered),
            scores=total.matrix.scores(self.classes, self.counted),
            boundary_iou=total.boundary_iou(),
            confusion=total.matrix.counts,
            images=len(total.frames),
            steps=sampling.steps,
            samples=sampling.samples,
            seed=sampling.seed,
            scales=sampling.scales,
            flip=sampling.flip,
            average=sampling.average,
            height=sampling.height,
            backend=model.backend,
            precision=model.precision,
            folded={space.names[a]: space.names[b] for a, b in self.folds.items()},
            ece=total.calibration.value(),
            auroc=total.by_uncertainty.value(),
            reliability=tuple(total.calibration.curve()),
            seconds_per_image=self._seconds / len(total.frames),
            frames=tuple(total.frames),
        )

    def _scorer(self, each: Callable[[Frame, np.ndarray], None] | None = None) -> _Scorer:
        classes = len(self.dataset.info.label_space)
        return _Scorer(self.classes, self.counted, classes, self.folds, self.scope.boundary, each)

    def _positions(self, number: int) -> range:
        return range(number * PIECE, min((number + 1) * PIECE, len(self.frames)))

    def _read(self, positions: Sequence[int]) -> Iterator[tuple[int, Frame, np.ndarray, np.ndarray]]:
        """(position, frame, image (H, W, 3), label (h, w)) of each frame."""
        for position in positions:
            frame = self.frames[position]
            yield position, frame, self.dataset.read_image(frame), self.dataset.read_label(frame)


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
