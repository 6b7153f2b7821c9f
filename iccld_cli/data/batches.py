"""Training batches: the crops of both domains for a step number.

A step's whole batch is `world` ranks x `accumulate` micro-batches x `batch_size` samples. Sample n of it is drawn from
(seed, step, n) alone, so that neither workers nor the way it is split change what a step sees.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iccld_cli.data.crops import CropBox, box_at, cut_image, cut_label, place_of, random_box, surrounding_box
from iccld_cli.data.loading import load_ahead
from iccld_cli.data.prepared import Frame, PreparedDataset, labelled_pixels
from iccld_cli.data.sampling import ANNOTATED, SOURCE, TARGET, RareClassSampler, choose_classmix, sample_rng
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE
from iccld_cli.sections import DataConfig

if TYPE_CHECKING:
    from iccld_cli.data.annotated import AnnotatedCrops

_CROP_TRIES = 10


@dataclass(frozen=True)
class FramePool:
    """Frames of one domain, from one or more data sets.

    Attributes:
        datasets: The data sets.
        frames: (index of the data set, frame) for every frame.
    """

    datasets: tuple[PreparedDataset, ...]
    frames: tuple[tuple[int, Frame], ...]

    @classmethod
    def of(cls, datasets: list[PreparedDataset], split: str = "train") -> FramePool:
        """All frames of a split of several data sets."""
        frames = tuple((i, f) for i, d in enumerate(datasets) for f in d.frames(split))
        return cls(tuple(datasets), frames)

    def check_labelled(self, ids: Iterable[int]) -> None:
        """Refuse data sets without a single pixel to learn from.

        Args:
            ids: TrainIds that are learned.

        Raises:
            IccldError: All labels of a data set are ignored.
        """
        ids = frozenset(ids)
        for number, dataset in enumerate(self.datasets):
            if labelled_pixels((frame for of, frame in self.frames if of == number), ids) == 0:
                raise IccldError(
                    f"source {dataset.root} has no labelled pixel of the classes trained on",
                    "look at it with `iccld inspect`; is its label map right?",
                )

    def median_height(self) -> float:
        """Median height of the frames in pixels."""
        return float(np.median([f.height for _, f in self.frames]))

    def read(self, index: int, *, label: bool) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Decode a frame: image, label or None, and a name for messages."""
        number, frame = self.frames[index]
        dataset = self.datasets[number]
        image = dataset.read_image(frame)
        return image, dataset.read_label(frame) if label else None, f"{dataset.info.name}/{frame.image}"

    def ignored(self, index: int) -> np.ndarray | None:
        """Where a frame is not the scene, see `PreparedDataset.ignored`."""
        number, frame = self.frames[index]
        return self.datasets[number].ignored(frame)

    def has_ignored(self) -> bool:
        """Whether any of the data sets has such a region."""
        return any("ignored" in dataset.info.extra for dataset in self.datasets)


def trained_height(config: DataConfig, target: FramePool | None) -> int | None:
    """Rows of a whole frame at the scale that a network is trained at.

    Target crops come at a range of scales, source crops at those that make both equally high. Of the range it is the
    scale nearest to the frames' own, which costs and invents nothing; within a range of 1 to 1.5 scores differ by less
    than a point ("Height" in benchmarks/RESULTS.md).

    Args:
        config: Its scales.
        target: Unlabelled frames, whose median height is scale 1.

    Returns:
        The height in pixels; None without a target, where every source keeps its own height.
    """
    if target is None:
        return None
    low, high = config.target_scale
    return round(target.median_height() * min(max(1.0, low), high))


@dataclass(frozen=True)
class _Window:
    """Where a source crop lies in its frame, in terms that hold for a frame of another size: `data.same_window`."""

    scale: float
    place: tuple[float, float]
    flip: bool


@dataclass(frozen=True)
class _TargetSample:
    image: np.ndarray
    pseudo_valid: np.ndarray
    surroundings: np.ndarray
    place: tuple[int, int]
    name: str
    ignored: np.ndarray


def fold_counts(frame: Frame, folds: Mapping[int, int]) -> Frame:
    """A frame whose pixel counts are those of the classes that its labels are trained as."""
    if not folds or not frame.pixels or folds.keys().isdisjoint(frame.pixels):
        return frame
    counts: dict[int, int] = {}
    for train_id, count in frame.pixels.items():
        train_id = folds.get(train_id, train_id)
        counts[train_id] = counts.get(train_id, 0) + count
    return replace(frame, pixels=counts)


@dataclass(frozen=True)
class Batch:
    """A micro-batch as it is loaded.

    Attributes:
        source: uint8 (B, 3, h, w) RGB.
        label: uint8 (B, h, w) trainIds, 255 ignored.
        paste: bool (B, h, w), pixels that ClassMix pastes.
        names: Names of the source frames, and of the target and the annotated frames where there are any.
        first: Number of its first sample in the step's whole batch.
        micro: Its number in the step, and their count.
        labelled: Source pixels with a label.
        target: uint8 (B, 3, h, w) RGB; None without a target, as are the next three.
        pseudo_valid: bool (B, h, w), False on pixels without pseudo-labels: border rows, padding, and what is ignored.
        surroundings: uint8 (B, 3, H, W), windows around the target crops; None without `data.context`.
        places: int64 (B, 2), top and left of the target crops in `surroundings`.
        ignored: bool (B, h, w), True where a target crop is not the scene (`PreparedDataset.ignored`); None where no
            target says so.
        annotated: uint8 (B, 3, h, w) RGB, crops of the target that have labels; None where no frame has any.
        annotation: uint8 (B, h, w), their trainIds, and K + g for a pixel of group g; 255 ignored.
        groups: TrainIds that a pixel of a group may show, see `data.annotated`.
    """

    source: torch.Tensor
    label: torch.Tensor
    paste: torch.Tensor
    names: list[list[str]]
    first: int
    micro: tuple[int, int]
    labelled: int
    target: torch.Tensor | None = None
    pseudo_valid: torch.Tensor | None = None
    surroundings: torch.Tensor | None = None
    places: torch.Tensor | None = None
    ignored: torch.Tensor | None = None
    annotated: torch.Tensor | None = None
    annotation: torch.Tensor | None = None
    groups: tuple[tuple[int, ...], ...] = ()


class TrainingBatches(Dataset):
    """Item `step * accumulate + m` is micro-batch m of that step (map style, so that a loader can start anywhere).

    Labels of the target are never opened, those of `annotated` and `answered` aside.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        source: FramePool,
        target: FramePool | None,
        classes: tuple[int, ...],
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        folds: Mapping[int, int] | None = None,
        annotated: AnnotatedCrops | None = None,
        answered: AnnotatedCrops | None = None,
    ) -> None:
        """Prepare drawing.

        Args:
            config: Crops and sampling.
            seed: Seed of the run.
            source: Labelled frames.
            target: Unlabelled frames, or None for training on the source alone.
            classes: TrainIds that take part; other label pixels become ignored.
            rank: Number of this process.
            world: Number of processes; each draws `batch_size` samples of a micro-batch.
            accumulate: Micro-batches a step.
            folds: TrainId of a source label -> the one of `classes` that it is trained as.
            annotated: Draws labelled crops of the target, as many as there are source crops; None without.
            answered: The same of labels that a model gave. Where there are both, every other crop is of these: a few
                labels of a person are not lost among them.
        """
        folds = folds or {}
        self.config = config
        self.seed = seed
        self.source, self.target = source, target
        self.marked = [drawer for drawer in (annotated, answered) if drawer is not None]
        self.rank, self.world = rank, world
        self.accumulate = accumulate
        self.sampler = RareClassSampler(
            [fold_counts(f, folds) for _, f in source.frames],
            classes,
            config.rare_class_temperature,
            config.rare_class_pixels,
        )
        self._lut = np.full(256, IGNORE, np.uint8)
        self._lut[list(classes)] = list(classes)
        self._lut[list(folds)] = list(folds.values())
        self._reference = target.median_height() if target else None
        self._has_ignored = target is not None and target.has_ignored()

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, item: int) -> Batch:
        return Batch(**self.fields(item))

    def fields(self, item: int) -> dict[str, Any]:
        """The fields of a `Batch` by name, as loading processes hand them over."""
        step, micro = divmod(item, self.accumulate)
        first = (micro * self.world + self.rank) * self.config.batch_size
        numbers = range(first, first + self.config.batch_size)
        images, labels, pastes, names, windows = zip(*(self._source_sample(step, n) for n in numbers), strict=True)
        batch: dict[str, Any] = {
            "source": _stack_images(images),
            "label": torch.from_numpy(np.stack(labels)),
            "paste": torch.from_numpy(np.stack(pastes)),
            "names": [list(names)],
            "first": first,
            "micro": (micro, self.accumulate),
            "labelled": sum(int((label != IGNORE).sum()) for label in labels),
        }
        if self.target is not None:
            same = self.config.same_window
            samples = [self._target_sample(step, n, w if same else None) for n, w in zip(numbers, windows, strict=True)]
            batch["target"] = _stack_images([s.image for s in samples])
            batch["pseudo_valid"] = torch.from_numpy(np.stack([s.pseudo_valid for s in samples]))
            batch["names"].append([s.name for s in samples])
            if self._has_ignored:
                batch["ignored"] = torch.from_numpy(np.stack([s.ignored for s in samples]))
            if self.config.context != (0, 0):
                batch["surroundings"] = _stack_images([s.surroundings for s in samples])
                batch["places"] = torch.tensor([s.place for s in samples])
        if self.marked:
            turns = [(n, self.marked[(step + n) % len(self.marked)]) for n in numbers]
            drawn = [drawer.draw(sample_rng(self.seed, step, n, ANNOTATED)) for n, drawer in turns]
            images, labels, names = zip(*drawn, strict=True)
            batch["annotated"] = _stack_images(images)
            batch["annotation"] = torch.from_numpy(np.stack(labels))
            batch["groups"] = self.marked[0].meaning.groups
            batch["names"].append(list(names))
        return batch

    def _source_sample(self, step: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str, _Window]:
        rng = sample_rng(self.seed, step, number, SOURCE)
        index, wanted = self.sampler.draw(rng)
        image, label, name = self.source.read(index, label=True)
        assert label is not None
        label = self._lut[label]
        height, width = label.shape
        base = (self._reference or height) / height
        crop, best = self.config.crop, None
        for _ in range(_CROP_TRIES if wanted is not None else 1):
            drawn = rng.uniform(*self.config.source_scale)
            scale = fit_scale(base * drawn, (width, height), crop)
            box = random_box((width, height), crop, scale, rng)
            found = cut_label(label, box, crop)
            seen = int((found == wanted).sum()) if wanted is not None else 0
            if best is None or seen > best[0]:
                best = (seen, box, found, drawn)
            if seen >= self.config.rare_class_pixels:
                break
        assert best is not None
        _, box, found, drawn = best
        window = _Window(drawn, place_of(box, (width, height)), box.flip)
        return cut_image(image, box, crop), found, choose_classmix(found, rng), name, window

    def _target_sample(self, step: int, number: int, window: _Window | None) -> _TargetSample:
        assert self.target is not None and self._reference is not None
        rng = sample_rng(self.seed, step, number, TARGET)
        index = int(rng.integers(len(self.target.frames)))
        image, _, name = self.target.read(index, label=False)
        height, width = image.shape[:2]
        crop, size = self.config.crop, self.config.context
        drawn = rng.uniform(*self.config.target_scale) if window is None else window.scale
        scale = fit_scale(self._reference / height * drawn, (width, height), crop)
        box, place = self._target_box((width, height), scale, window, rng), (0, 0)
        if size != (0, 0):
            box, place = surrounding_box(box, (width, height), crop, size)
        else:
            size = crop
        surroundings = cut_image(image, box, size)
        rows_used = np.zeros((height, width), np.uint8)
        first = round(height * self.config.ignore_rows_top)
        last = height - round(height * self.config.ignore_rows_bottom)
        rows_used[first:last] = 1
        ignored = self.target.ignored(index)
        if ignored is not None:
            rows_used[ignored] = 2
        used = cut_label(rows_used, box, size)
        pseudo_valid = used == 1  # padding is not valid either
        rows, columns = (slice(first, first + side) for first, side in zip(place, crop[::-1], strict=True))
        return _TargetSample(
            surroundings[rows, columns],
            pseudo_valid[rows, columns],
            surroundings,
            place,
            name,
            used[rows, columns] == 2,
        )

    def _target_box(
        self, frame: tuple[int, int], scale: float, window: _Window | None, rng: np.random.Generator
    ) -> CropBox:
        if window is None:
            return random_box(frame, self.config.crop, scale, rng)
        return box_at(frame, self.config.crop, scale, window.place, window.flip)


def fit_scale(scale: float, frame: tuple[int, int], crop: tuple[int, int]) -> float:
    """At least the scale at which the frame covers the crop, but at most twice the scale: the rest is padding."""
    cover = max(crop[0] / frame[0], crop[1] / frame[1])
    return max(scale, min(cover, 2 * scale))


def _stack_images(images: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_steps(batches: TrainingBatches, start: int, stop: int, pin_memory: bool) -> Generator[list[Batch], None, None]:
    """The micro-batches of each step from `start` to `stop`, decoded ahead by worker processes.

    Args:
        batches: The batches.
        start: First step.
        stop: Step behind the last.
        pin_memory: Whether to stage batches for an asynchronous copy to a GPU.

    Yields:
        The `accumulate` micro-batches of a step.

    Raises:
        IccldError: A frame cannot be read, or a worker died.
    """
    workers, count = batches.config.workers, batches.accumulate
    with load_ahead(batches.fields, start * count, stop * count, workers, pin_memory) as items:
        step: list[Batch] = []
        for item in items:
            step.append(Batch(**item))
            if len(step) == count:
                yield step
                step = []
