"""The optimizer of a stage, its learning rate, and its step."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.parallel.layout import Layout
from iccld_cli.sections import OptimConfig


def optimizer_of(groups: list[tuple[nn.Module, float]], config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over modules, each with its learning rate; no weight decay on norms and biases.

    Args:
        groups: (module, learning rate); parameters already taken by an earlier module are left out, and so are
            modules with a learning rate of 0.
        config: Betas and weight decay.
        device: Where the parameters are; see `has_fused_kernels`.
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
    return torch.optim.AdamW(rows, betas=config.betas, fused=has_fused_kernels(device))


def has_fused_kernels(device: torch.device) -> bool:
    """Whether torch updates parameters on a device in one kernel each, a third of the time of its loop on a CPU."""
    return device.type in ("cuda", "cpu")


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, iterations: int, warmup: int) -> None:
    """Linear warm-up, then linear decay to 0 (DAFormer's schedule), as a function of the step alone."""
    warmup = min(warmup, iterations // 10)
    factor = (step + 1) / warmup if step < warmup else (iterations - step) / max(iterations - warmup, 1)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def apply_gradients(
    layout: Layout,
    accelerator: Accelerator,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    clip: float,
    micro: tuple[int, int] = (0, 1),
) -> dict[str, Tensor]:
    """Backward, and after the last micro-batch: clip, step.

    Args:
        layout: Averages and clips gradients.
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
    norm = layout.reduce_gradients(network, clip if clip > 0 else float("inf"))
    optimizer.step()
    return {"grad_norm": norm}
