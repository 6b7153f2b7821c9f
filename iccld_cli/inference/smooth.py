"""Steady video: a running mean of class probabilities that moves with the picture.

    optical flow (DIS) from this frame's grey picture to the last one's  ->  where each cell was
    mean of that place, and how far the two pictures agree there         ->  how much it counts here
    mean  =  this frame's probabilities  +  weight x (the old mean there - this frame's probabilities)

All of it happens at the resolution of the network's logits, a quarter of what it sees. Where the pictures disagree
(something came into view, the flow is wrong) this frame counts alone, and after a cut everywhere. Where this frame's
answer is a thin class, the old mean counts little: a pole is a cell or two wide and found in some frames only, so that
a mean over frames loses it.

A mean that ran on for ever would make a frame depend on where a run began. So it begins anew on a fixed grid of frame
numbers, `GRID` apart, and each of these means begins `WARM_UP` frames before its part, unseen. Who wants frames from
some number on runs the network from `first_needed` on, and gets the frames that a run of the whole gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from iccld_cli.inference.fullsize import Logits

GRID = 64
"""Frames that one running mean answers for."""

WARM_UP = 16
"""Frames that it runs before that; the first of them counts 0.65^16 = 0.1 % at most."""

NEW = 0.35
"""Least weight of this frame."""

THIN = ("pole", "traffic light", "traffic sign")
"""Classes whose shapes are as thin as a cell."""

_OLD_OF_THIN = 0.2  # factor on the old mean's weight where this frame's answer is one of them

_CONTRAST = 50.0  # grey levels of standard deviation to which differences are scaled, so that night is as day
_DARKEST = 8.0  # standard deviation below which a picture is flat, and differences are noise
_GATE = 23.0  # scaled grey levels at which the old mean's weight has fallen to 1/e
_UNLIKE = 10.0  # scaled grey levels from which a place is unlike the last frame's
_CUT = 0.3  # share of such places from which two frames are of different scenes
_ROWS = (32, 256)  # least and most rows of the grey picture
_CHANNELS = 128  # most that are given to OpenCV at once


class Smoother:
    """The running means of one video; frames go through it in their order."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Nothing is known yet.

        Args:
            names: The classes of the logits.
        """
        self._thin = [index for index, name in enumerate(names) if name in THIN]
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._grey: np.ndarray | None = None
        self._means: dict[int, np.ndarray] = {}  # part of the grid -> (h, w, K)

    def smooth(self, number: int, image: np.ndarray, views: Sequence[Logits]) -> list[Logits]:
        """Take in a frame.

        Args:
            number: Its number among the frames that are segmented, on the video's own count.
            image: uint8 (H, W, 3), RGB.
            views: Logits of its passes, the plain one, which is smoothed, first.

        Returns:
            The same with the plain one smoothed; right after a beginning or a cut, as it was.
        """
        values = views[0].values  # (K, h, w)
        now = _probabilities(values)  # (h, w, K)
        moved = self._moved(image, now.shape[0], now.shape[1])
        if moved is not None and self._thin:
            moved[1][np.isin(now.argmax(axis=2), self._thin)] *= _OLD_OF_THIN
        part = number // GRID
        parts = (part, part + 1) if number >= (part + 1) * GRID - WARM_UP else (part,)
        means: dict[int, np.ndarray] = {}
        for one in parts:
            old = self._means.get(one)
            if old is None or moved is None or old.shape != now.shape:
                means[one] = now
                continue
            where, weight = moved
            there = _warped(old, where)
            there -= now
            there *= weight[..., None]
            there += now
            means[one] = there
        self._means = means
        if means[part] is now:
            return [*views]
        mean = np.maximum(means[part].transpose(2, 0, 1), np.finfo(np.float32).tiny)
        return [Logits(np.log(mean)), *views[1:]]

    def _moved(self, image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Where each cell was in the last frame, float32 (h, w, 2), and the weight (h, w) of what was there.

        None for a first frame, another size, and after a cut.
        """
        rows = min(max(2 * height, _ROWS[0]), _ROWS[1])
        columns = max(round(rows * image.shape[1] / image.shape[0]), _ROWS[0])
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        grey, last = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), self._grey
        self._grey = grey
        if last is None or last.shape != grey.shape:
            return None
        flow = self._flow.calc(grey, last, None)  # (rows, columns, 2)
        there = _warped(last, flow + _positions(rows, columns)).astype(np.float32)
        spread, before = max(float(grey.std()), _DARKEST), max(float(last.std()), _DARKEST)
        there -= np.float32(last.mean())  # exposure changes, the scene does not
        there *= np.float32(np.clip(spread / before, 0.5, 2))
        there += np.float32(grey.mean())
        scale = _CONTRAST / spread
        unlike = np.abs(there - grey) * np.float32(scale)
        unlike = cv2.resize(unlike, (width, height), interpolation=cv2.INTER_AREA)
        if (unlike > _UNLIKE).mean() > _CUT:
            return None
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA)
        where = flow * np.array([width / columns, height / rows], np.float32) + _positions(height, width)
        inside = ((where >= 0) & (where <= np.array([width - 1, height - 1], np.float32))).all(axis=2)
        return where, (1 - NEW) * np.exp(-np.square(unlike / _GATE)) * inside


def first_needed(number: int) -> int:
    """The frame from which a smoother must run for frame `number` to come out as in a run of the whole video."""
    return max(0, number // GRID * GRID - WARM_UP)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of logits (K, h, w): (h, w, K)."""
    found = logits - logits.max(axis=0)
    np.exp(found, out=found)
    found /= found.sum(axis=0)
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def _warped(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values (h, w) or (h, w, K) at places (h, w, 2), which are taken to the nearest one inside."""
    if values.ndim == 2 or values.shape[2] <= _CHANNELS:
        found = cv2.remap(values, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found.reshape(*where.shape[:2], *values.shape[2:])  # OpenCV drops the axis of a single channel
    parts = [_warped(values[..., i : i + _CHANNELS], where) for i in range(0, values.shape[2], _CHANNELS)]
    return np.concatenate(parts, axis=2)


def _positions(height: int, width: int) -> np.ndarray:
    """Of each cell its own place, float32 (h, w, 2) as (x, y)."""
    found = np.empty((height, width, 2), np.float32)
    found[..., 0], found[..., 1] = np.arange(width), np.arange(height)[:, None]
    return found
