"""What an evaluation found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from iccld_cli.data.prepared import Frame
from iccld_cli.labels import LabelSpace
from iccld_cli.metrics.bootstrap import LEVEL, RESAMPLES, SEED, interval, mean_of_classes, resampled_iou
from iccld_cli.metrics.confusion import ConfusionMatrix, SegmentationScores, scores_from

Rule = Literal["known", "official"]
"""Which labelled pixels count: `known`, those of the scored classes; `official`, all, as in cityscapesScripts."""

WORST = 10
"""Frames that are listed as the worst."""


@dataclass(frozen=True)
class FrameScore:
    """How one frame went, for picking the ones to look at.

    Attributes:
        frame: The frame.
        pixel_accuracy: Fraction in [0, 1]; NaN for a frame without a scored pixel.
        miou: Fraction in [0, 1], over the classes that its label or its prediction shows.
        counts: int64 (3, S), see `ConfusionMatrix.class_counts`.
        pixels: Pixels that count.
    """

    frame: Frame
    pixel_accuracy: float
    miou: float
    counts: np.ndarray
    pixels: int


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        dataset: Name of the data set.
        split: Its split.
        label_space: Classes that the ids index.
        rule: Which pixels count.
        unknown: TrainIds that the labels know and the model does not; under `official` their pixels are wrong.
        scores: Pooled scores over the subset.
        boundary_iou: float64 (len(subset),), fractions in [0, 1]; NaN for a class that nothing shows.
        confusion: int64 (K, K), row = label, column = prediction, over all classes.
        images: Number of frames.
        steps: Sampling steps.
        samples: Noise seeds.
        seed: First noise seed.
        scales: Factors on the images' size.
        flip: Whether mirrored images were looked at.
        average: Whether the answers are the mean of all passes.
        height: Rows at which the network saw the images; 0 for their own.
        backend: What ran the network, see `Model`.
        precision: Type that it computed in.
        folded: Class name -> the class as which its predictions were scored.
        ece: Expected calibration error in [0, 1], 15 bins.
        auroc: Area under the ROC of finding the wrong pixels by the uncertainty (`model.Segmentation`), in [0, 1].
        reliability: (mean confidence, accuracy, pixels) of the calibration bins.
        seconds_per_image: Time in the network, reading and scoring left out.
        frames: Scores of every frame.
    """

    dataset: str
    split: str
    label_space: LabelSpace
    rule: Rule
    unknown: tuple[int, ...]
    scores: SegmentationScores
    boundary_iou: np.ndarray
    confusion: np.ndarray
    images: int
    steps: int
    samples: int
    seed: int
    scales: tuple[float, ...]
    flip: bool
    average: bool
    height: int
    backend: str
    precision: str
    folded: dict[str, str]
    ece: float
    auroc: float
    reliability: tuple[tuple[float, float, int], ...]
    seconds_per_image: float
    frames: tuple[FrameScore, ...]

    @property
    def miou(self) -> float:
        """Mean IoU in percent; NaN where nothing could be scored."""
        return 100 * self.scores.miou

    @property
    def miou_of_all(self) -> float:
        """The class average of cityscapesScripts, in [0, 1]: over all classes that a label or an answer shows.

        One that the model does not know has 0, and so has one that it answers and no label shows.
        """
        matrix = ConfusionMatrix(len(self.label_space))
        matrix.counts = self.confusion
        return matrix.scores().miou

    @cached_property
    def resampled(self) -> np.ndarray:
        """float64 (R, S): IoU of the classes in each resample of the images, see `metrics.bootstrap`."""
        return resampled_iou(np.stack([frame.counts for frame in self.frames]))

    @property
    def miou_interval(self) -> tuple[float, float] | None:
        """Where 95 % of the resamples' mean IoUs lie, in [0, 1]; None where nothing can be scored."""
        return interval(mean_of_classes(self.resampled))

    def ranked(self) -> list[FrameScore]:
        """Frames with a scored pixel, the worst first."""
        return sorted((f for f in self.frames if not math.isnan(f.miou)), key=lambda f: f.miou)

    def group(self, members: Sequence[int]) -> GroupScore:
        """Scores over some of the frames.

        Args:
            members: Positions in `frames`.
        """
        frames = [self.frames[i] for i in members]
        counts = np.stack([frame.counts for frame in frames])
        scores = scores_from(self.scores.subset, counts.sum(axis=0), sum(frame.pixels for frame in frames))
        return GroupScore(scores, len(frames), interval(mean_of_classes(resampled_iou(counts))))

    def gallery(self, count: int) -> list[tuple[str, FrameScore]]:
        """Frames worth a look: half of them the worst, then the middle ones and the best.

        Args:
            count: How many.

        Returns:
            (`worst`, `middle` or `best`, score), each frame once, frames without a scored pixel left out.
        """
        ranked = self.ranked()
        count = min(count, len(ranked))
        worst, best = (count + 1) // 2, count // 4
        middle = count - worst - best
        start = max(worst, (len(ranked) - middle) // 2)
        return (
            [("worst", score) for score in ranked[:worst]]
            + [("middle", score) for score in ranked[start : start + middle]]
            + [("best", score) for score in ranked[len(ranked) - best :][::-1]]
        )

    def to_json(self) -> dict:
        """The evaluation as JSON: scores in percent, null where there is nothing to score."""
        names = self.label_space.names_of(self.scores.subset)
        return {
            "miou": _percent(self.scores.miou),
            "pixel_accuracy": _percent(self.scores.pixel_accuracy),
            "classes": _class_rows(names, self.scores, self.boundary_iou, self.resampled),
            "subset": list(names),
            "rule": self.rule,
            "not_known": list(self.label_space.names_of(self.unknown)),
            "miou_of_all": _percent(self.miou_of_all),
            "class_accuracy": _percent(float(mean_of_classes(self.scores.accuracy))),
            "boundary_iou": _percent(float(mean_of_classes(self.boundary_iou))),
            "interval": percent_interval(self.miou_interval),
            "bootstrap": {"over": "images", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
            "images": self.images,
            "dataset": self.dataset,
            "split": self.split,
            "steps": self.steps,
            "samples": self.samples,
            "seed": self.seed,
            "scales": list(self.scales),
            "flip": self.flip,
            "average": self.average,
            "height": self.height or None,
            "backend": self.backend,
            "precision": self.precision,
            "folded": self.folded,
            "ece": _rounded(self.ece, 6),
            "auroc": _rounded(self.auroc, 6),
            "seconds_per_image": round(self.seconds_per_image, 5),
            "worst": [
                {"image": f.frame.image, "miou": _percent(f.miou), "pixel_accuracy": _percent(f.pixel_accuracy)}
                for f in self.ranked()[:WORST]
            ],
            "reliability": [[round(c, 5), round(a, 5), n] for c, a, n in self.reliability],
            "confusion": {"classes": list(self.label_space.names), "counts": self.confusion.tolist()},
        }


@dataclass(frozen=True)
class GroupScore:
    """Scores over some frames of a set.

    Attributes:
        scores: Pooled over them.
        images: Their number.
        interval: Of the mean IoU, in [0, 1]; None where nothing can be scored.
    """

    scores: SegmentationScores
    images: int
    interval: tuple[float, float] | None

    def to_json(self, space: LabelSpace) -> dict[str, Any]:
        """The scores as JSON, in percent."""
        return {
            "miou": _percent(self.scores.miou),
            "interval": percent_interval(self.interval),
            "pixel_accuracy": _percent(self.scores.pixel_accuracy),
            "images": self.images,
            "classes": {
                name: {"iou": _percent(iou), "pixels": int(pixels)}
                for name, iou, pixels in zip(
                    space.names_of(self.scores.subset), self.scores.iou, self.scores.pixels, strict=True
                )
            },
        }


def difference(first: Evaluation, other: Evaluation) -> dict[str, Any]:
    """How another run differs from the first, over the same frames and classes.

    Args:
        first: The run to compare with.
        other: The run.

    Returns:
        JSON in points of percent: `miou`, its paired bootstrap `interval`, and `classes`, name -> the same two.
    """
    assert first.scores.subset == other.scores.subset and len(first.frames) == len(other.frames)
    gap = mean_of_classes(other.resampled) - mean_of_classes(first.resampled)
    names = first.label_space.names_of(first.scores.subset)
    pairs = zip(names, other.scores.iou - first.scores.iou, (other.resampled - first.resampled).T, strict=True)
    return {
        "miou": _percent(other.scores.miou - first.scores.miou),
        "interval": percent_interval(interval(gap)),
        "classes": {
            name: {"iou": _percent(value), "interval": percent_interval(interval(draws))}
            for name, value, draws in pairs
        },
    }


def grouped(runs: Sequence[Evaluation], field: str, groups: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Scores of the groups of frames, as JSON, one object a run.

    Args:
        runs: Over the same frames.
        field: By what they were grouped.
        groups: Name -> positions in the runs' `frames`.
    """
    return [
        {
            "field": field,
            "groups": {name: run.group(members).to_json(run.label_space) for name, members in groups.items()},
        }
        for run in runs
    ]


def _class_rows(
    names: Sequence[str], scores: SegmentationScores, boundary: np.ndarray, resampled: np.ndarray
) -> dict[str, dict[str, Any]]:
    columns = zip(names, scores.iou, scores.accuracy, boundary, resampled.T, scores.pixels, strict=True)
    return {
        name: {
            "iou": _percent(iou),
            "interval": percent_interval(interval(draws)),
            "accuracy": _percent(accuracy),
            "boundary_iou": _percent(band),
            "pixels": int(pixels),
        }
        for name, iou, accuracy, band, draws, pixels in columns
    }


def percent_interval(bounds: tuple[float, float] | None) -> list[float] | None:
    """(low, high) in [0, 1] as JSON, in percent."""
    return None if bounds is None else [round(100 * bound, 4) for bound in bounds]


def _percent(fraction: float) -> float | None:
    return _rounded(100 * fraction, 4)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), digits)
