"""Pooled confusion matrix and the scores read from it.

One matrix is filled over all images of a data set and scored once, as the Cityscapes benchmark does; the mean
of per-image scores is a different number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iccld_cli.labels import IGNORE


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over a subset of the classes, as fractions in [0, 1].

    Attributes:
        subset: TrainIds that were scored.
        iou: float64 (len(subset),), intersection over union; NaN for a class that neither a label nor a
            prediction shows.
        accuracy: float64 (len(subset),), share of a class's label pixels that were predicted right; NaN for a
            class without label pixels.
        pixels: int64 (len(subset),), label pixels of each class.
        miou: Mean of `iou` without the NaNs; NaN where nothing is left.
        pixel_accuracy: Share of right pixels among those that count; NaN if none.
    """

    subset: tuple[int, ...]
    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray
    miou: float
    pixel_accuracy: float


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, accumulated over any number of batches.

    Attributes:
        counts: int64 (K, K); row = label, column = prediction.
    """

    def __init__(self, num_classes: int) -> None:
        """An empty matrix.

        Args:
            num_classes: K, size of the label space, at most 255.
        """
        assert 1 <= num_classes <= IGNORE
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: Integer array of any shape, trainIds in [0, K).
            label: Integer array of the same shape, trainIds in [0, K) or 255 for pixels to leave out.

        Raises:
            ValueError: The shapes differ, or a value is outside the label space.
        """
        prediction, label = np.asarray(prediction).ravel(), np.asarray(label).ravel()
        if prediction.shape != label.shape:
            raise ValueError(f"{prediction.size} predictions for {label.size} labels")
        valid = label != IGNORE
        prediction, label = prediction[valid], label[valid]
        total = len(self.counts)
        for name, values in (("prediction", prediction), ("label", label)):
            if values.size and not 0 <= int(values.min()) <= int(values.max()) < total:
                raise ValueError(f"{name} value {int(values.max())} is outside the label space of {total} classes")
        # bincount on the host: with deterministic algorithms its CUDA twin is far slower than the copy.
        pairs = label.astype(np.int64) * total + prediction
        self.counts += np.bincount(pairs, minlength=total * total).reshape(total, total)

    def scores(self, subset: Sequence[int] | None = None, counted: Sequence[int] | None = None) -> SegmentationScores:
        """Score a subset of the classes.

        On the pixels that count any class may be predicted; one outside the subset is an error.

        Args:
            subset: TrainIds to score; None for all.
            counted: TrainIds whose labelled pixels count, the subset among them; the others are left out, as if they
                were 255. None for the subset.
        """
        ids = tuple(range(len(self.counts)) if subset is None else subset)
        rows = self.counts[list(ids if counted is None else counted)]
        return scores_from(ids, self.class_counts(ids, counted), int(rows.sum()))

    def class_counts(self, subset: Sequence[int], counted: Sequence[int] | None = None) -> np.ndarray:
        """What the scores of a subset are computed from.

        Args:
            subset: TrainIds.
            counted: See `scores`.

        Returns:
            int64 (3, len(subset)): pixels of each class that are right, labelled, and predicted.
        """
        ids = np.asarray(subset, dtype=np.int64)
        rows = self.counts[ids if counted is None else np.asarray(counted, dtype=np.int64)]
        return np.stack([self.counts[ids, ids], self.counts[ids].sum(axis=1), rows[:, ids].sum(axis=0)])


def scores_from(subset: Sequence[int], counts: np.ndarray, total: int | None = None) -> SegmentationScores:
    """Scores from the counts of the classes.

    Args:
        subset: TrainIds.
        counts: int64 (3, len(subset)), see `ConfusionMatrix.class_counts`; those of several images added up.
        total: Pixels that count; None for those labelled with a class of the subset.
    """
    right, labelled, predicted = counts
    iou = _ratio(right, labelled + predicted - right)
    present = iou[~np.isnan(iou)]
    return SegmentationScores(
        subset=tuple(int(i) for i in subset),
        iou=iou,
        accuracy=_ratio(right, labelled),
        pixels=labelled,
        miou=float(present.mean()) if present.size else float("nan"),
        pixel_accuracy=float(_ratio(right.sum(), np.asarray(labelled.sum() if total is None else total))),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
