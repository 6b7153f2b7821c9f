"""Do the answers stay with what they name while the picture moves? Agreement of labels along optical flow.

    neighbouring frames of one video  ->  optical flow both ways (DIS)  ->  places that both frames show
    there: the label of the frame before, moved along the flow, against the label of this frame

A place counts if its grey value is what it was (a photometric gate, with the contrast and exposure of both frames made
equal), and if the flow there and back leads to where it began. What a car hides or uncovers, reflections and wrong flow
fall out by that. Where too little of the frames counts they are too far apart, and nothing is said.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.inference.model import Model, Sampling
from iccld_cli.metrics.confusion import ConfusionMatrix

MOST_PAIRS = 64
"""Pairs of frames that are compared at most."""

MOST_SECONDS = 0.2
"""Time between two frames from which nothing is compared: at 15 m/s, 3 m of road."""

CLOSE = 10
"""Frames a second that are advised."""

VISIBLE = 0.6
"""Share of a frame's pixels that must count. On a highway clip (docs/evaluating.md) 0.81 do after one frame of 25 a
second, 0.65 after three, 0.49 after half a second."""

_WIDTH = 480  # of the pictures that flow is computed on
_CONTRAST, _DARKEST, _UNLIKE = 50.0, 8.0, 10.0  # as in `inference.smooth`, in grey levels
_BACK = 1.5  # pixels that flow there and back may miss


@dataclass(frozen=True)
class FlowConsistency:
    """What was found.

    Attributes:
        agreement: Share of the places in view of both frames that keep their label, in [0, 1]; None where left out.
        iou: Mean IoU of the moved labels and those of the frame, over the classes that either shows; None likewise.
        visible: Share of the pixels that were compared, in [0, 1].
        pairs: Pairs of frames that were compared.
        why: Why it was left out; None where it was not.
    """

    agreement: float | None = None
    iou: float | None = None
    visible: float | None = None
    pairs: int = 0
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON, in percent."""
        return {
            "agreement": _percent(self.agreement),
            "iou": _percent(self.iou),
            "visible": _percent(self.visible),
            "pairs": self.pairs,
            "left_out": self.why,
        }


def flow_consistency(
    model: Model,
    dataset: PreparedDataset,
    split: str,
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] | None = None,
    most: int | None = None,
) -> FlowConsistency:
    """Compare the answers for neighbouring frames of a video; labels are not read.

    Args:
        model: The model.
        dataset: Where the frames come from.
        split: Its split.
        sampling: How the model answers.
        progress: Called with (pairs done, pairs in all).
        most: Pairs that are compared at most, where that is less than `MOST_PAIRS`.

    Raises:
        IccldError: A frame cannot be read, or the model cannot do what is asked.
    """
    found = neighbours(dataset, split)
    if isinstance(found, str):
        return FlowConsistency(why=found)
    pairs = evenly(found, min(most or MOST_PAIRS, MOST_PAIRS))
    matrix = ConfusionMatrix(len(model.header.label_space))
    visible, same, counted, compared = 0.0, 0, 0, 0
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def answered(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        if frame.image not in seen:
            image = dataset.read_image(frame)
            labels = model.segment(image[None], (), sampling=sampling).labels[0].copy()
            ignored = dataset.ignored(frame)
            if ignored is not None:
                labels[ignored] = 255
            seen[frame.image] = (_small(image), labels)
        return seen[frame.image]

    for number, (before, after) in enumerate(pairs):
        (old, old_labels), (new, new_labels) = answered(before), answered(after)
        seen = {after.image: seen[after.image]}  # the next pair may begin with it
        where, there = follow(old, new)
        size = new.shape[1], new.shape[0]
        moved = cv2.resize(old_labels, size, interpolation=cv2.INTER_NEAREST)
        moved = cv2.remap(moved, where, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        labels = cv2.resize(new_labels, size, interpolation=cv2.INTER_NEAREST)
        scene = (moved != 255) & (labels != 255)
        share = float(there[scene].mean()) if scene.any() else 0.0
        if share >= VISIBLE:
            there &= scene
            matrix.update(moved[there], labels[there])
            same, counted = same + int((moved == labels)[there].sum()), counted + int(there.sum())
            visible, compared = visible + share, compared + 1
        if progress is not None:
            progress(number + 1, len(pairs))
    if 2 * compared < len(pairs):
        told = f"{compared} of {len(pairs)} pairs of neighbouring frames show enough of the same places"
        return FlowConsistency(pairs=compared, why=f"the frames are too far apart: {told}")
    return FlowConsistency(same / counted, matrix.scores().miou, visible / compared, compared)


def neighbours(dataset: PreparedDataset, split: str) -> list[tuple[Frame, Frame]] | str:
    """Pairs of frames that follow each other in a video, as far as names and index tell.

    Names that differ in their last number alone are of one video; neighbours are as many numbers apart as most are.

    Args:
        dataset: The data set.
        split: Its split.

    Returns:
        (earlier, later) each, in order; or why there are none, in words.
    """
    by_video: dict[tuple[str, int, int], list[tuple[int, Frame]]] = {}
    for frame in dataset.frames(split):
        name = str(PurePosixPath(frame.image).with_suffix(""))
        found = re.fullmatch(r"(.*?)(\d{1,18})(?:_leftImg8bit)?", name)
        if found is not None:
            by_video.setdefault((found[1], frame.width, frame.height), []).append((int(found[2]), frame))
    pairs: list[tuple[int, Frame, Frame]] = []
    for frames in by_video.values():
        frames.sort(key=lambda pair: pair[0])
        pairs += [(b - a, one, other) for (a, one), (b, other) in itertools.pairwise(frames) if b > a]
    if not pairs:
        return "no two frames are of one video: their names have no numbers that count on"
    apart = Counter(step for step, *_ in pairs).most_common(1)[0][0]
    seconds = _seconds_apart(dataset)
    if apart > 1 and seconds is not None and seconds > MOST_SECONDS:
        return f"the frames are {seconds:g} s apart; prepare the video with --fps {CLOSE} or more"
    return [(one, other) for step, one, other in pairs if step == apart]


def _seconds_apart(dataset: PreparedDataset) -> float | None:
    """Seconds between the frames that were taken from a video; None where it is not told."""
    source = dataset.info.source
    options = source.get("options")
    if source.get("adapter") != "video" or not isinstance(options, dict):
        return None
    fps = options.get("fps")
    return 1 / fps if isinstance(fps, int | float) and fps > 0 else None


def follow(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a picture was in the one before.

    Args:
        old: uint8 (h, w), grey.
        new: The same of the later picture.

    Returns:
        float32 (h, w, 2), places (x, y) in `old`; and bool (h, w), where both pictures show the same place.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    old, new = np.ascontiguousarray(old), np.ascontiguousarray(new)
    height, width = new.shape
    back, forth = flow.calc(new, old, None), flow.calc(old, new, None)  # (h, w, 2)
    where = back + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float32)
    inside = ((where >= 0) & (where <= np.array([width - 1, height - 1], np.float32))).all(axis=2)
    there = cv2.remap(old, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    spread, before = max(float(new.std()), _DARKEST), max(float(old.std()), _DARKEST)
    there = (there - float(old.mean())) * float(np.clip(spread / before, 0.5, 2)) + float(new.mean())
    unlike = np.abs(there - new) * (_CONTRAST / spread)
    returned = back + cv2.remap(forth, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return where, inside & (unlike < _UNLIKE) & (np.linalg.norm(returned, axis=2) < _BACK)


def _small(image: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) as a grey picture of at most `_WIDTH` columns, and of at least 32 rows and columns."""
    height, width = image.shape[:2]
    scale = min(1.0, _WIDTH / width)
    size = max(32, round(scale * width)), max(32, round(scale * height))
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)
