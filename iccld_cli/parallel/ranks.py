"""Several processes, one training: sums over ranks, one batch norm, one decision to stop.

Every rank must hold the same networks, averages and counts after each step (of networks in shards, its part of the
same, see `parallel.sharding`); then the state that rank 0 writes is everybody's, and B samples on each of N ranks train
as N x B samples on one. Gradients are averaged by data parallelism. What this module adds are the other numbers that
depend on the whole batch. Without several processes every function here does nothing.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from iccld_cli.errors import IccldError

# A validation on rank 0 may take this long before the waiting ranks give up. A rank that dies is noticed at once,
# because its connection breaks.
_PATIENCE = timedelta(hours=6)


def world_size() -> int:
    """Number of processes of this training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is rank 0, the one that writes."""
    return world_size() == 1 or dist.get_rank() == 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, in place; it carries no gradient."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, as a new tensor without gradient."""
    total = value.detach().float()
    return total if world_size() == 1 else sum_over_ranks(total.clone()) / world_size()


class Ranks:
    """A line between the processes that never waits for their devices.

    Its messages travel over gloo between the hosts, so that agreeing on something does not make a GPU's host wait
    for the GPU.
    """

    def __init__(self) -> None:
        """Join the others; all ranks must do so at the same point."""
        self.size = world_size()
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.size > 1 else None
        self._asked: tuple[Tensor, Any] | None = None

    def stop_agreed(self, wish: bool) -> bool:
        """Whether all ranks stop after this step, because one of them wished to before or, when alone, now.

        The result is that of the call before, so that no rank waits for another's current step; all ranks get the same
        one at the same step, which they need to leave a training together.
        """
        if self.size == 1:
            return wish
        stop = False
        if self._asked is not None:
            flag, work = self._asked
            work.wait()
            stop = bool(flag.item())
        flag = torch.tensor([int(wish)])
        self._asked = (flag, dist.all_reduce(flag, group=self._group, async_op=True))
        return stop

    def gather(self, value: Any) -> list[Any]:
        """A JSON-like value of every rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._group)
        return found

    def wait(self) -> None:
        """Wait until all ranks are here, for as long as a validation may take."""
        if self.size > 1:
            dist.barrier(group=self._group)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks through which gradients flow back to all of them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient.clone())


class _RankBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks, for devices that torch's own `SyncBatchNorm` does not serve."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        count = x.numel() // x.shape[1] * world_size()
        mean = _SumOverRanks.apply(x.float().sum((0, 2, 3)) / count)
        centred = x.float() - mean.view(1, -1, 1, 1)
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3)) / count)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.detach(), momentum)
                self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        normal = centred * (variance.view(1, -1, 1, 1) + self.eps).rsqrt()
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x.dtype)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Let every batch norm of a network see the batches of all ranks; does nothing for a single process.

    Names and values of parameters and buffers stay as they are. Statistics of a rank's own few crops would differ from
    rank to rank, and so would the teachers that average them.
    """
    if world_size() == 1:
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.BatchNorm2d:
                continue
            if device.type == "cuda":
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                child.__class__ = _RankBatchNorm2d


def refuse_launcher_sharding() -> None:
    """Refuse launcher settings that would cut the networks in places that nothing else here knows of.

    Raises:
        IccldError: FSDP or DeepSpeed is configured.
    """
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise IccldError(
                f"{name} is configured in the launcher, which does not know these networks",
                "launch with plain multi-GPU, and use --set run.shard=true for large encoders",
            )
