"""What is said of a frame in numbers: `frames.jsonl`, and which frames are most worth labelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from iccld_cli.inference.model import Segmentation
from iccld_cli.labels import IGNORE, LabelSpace

DARK, BRIGHT = 25.0, 230.0
"""Mean brightness (0 to 255) below and above which a frame is flagged."""

FLAT = 10.0
"""Standard deviation of brightness below which a frame is flagged: fog, a covered lens, a blank picture."""

ONE_CLASS = 0.95
"""Share of the pixels from which on a single class is flagged."""

UNSURE = 0.6
"""Mean confidence below which a frame is flagged."""

FLAGS = ("dark", "bright", "flat", "one_class", "unsure")


@dataclass(frozen=True)
class FrameFacts:
    """One frame in numbers.

    Attributes:
        shares: Share of the pixels of each class that occurs, by trainId.
        confidence: Mean over the pixels, in [0, 1].
        uncertainty: Mean over the pixels, in [0, 1].
        flags: What is unusual, out of `FLAGS`.
    """

    shares: dict[int, float]
    confidence: float
    uncertainty: float
    flags: tuple[str, ...]


def facts_of(image: np.ndarray, segmentation: Segmentation, index: int) -> FrameFacts:
    """Measure a frame.

    Pixels with label 255, which are not the scene, do not count; where all are, nothing is flagged.

    Args:
        image: uint8 (H, W, 3), RGB.
        segmentation: What the model said of its batch, confidence and uncertainty included.
        index: Which of the batch it is.
    """
    assert segmentation.confidence is not None and segmentation.uncertainty is not None
    labels = segmentation.labels[index]
    scene = labels != IGNORE
    size = max(int(scene.sum()), 1)
    counts = np.bincount(labels[scene], minlength=IGNORE)
    shares = {int(i): round(float(counts[i]) / size, 6) for i in np.flatnonzero(counts)}
    confidence, uncertainty = (
        round(float(values[index][scene].sum(dtype=np.float64)) / size, 6)
        for values in (segmentation.confidence, segmentation.uncertainty)
    )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    luma, spread = (float(v.item()) for v in cv2.meanStdDev(grey, mask=scene.view(np.uint8)))
    true = {
        "dark": luma < DARK,
        "bright": luma > BRIGHT,
        "flat": spread < FLAT,
        "one_class": max(shares.values(), default=1.0) >= ONE_CLASS,
        "unsure": confidence < UNSURE,
    }
    return FrameFacts(shares, confidence, uncertainty, tuple(name for name in FLAGS if true[name] and shares))


def named_shares(facts: FrameFacts, space: LabelSpace) -> dict[str, float]:
    """Class name -> share of the pixels, in the order of the label space."""
    return {space.names[i]: facts.shares[i] for i in sorted(facts.shares)}


def most_worth_labelling(shares: np.ndarray, uncertainty: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Frames that a person should label first: those the model is unsure of, and unlike one another.

    Greedy farthest-point selection (Gonzalez 1985; k-centre greedy in Sener and Savarese, ICLR 2018), weighted: first
    the most uncertain frame, then always the one with the largest product of uncertainty and distance to the nearest
    frame chosen. The distance is Hellinger's between class shares, 0 for the same shares, 1 where no class is in both.
    Neighbouring frames of a video are nearly at distance 0, so one of them is chosen. Frames at distance 0
    come last, the most uncertain first.

    Args:
        shares: float32 (N, K), rows sum to 1.
        uncertainty: float32 (N,), mean uncertainty of each frame in [0, 1].
        count: How many.

    Returns:
        (number of the frame, its distance to the nearest frame chosen before it), in order; 1.0 for the first.
    """
    roots = np.sqrt(shares.astype(np.float32))
    nearest = np.ones(len(roots), np.float32)
    left = np.ones(len(roots), bool)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(roots))):
        score = np.where(left, uncertainty * (nearest + np.float32(1e-3)) + np.float32(1e-9), -1)
        best = int(score.argmax())
        chosen.append((best, round(float(nearest[best]), 6)))
        left[best] = False
        overlap = np.clip(roots @ roots[best], 0, 1)
        nearest = np.minimum(nearest, np.sqrt(1 - overlap))
    return chosen


def label_row(rank: int, told: Mapping[str, Any], distance: float, image: str | None) -> dict[str, Any]:
    """A line of `to_label.jsonl`.

    Args:
        rank: Place in the list, from 1.
        told: The frame's line of `frames.jsonl`.
        distance: From `most_worth_labelling`.
        image: Path of its picture below the output folder, if there is one.
    """
    row = {"rank": rank, **{key: told[key] for key in ("input", "frame", "time", "uncertainty", "confidence")}}
    row |= {"distance": distance, "classes": told["classes"]}
    return row if image is None else {**row, "image": image}


def share_rows(rows: Sequence[dict[str, float]], space: LabelSpace) -> np.ndarray:
    """Class shares by name as float32 (N, K)."""
    found = np.zeros((len(rows), len(space)), np.float32)
    place = {name: i for i, name in enumerate(space.names)}
    for row, shares in zip(found, rows, strict=True):
        for name, share in shares.items():
            row[place[name]] = share
    return found
