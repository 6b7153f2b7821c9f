"""What both stages share: the batch on the device, the optimizer, and what the loop may ask of a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from iccld_cli.adapt.augment import Jitter, draw_jitter, jitter_images, style_align
from iccld_cli.adapt.classmix import classmix
from iccld_cli.config import Config, OptimConfig
from iccld_cli.data.sampling import MODEL, sample_rng
from iccld_cli.labels import IGNORE
from iccld_cli.losses.segmentation import segmentation_loss
from iccld_cli.models.detail import cut_windows, draw_windows
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import sum_over_ranks, world_size
from iccld_cli.parallel.sharding import clip_shards


class Stage(Protocol):
    """A stage, as the training loop sees it.

    Attributes:
        name: `source_only`, `stage1` or `stage2`.
        iterations: Steps of the whole run.
        student: The trained network, bare.
        network: What its gradient comes through, ready for data parallelism.
        modules: Everything with tensors that a resumed run needs, by name.
        optimizers: Every optimizer, by name.
    """

    name: str
    iterations: int
    student: Segmenter
    network: nn.Module
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """Train on one micro-batch of a step, and step with the last one.

        Returns:
            Detached scalars, `loss` among them; the device is not waited for.
        """
        ...

    def result(self) -> Segmenter | None:
        """The model to validate and to save: the teacher, whole; all ranks together.

        Returns:
            The model on rank 0; elsewhere it may be None.
        """
        ...


@dataclass
class DeviceBatch:
    """A batch on the device, and the random generators of its samples.

    Attributes:
        source: float32 (B, 3, h, w) in [0, 1].
        label: int64 (B, h, w).
        paste: bool (B, h, w), pixels that ClassMix pastes.
        target: float32 (B, 3, h, w), or None.
        trusted: bool (B, h, w), where pseudo-labels may count, or None.
        context: float32 (B, 3, H, W), windows around the target crops for the teacher, or None.
        places: int64 (B, 2), top and left of the target crops in `context`, or None.
        jitter_source: Augmentation of the source images.
        jitter_mixed: Augmentation of the mixed images.
        rngs: One generator a sample for whatever else a stage draws.
        names: Names of the frames, for messages.
        labelled: Labelled source pixels of a micro-batch, the mean over the whole batch of the step on all ranks: what
            the source loss divides by, so that its value does not depend on how the batch is split.
        micro: Number of this micro-batch and how many make one optimizer step.
    """

    source: Tensor
    label: Tensor
    paste: Tensor
    target: Tensor | None
    trusted: Tensor | None
    context: Tensor | None
    places: Tensor | None
    jitter_source: Jitter
    jitter_mixed: Jitter
    rngs: list[np.random.Generator]
    names: list[list[str]] = field(default_factory=list)
    labelled: Tensor | None = None
    micro: tuple[int, int] = (0, 1)

    @property
    def completes(self) -> bool:
        """Whether the optimizers step after this micro-batch."""
        return self.micro[0] == self.micro[1] - 1


def to_device(batch: dict[str, Any], config: Config, step: int, device: torch.device) -> DeviceBatch:
    """Move a loaded batch to the device and draw its random numbers.

    Source images take the colour statistics of the target crop beside them here, so that burn-in, ClassMix and
    stage 2 all see the same source.
    """
    count = len(batch["source"])
    rngs = [sample_rng(config.run.seed, step, batch["first"] + i, MODEL) for i in range(count)]
    jitters = draw_jitter(config.augment, rngs).to(device), draw_jitter(config.augment, rngs).to(device)

    source, target, context = (
        images_to_device(batch[name], device) if name in batch else None for name in ("source", "target", "context")
    )
    assert source is not None
    if target is not None:
        source = style_align(source, target, jitters[0])
    return DeviceBatch(
        source=source,
        label=batch["label"].to(device, non_blocking=True).long(),
        paste=batch["paste"].to(device, non_blocking=True),
        target=target,
        trusted=batch["trusted"].to(device, non_blocking=True) if target is not None else None,
        context=context,
        places=batch["places"].to(device, non_blocking=True) if context is not None else None,
        jitter_source=jitters[0],
        jitter_mixed=jitters[1],
        rngs=rngs,
        names=batch["names"],
        micro=batch["micro"],
    )


def images_to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Images uint8 (B, 3, H, W) as float32 in [0, 1] on the device."""
    return pixels.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last).float().div_(255)


def mix(batch: DeviceBatch, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ClassMix of a batch with pseudo-labels: x^{s+t}, y^{s+t} and pixel weights (1 on pasted pixels).

    Args:
        batch: The batch.
        labels: Pseudo-labels (B, h, w).
        weights: Their weights (B, h, w).
    """
    assert batch.target is not None
    images = classmix(batch.paste, batch.source, batch.target)
    mixed = classmix(batch.paste, batch.label, labels)
    return jitter_images(images, batch.jitter_mixed), mixed, classmix(batch.paste, torch.ones_like(weights), weights)


def draw_keep_skip(batch: DeviceBatch, dropout: float, copies: int) -> Tensor:
    """Which images keep their inter-coder features: bool (copies * B,)."""
    keep = [[rng.random() >= dropout for rng in batch.rngs] for _ in range(copies)]
    return torch.tensor(keep).flatten().to(batch.label.device, non_blocking=True)


def draw_detail_windows(batch: DeviceBatch, config: Config, copies: int) -> Tensor | None:
    """Detail windows of `copies` images a sample, (copies * B, 2); None where the model has one resolution."""
    if not config.model.detail:
        return None
    size = (batch.label.shape[-2], batch.label.shape[-1])
    return draw_windows(size, batch.rngs * copies).to(batch.label.device, non_blocking=True)


def fused_loss(
    found: dict[str, Tensor],
    labels: Tensor,
    weights: Tensor | None,
    count: Tensor | None,
    windows: Tensor | None,
    config: Config,
) -> Tensor:
    """Cross-entropy of logits; with two resolutions that of the detail as well (HRDA).

    Args:
        found: `logits` (B, K, h, w), and `detail` (B, K, h/2, w/2) with `windows`.
        labels: (B, H, W).
        weights: As for `segmentation_loss`.
        count: As for `segmentation_loss`.
        windows: (B, 2), or None.
        config: Has the detail's share.
    """
    loss = segmentation_loss(found["logits"], labels, weights, count)
    if windows is None:
        return loss
    share = config.model.detail_weight
    inside = None if weights is None else cut_windows(weights, windows)
    fine = segmentation_loss(
        found["detail"], cut_windows(labels, windows), inside, None if count is None else count / 4
    )
    return (1 - share) * loss + share * fine


def optimizer_of(groups: list[tuple[nn.Module, float]], config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over modules, each with its learning rate; no weight decay on norms and biases.

    Args:
        groups: (module, learning rate); parameters already taken by an earlier module are left out, and so are
            modules with a learning rate of 0.
        config: Betas and weight decay.
        device: Fused kernels are used on CUDA.
    """
    taken: set[int] = set()
    rows: list[dict[str, Any]] = []
    for module, lr in groups:
        fresh = [p for p in module.parameters() if id(p) not in taken]
        taken.update(id(p) for p in fresh)
        if lr <= 0:
            for p in fresh:
                p.requires_grad_(False)
            continue
        fresh = [p for p in fresh if p.requires_grad]
        for params, decay in (
            ([p for p in fresh if p.ndim > 1], config.weight_decay),
            ([p for p in fresh if p.ndim <= 1], 0.0),
        ):
            if params:
                rows.append({"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(rows, betas=config.betas, fused=device.type == "cuda")


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, iterations: int, warmup: int) -> None:
    """Linear warm-up, then linear decay to 0 (DAFormer's schedule), as a function of the step alone."""
    warmup = min(warmup, iterations // 10)
    factor = (step + 1) / warmup if step < warmup else (iterations - step) / max(iterations - warmup, 1)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def apply_gradients(
    accelerator: Accelerator,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    clip: float,
    micro: tuple[int, int] = (0, 1),
) -> dict[str, Tensor]:
    """Backward, and after the last micro-batch: clip, step.

    Args:
        accelerator: Precision and gradient sync.
        loss: Scalar loss of the micro-batch.
        optimizer: Steps the network.
        network: What was trained.
        clip: Largest gradient norm; 0 switches clipping off.
        micro: Number of the micro-batch and how many make a step.

    Returns:
        `grad_norm` before clipping; nothing before the last micro-batch.
    """
    number, count = micro
    if number == 0:
        optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss / count if count > 1 else loss)
    if number < count - 1:
        return {}
    parameters = [p for p in network.parameters() if p.grad is not None]
    if world_size() > 1 and not isinstance(network, nn.parallel.DistributedDataParallel):
        _average([p.grad for p in parameters if not isinstance(p.grad, DTensor)])  # shards are averaged on their way
    limit = clip if clip > 0 else float("inf")
    if any(isinstance(p, DTensor) for p in parameters):
        norm = clip_shards(parameters, limit)
    else:
        norm = accelerator.clip_grad_norm_(parameters, limit)
    optimizer.step()
    return {"grad_norm": torch.as_tensor(norm).detach()}


def _average(gradients: list[Tensor]) -> None:
    """Replace gradients by their means over ranks, with a single message."""
    if not gradients:
        return
    flat = sum_over_ranks(torch.cat([g.flatten() for g in gradients])).div_(world_size())
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def thing_mask(space_names: tuple[str, ...], things: tuple[str, ...]) -> Tensor:
    """bool (K,), True for countable classes."""
    return torch.tensor([name in things for name in space_names])


__all__ = [
    "IGNORE",
    "DeviceBatch",
    "Stage",
    "apply_gradients",
    "draw_keep_skip",
    "mix",
    "optimizer_of",
    "set_learning_rate",
    "thing_mask",
    "to_device",
]
