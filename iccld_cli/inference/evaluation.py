"""What an evaluation found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iccld_cli.data.prepared import Frame
from iccld_cli.labels import LabelSpace
from iccld_cli.metrics.confusion import SegmentationScores


@dataclass(frozen=True)
class FrameScore:
    """How one frame went, for picking the ones to look at.

    Attributes:
        frame: The frame.
        pixel_accuracy: Fraction in [0, 1]; NaN for a frame without a scored pixel.
        miou: Fraction in [0, 1], over the classes that its label or its prediction shows.
    """

    frame: Frame
    pixel_accuracy: float
    miou: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        dataset: Name of the data set.
        split: Its split.
        label_space: Classes that the ids index.
        scores: Pooled scores over the subset.
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
    scores: SegmentationScores
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

    def gallery(self, count: int) -> list[tuple[str, FrameScore]]:
        """Frames worth a look: half of them the worst, then the middle ones and the best.

        Args:
            count: How many.

        Returns:
            (`worst`, `middle` or `best`, score), each frame once, frames without a scored pixel left out.
        """
        ranked = sorted((f for f in self.frames if not math.isnan(f.miou)), key=lambda f: f.miou)
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
        per_class = zip(names, self.scores.iou, self.scores.accuracy, self.scores.pixels, strict=True)
        return {
            "miou": _percent(self.scores.miou),
            "pixel_accuracy": _percent(self.scores.pixel_accuracy),
            "classes": {
                name: {"iou": _percent(iou), "accuracy": _percent(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in per_class
            },
            "subset": list(names),
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
            "reliability": [[round(c, 5), round(a, 5), n] for c, a, n in self.reliability],
            "confusion": {"classes": list(self.label_space.names), "counts": self.confusion.tolist()},
        }


def _percent(fraction: float) -> float | None:
    return _rounded(100 * fraction, 4)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), digits)
