"""Which frame comes next: rare-class sampling, as a function of (seed, step, sample).

Randomness here never depends on workers, batch size or device count: every sample has a generator of its own,
so a run can be stopped, moved and continued without keeping any random state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iccld_cli.data.prepared import Frame
from iccld_cli.labels import IGNORE

SOURCE, TARGET, MODEL, ANNOTATED = range(4)
"""Streams of random numbers that must not share their draws."""


def sample_rng(seed: int, step: int, sample: int, stream: int) -> np.random.Generator:
    """The generator of one sample of one step.

    Args:
        seed: Seed of the run.
        step: Training step, from 0.
        sample: Index of the sample in the whole batch of all processes.
        stream: One of `SOURCE`, `TARGET`, `MODEL`, `ANNOTATED`.
    """
    return np.random.default_rng([seed, step, sample, stream])


class RareClassSampler:
    """Draws source frames so that rare classes are seen often (DAFormer, section 3.2).

    P(c) = softmax((1 - f_c) / T) over the classes that occur, f_c = share of the pixels of c (equation 6).

    Attributes:
        classes: TrainIds that can be drawn.
        probabilities: Their probabilities.
    """

    def __init__(
        self, frames: Sequence[Frame], classes: Sequence[int], temperature: float, min_pixels: int = 1
    ) -> None:
        """Count classes from the index; no image is read.

        Args:
            frames: Labelled frames.
            classes: TrainIds that take part.
            temperature: T; 0 draws frames uniformly.
            min_pixels: A frame counts for a class from this many pixels on; where no frame has as many, the
                richest tenth counts.
        """
        counts = np.zeros((len(frames), len(classes)), np.int64)
        for row, frame in enumerate(frames):
            for column, c in enumerate(classes):
                counts[row, column] = (frame.pixels or {}).get(c, 0)
        self._count = len(frames)
        self._temperature = temperature
        total = counts.sum(axis=0)
        present = [int(i) for i in np.flatnonzero(total)]
        self.classes = tuple(int(classes[i]) for i in present)
        share = total[present] / max(total.sum(), 1)
        weight = np.exp((1 - share) / max(temperature, 1e-6) - ((1 - share) / max(temperature, 1e-6)).max(initial=0))
        self.probabilities = weight / weight.sum() if len(weight) else weight
        self._frames_of = {int(classes[i]): self._candidates(counts[:, i], min_pixels) for i in present}

    @staticmethod
    def _candidates(pixels: np.ndarray, min_pixels: int) -> np.ndarray:
        enough = np.flatnonzero(pixels >= max(min_pixels, 1))
        if len(enough):
            return enough
        have = np.flatnonzero(pixels)
        keep = max(len(have) // 10, 1)
        return np.sort(have[np.argsort(pixels[have], kind="stable")[-keep:]])

    def draw(self, rng: np.random.Generator) -> tuple[int, int | None]:
        """Draw a frame.

        Returns:
            Index of the frame, and the class it was drawn for (None when drawing uniformly).
        """
        if self._temperature == 0 or not self.classes:
            return int(rng.integers(self._count)), None
        c = self.classes[int(rng.choice(len(self.classes), p=self.probabilities))]
        candidates = self._frames_of[c]
        return int(candidates[rng.integers(len(candidates))]), c


def choose_classmix(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels of a source image that ClassMix pastes: half of its classes, rounded up (Olsson et al. 2021).

    Args:
        label: uint8 (H, W) of trainIds; ignored pixels are never pasted.
        rng: Random generator.

    Returns:
        bool (H, W), True where the source is pasted.
    """
    present = np.setdiff1d(np.unique(label), [IGNORE])
    chosen = rng.choice(present, size=(len(present) + 1) // 2, replace=False) if len(present) else present
    return np.isin(label, chosen)
