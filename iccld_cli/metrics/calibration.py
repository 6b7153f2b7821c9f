"""Are the confidences true, and does the uncertainty point at the errors?

Both are streamed through histograms of fixed size, so that memory does not grow with the number of pixels.
"""

from __future__ import annotations

import numpy as np


class CalibrationError:
    """Expected calibration error over equally wide confidence bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), equation 5.
    """

    def __init__(self, bins: int = 15) -> None:
        """No pixels yet.

        Args:
            bins: Number of bins that divide [0, 1].
        """
        self.bins = bins
        self.count = np.zeros(bins, np.int64)
        self.right = np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins, np.float64)

    def update(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add pixels.

        Args:
            confidence: Float array of any shape, probability of the predicted class in [0, 1].
            correct: Boolean array of the same shape, whether the prediction was right.
        """
        confidence, correct = np.asarray(confidence).ravel(), np.asarray(correct, dtype=bool).ravel()
        assert confidence.shape == correct.shape
        index = np.minimum((confidence * self.bins).astype(np.int64), self.bins - 1)  # 1.0 is in the last bin
        self.count += np.bincount(index, minlength=self.bins)
        self.right += np.bincount(index[correct], minlength=self.bins)
        self.confidence += np.bincount(index, weights=confidence, minlength=self.bins)

    def add(self, other: CalibrationError) -> None:
        """Add the pixels of another one."""
        self.count += other.count
        self.right += other.right
        self.confidence += other.confidence

    def value(self) -> float:
        """The error in [0, 1]: |accuracy - confidence| averaged over the pixels; NaN without any."""
        total = int(self.count.sum())
        return float(np.abs(self.right - self.confidence).sum() / total) if total else float("nan")

    def curve(self) -> list[tuple[float, float, int]]:
        """(mean confidence, accuracy, pixels) of every bin that holds pixels, from low to high confidence."""
        return [
            (float(c / n), float(r / n), int(n))
            for c, r, n in zip(self.confidence, self.right, self.count, strict=True)
            if n
        ]


class ErrorDetection:
    """How well an uncertainty score ranks wrong pixels above right ones: the area under the ROC curve.

    The scores are binned; pixels that share a bin count as ties (half). Areas are unchanged by a monotone
    transform of the score, so the bins divide its fourth root: the scores of confident pixels crowd near 0
    and would otherwise all tie.
    """

    def __init__(self, bins: int = 4096) -> None:
        """No pixels yet.

        Args:
            bins: Resolution of the score.
        """
        self.bins = bins
        self.right = np.zeros(bins, np.int64)
        self.wrong = np.zeros(bins, np.int64)

    def update(self, uncertainty: np.ndarray, correct: np.ndarray) -> None:
        """Add pixels.

        Args:
            uncertainty: Float array of any shape in [0, 1], high where the prediction should be distrusted.
            correct: Boolean array of the same shape, whether the prediction was right.
        """
        score, correct = np.asarray(uncertainty).ravel(), np.asarray(correct, dtype=bool).ravel()
        assert score.shape == correct.shape
        root = np.sqrt(np.sqrt(np.clip(score, 0, 1)))
        index = np.minimum((root * self.bins).astype(np.int64), self.bins - 1)
        self.right += np.bincount(index[correct], minlength=self.bins)
        self.wrong += np.bincount(index[~correct], minlength=self.bins)

    def add(self, other: ErrorDetection) -> None:
        """Add the pixels of another one."""
        self.right += other.right
        self.wrong += other.wrong

    def value(self) -> float:
        """The area in [0, 1], 0.5 = no better than chance; NaN when all pixels are right or all are wrong."""
        right, wrong = int(self.right.sum()), int(self.wrong.sum())
        if not right or not wrong:
            return float("nan")
        below = np.cumsum(self.right) - self.right
        wins = (self.wrong * (below + 0.5 * self.right)).sum(dtype=np.float64)
        return float(wins / right / wrong)
