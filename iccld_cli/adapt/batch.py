"""A batch on the device, and its source and mixed crops after augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iccld_cli.adapt.augment import Jitter, draw_jitter, jitter_images, style_align
from iccld_cli.adapt.classmix import classmix
from iccld_cli.config import Config
from iccld_cli.data.batches import Batch
from iccld_cli.data.sampling import MODEL, sample_rng
from iccld_cli.labels import IGNORE


@dataclass(frozen=True)
class DeviceBatch:
    """A micro-batch on the device, and the random generators of its samples.

    Attributes:
        source: float32 (B, 3, h, w) in [0, 1].
        label: int64 (B, h, w).
        paste: bool (B, h, w), pixels that ClassMix pastes.
        target: float32 (B, 3, h, w), or None.
        pseudo_valid: bool (B, h, w), False on pixels without pseudo-labels; or None.
        surroundings: float32 (B, 3, H, W), the larger boxes around the target crops that the teacher sees, or None.
        places: int64 (B, 2), top and left of the target crops in `surroundings`, or None.
        ignored: bool (B, h, w), True where a target crop is not the scene, or None.
        jitter_source: Augmentation of the source images.
        jitter_mixed: Augmentation of the mixed images.
        rngs: One generator a sample for whatever else a stage draws.
        labelled: Labelled source pixels of a micro-batch, the mean over those of the step: what the source loss
            divides by, so that its value does not depend on how the batch is split. Scalar.
        names: Names of the frames, for messages.
        micro: Number of this micro-batch and how many make one optimizer step.
        annotated: float32 (B, 3, h, w), crops of the target that have labels, or None.
        annotation: int64 (B, h, w), their trainIds and groups, or None.
        groups: TrainIds that a pixel of a group may show, see `data.annotated`.
        jitter_annotated: Augmentation of these images, or None.
    """

    source: Tensor
    label: Tensor
    paste: Tensor
    target: Tensor | None
    pseudo_valid: Tensor | None
    surroundings: Tensor | None
    places: Tensor | None
    jitter_source: Jitter
    jitter_mixed: Jitter
    rngs: list[np.random.Generator]
    labelled: Tensor
    names: list[list[str]] = field(default_factory=list)
    micro: tuple[int, int] = (0, 1)
    ignored: Tensor | None = None
    annotated: Tensor | None = None
    annotation: Tensor | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    jitter_annotated: Jitter | None = None

    @property
    def completes(self) -> bool:
        """Whether the optimizers step after this micro-batch."""
        return self.micro[0] == self.micro[1] - 1


def to_device(
    batch: Batch, config: Config, step: int, device: torch.device, labelled: float | None = None
) -> DeviceBatch:
    """Move a loaded batch to the device and draw its random numbers.

    Source images take the colour statistics of the target crop beside them here, so that burn-in, ClassMix and
    stage 2 all see the same source.

    Args:
        batch: From `data.batches.TrainingBatches`.
        config: The configuration.
        step: Steps done.
        device: Where to.
        labelled: Labelled source pixels, the mean over the step's micro-batches; None for this one's.
    """
    count = len(batch.source)
    rngs = [sample_rng(config.run.seed, step, batch.first + i, MODEL) for i in range(count)]
    jitters = draw_jitter(config.augment, rngs).to(device), draw_jitter(config.augment, rngs).to(device)
    jitter_annotated = None if batch.annotated is None else draw_jitter(config.augment, rngs).to(device)

    source, target, surroundings, annotated = (
        None if pixels is None else images_to_device(pixels, device)
        for pixels in (batch.source, batch.target, batch.surroundings, batch.annotated)
    )
    assert source is not None
    if target is not None:
        source = style_align(source, target, jitters[0])
    return DeviceBatch(
        source=source,
        label=batch.label.to(device, non_blocking=True).long(),
        paste=batch.paste.to(device, non_blocking=True),
        target=target,
        pseudo_valid=_moved(batch.pseudo_valid, device),
        surroundings=surroundings,
        places=_moved(batch.places, device),
        jitter_source=jitters[0],
        jitter_mixed=jitters[1],
        rngs=rngs,
        labelled=torch.full((), float(batch.labelled if labelled is None else labelled), device=device),
        names=batch.names,
        micro=batch.micro,
        ignored=_moved(batch.ignored, device),
        annotated=annotated,
        annotation=None if batch.annotation is None else batch.annotation.to(device, non_blocking=True).long(),
        groups=batch.groups,
        jitter_annotated=jitter_annotated,
    )


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def images_to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Images uint8 (B, 3, H, W) as float32 in [0, 1] on the device, one plane a channel (see `augment`)."""
    return pixels.to(device, non_blocking=True).contiguous().float().div_(255)


@dataclass(frozen=True)
class Crops:
    """Images and labels that a loss is computed on.

    Attributes:
        images: float32 (B, 3, h, w), augmented.
        labels: int64 (B, h, w) trainIds.
        weights: float32 (B, h, w), how much a pixel counts: at most 1, but near edges (`boundaries.edge_factor`).
        groups: TrainIds that labels from K on stand for.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    groups: tuple[tuple[int, ...], ...] = ()


def source_crops(batch: DeviceBatch) -> Crops:
    """The source with strong augmentation; every pixel counts."""
    certain = torch.ones_like(batch.label, dtype=torch.float32)
    return Crops(jitter_images(batch.source, batch.jitter_source), batch.label, certain)


def annotated_crops(batch: DeviceBatch) -> Crops:
    """Labelled crops of the target with strong augmentation; the labelled pixels of a crop weigh 1 together.

    So a crop with a few points counts as much as one that is labelled all over, beside which they would not matter.
    """
    assert batch.annotated is not None and batch.annotation is not None and batch.jitter_annotated is not None
    labelled = (batch.annotation != IGNORE).float()
    weights = labelled / labelled.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    images = jitter_images(batch.annotated, batch.jitter_annotated)
    return Crops(images, batch.annotation, weights, batch.groups)


def mix(batch: DeviceBatch, labels: Tensor, weights: Tensor) -> Crops:
    """ClassMix of a batch with pseudo-labels: x^{s+t}, y^{s+t} and pixel weights (1 on pasted pixels).

    Args:
        batch: The batch.
        labels: Pseudo-labels (B, h, w).
        weights: Their weights (B, h, w).
    """
    assert batch.target is not None
    images = classmix(batch.paste, batch.source, batch.target)
    return Crops(
        jitter_images(images, batch.jitter_mixed),
        classmix(batch.paste, batch.label, labels),
        classmix(batch.paste, torch.ones_like(weights), weights),
    )


def draw_keep_skip(batch: DeviceBatch, dropout: float, copies: int) -> Tensor:
    """Which images keep their inter-coder features: bool (copies * B,)."""
    keep = [[rng.random() >= dropout for rng in batch.rngs] for _ in range(copies)]
    return torch.tensor(keep).flatten().to(batch.label.device, non_blocking=True)
