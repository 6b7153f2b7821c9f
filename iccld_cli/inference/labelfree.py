"""What footage without labels says about a model: confidence, agreement over views, class shares.

None of these is accuracy. Agreement asks whether the answer stays what it is when the frame is mirrored or shown
smaller, which a right answer does and a guess often does not; a model that is wrong in the same way everywhere agrees
with itself. How far the score follows true mIoU was measured (`benchmarks/RESULTS.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.along_flow import FlowConsistency
from iccld_cli.inference.model import Model, Sampling, Want
from iccld_cli.inference.threads import group, prefetch
from iccld_cli.labels import LabelSpace
from iccld_cli.metrics.confusion import ConfusionMatrix

_WANTED: tuple[Want, ...] = ("confidence",)

SCALE = 0.75
"""Size of the second view: smaller, so that looking twice does not cost twice."""


@dataclass(frozen=True)
class LabelFree:
    """What was found.

    Attributes:
        dataset: Name of the data set.
        split: Its split.
        images: Number of frames.
        label_space: Classes.
        sampling: How the model answered, settled.
        backend: What ran the network.
        precision: Type that it computed in.
        confidence: Mean probability of the answers, in [0, 1].
        flip: Share of the pixels that a mirrored frame answers alike, in [0, 1].
        scale: The same of a frame at `SCALE` of the working size.
        score: Mean confidence in [0, 1], where that of a pixel counts only if both views answer alike.
        agreement_iou: Mean IoU, in [0, 1], of the answers and those of both views, over the classes that either shows.
        shares: float64 (K,), share of each class among the answers.
        shift: Jensen-Shannon divergence in [0, 1] (bits) from the shares of a labelled set; None without one.
        flow: Whether answers stay with what they name in a video, see `inference.along_flow`; None where not asked.
    """

    dataset: str
    split: str
    images: int
    label_space: LabelSpace
    sampling: Sampling
    backend: str
    precision: str
    confidence: float
    flip: float
    scale: float
    score: float
    agreement_iou: float
    shares: np.ndarray
    shift: float | None
    flow: FlowConsistency | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON; all but the shift in percent."""
        return {
            "labels": False,
            "score": _percent(self.score),
            "confidence": _percent(self.confidence),
            "agreement_mirrored": _percent(self.flip),
            "agreement_scaled": _percent(self.scale),
            "agreement_iou": _percent(self.agreement_iou),
            "shift": None if self.shift is None else round(self.shift, 6),
            "flow": None if self.flow is None else self.flow.to_json(),
            "shares": {
                name: _percent(share) for name, share in zip(self.label_space.names, self.shares, strict=True) if share
            },
            "images": self.images,
            "dataset": self.dataset,
            "split": self.split,
            "steps": self.sampling.steps,
            "samples": self.sampling.samples,
            "seed": self.sampling.seed,
            "scales": list(self.sampling.scales),
            "flip": self.sampling.flip,
            "average": self.sampling.average,
            "height": self.sampling.height or None,
            "backend": self.backend,
            "precision": self.precision,
        }


def look(
    model: Model,
    dataset: PreparedDataset,
    frames: Sequence[Frame],
    sampling: Sampling | None = None,
    source: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelFree:
    """Judge a model on frames; labels are not read.

    Args:
        model: The model.
        dataset: Where the frames come from.
        frames: The frames, at least one.
        sampling: How the model answers.
        source: Class name -> labelled pixels of a set to compare the shares with, as `source_pixels` gives them.
        batch_size: Frames of equal size per pass; None leaves it to the model.
        progress: Called with (frames done, frames in all) after every batch.

    Raises:
        IccldError: A frame cannot be read, or the model cannot do what is asked.
    """
    assert frames
    sampling = model.settle(sampling or Sampling())
    if model.header.export is not None and model.header.export.size is not None:
        raise IccldError(
            "an exported file of one size is not judged without labels",
            "give the .safetensors file that it was made from",
        )
    shown = sampling.scales if sampling.average else (sampling.views(())[0][0],)
    smaller = model.settle(replace(sampling, scales=tuple(SCALE * scale for scale in shown)))
    space = model.header.label_space
    views = ConfusionMatrix(len(space))
    sums, pixels, done = np.zeros(4), 0, 0
    shares = np.zeros(len(space), np.int64)

    def most(item: tuple[Frame, np.ndarray]) -> int:
        return batch_size or model.batch_size(item[1].shape[:2], sampling)

    loaded = prefetch(((frame, dataset.read_image(frame)) for frame in frames), 4)
    try:
        for batch in group(loaded, lambda item: item[1].shape, most):
            images = np.stack([image for _, image in batch])  # (B, H, W, 3)
            answer = model.segment(images, _WANTED, sampling=sampling)
            mirrored = model.segment(np.ascontiguousarray(images[:, :, ::-1]), (), sampling=sampling).labels[:, :, ::-1]
            scaled = model.segment(images, (), sampling=smaller).labels
            assert answer.confidence is not None
            confirmed = (mirrored == answer.labels) & (scaled == answer.labels)
            sums += (
                answer.confidence.sum(dtype=np.float64),
                answer.confidence[confirmed].sum(dtype=np.float64),
                (mirrored == answer.labels).sum(),
                (scaled == answer.labels).sum(),
            )
            for view in (mirrored, scaled):
                views.update(view, answer.labels)
            shares += np.bincount(answer.labels.ravel(), minlength=len(space))
            pixels += answer.labels.size
            done += len(batch)
            if progress is not None:
                progress(done, len(frames))
    finally:
        loaded.close()
    confidence, score, flip, scale = (float(value) for value in sums / pixels)
    return LabelFree(
        dataset=dataset.info.name,
        split=frames[0].split,
        images=len(frames),
        label_space=space,
        sampling=sampling,
        backend=model.backend,
        precision=model.precision,
        confidence=confidence,
        flip=flip,
        scale=scale,
        score=score,
        agreement_iou=views.scores().miou,
        shares=shares / pixels,
        shift=None if source is None else _divergence(shares, source, space),
    )


def source_pixels(dataset: PreparedDataset) -> dict[str, int]:
    """Labelled pixels of each class of a set, all splits together.

    Raises:
        IccldError: It has no labels.
    """
    pixels = {name: count for name, count in dataset.info.extra.get("pixels", {}).items() if name != "ignore" and count}
    if not pixels:
        raise IccldError(f"{dataset.root} has no labels whose shares could be compared", "give a labelled set")
    return pixels


def _divergence(answers: np.ndarray, source: Mapping[str, int], space: LabelSpace) -> float:
    """Jensen-Shannon divergence of two class distributions, in bits."""
    first = answers / answers.sum()
    counts = np.array([source.get(name, 0) for name in space.names], np.float64)
    if not counts.sum():
        raise IccldError("the set to compare shares with has none of the model's classes", "give another --source")
    second = counts / counts.sum()
    middle = (first + second) / 2
    parts = [p[p > 0] * np.log2(p[p > 0] / middle[p > 0]) for p in (first, second)]
    return max(0.0, float(sum(part.sum() for part in parts)) / 2)


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, 4)
