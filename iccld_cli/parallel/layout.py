"""Where the tensors of a training lie: whole on every process, or each process with its part.

The method and the engine place networks, average them and gather them through a layout, and know no more of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.config import Config
from iccld_cli.errors import IccldError
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import sum_over_ranks, world_size


class Layout(Protocol):
    """How networks lie on the processes. Every method is called by all processes together, in the same order."""

    def place(self, networks: Iterable[nn.Module | None]) -> None:
        """Put networks where they train, in place; None is left out. They come from the CPU, whole."""
        ...

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Make what trains and its optimizer ready for several processes."""
        ...

    def average(self, teacher: nn.Module, student: nn.Module, weight: float) -> None:
        """Move a network's parameters and buffers towards another's: teacher + weight (student - teacher)."""
        ...

    def reduce_gradients(self, network: nn.Module, limit: float) -> Tensor:
        """Average the gradients of all processes and clip them; returns their norm before that.

        Args:
            network: What was trained.
            limit: Largest norm; infinite for no clipping.
        """
        ...

    def whole(self, segmenter: Segmenter, wanted: bool) -> Segmenter | None:
        """A network as one: itself where it is whole, otherwise a copy on the processes that want it."""
        ...

    def gather(self, tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
        """Whole copies of tensors in the host's memory; nothing where they are not wanted."""
        ...

    def part_like(self, value: Tensor, other: Tensor) -> Tensor:
        """This process's part of a whole tensor, cut as another one is."""
        ...


class Replicated:
    """Everything whole on every process; gradients are averaged by data parallelism."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def place(self, networks: Iterable[nn.Module | None]) -> None:
        """See `Layout.place`."""
        for network in networks:
            if network is not None:
                network.to(self.accelerator.device, memory_format=torch.channels_last)

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """See `Layout.prepare`."""
        return self.accelerator.prepare(network, optimizer)

    @torch.no_grad()
    def average(self, teacher: nn.Module, student: nn.Module, weight: float) -> None:
        """See `Layout.average`."""
        lerp_tensors(teacher, student, weight)

    def reduce_gradients(self, network: nn.Module, limit: float) -> Tensor:
        """See `Layout.reduce_gradients`."""
        parameters = [p for p in network.parameters() if p.grad is not None]
        if world_size() > 1 and not isinstance(network, nn.parallel.DistributedDataParallel):
            average_gradients([p.grad for p in parameters if p.grad is not None])
        return torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, limit)).detach()

    def whole(self, segmenter: Segmenter, wanted: bool) -> Segmenter | None:
        """See `Layout.whole`."""
        return segmenter

    def gather(self, tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
        """See `Layout.gather`."""
        return {name: host_copy(tensor) for name, tensor in tensors.items()} if wanted else {}

    def part_like(self, value: Tensor, other: Tensor) -> Tensor:
        """See `Layout.part_like`."""
        return value


def is_sharded(config: Config) -> bool:
    """Whether this training cuts its networks: asked for, and there are processes to share them."""
    return config.run.shard and world_size() > 1


def layout_of(config: Config, accelerator: Accelerator) -> Layout:
    """The layout that a configuration asks for.

    Raises:
        IccldError: Shards are asked for with fp16, or with compiled networks.
    """
    if not is_sharded(config):
        return Replicated(accelerator)
    if accelerator.mixed_precision == "fp16":
        raise IccldError(
            "run.shard does not work with fp16, whose loss scaling needs whole gradients",
            "use --precision bf16 or fp32",
        )
    if config.run.compile:
        raise IccldError("run.shard and run.compile exclude each other", "choose one of them")
    from iccld_cli.parallel.sharding import Sharded  # FSDP is loaded for those who use it

    return Sharded(accelerator)


def lerp_tensors(teacher: nn.Module, student: nn.Module, weight: float) -> None:
    """Move parameters and buffers towards another network's; what is no floating point is copied."""
    pairs = list(
        zip([*teacher.parameters(), *teacher.buffers()], [*student.parameters(), *student.buffers()], strict=True)
    )
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], weight)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)


def average_gradients(gradients: list[Tensor]) -> None:
    """Replace gradients by their means over processes, with a single message."""
    if not gradients:
        return
    flat = sum_over_ranks(torch.cat([g.flatten() for g in gradients])).div_(world_size())
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def host_copy(tensor: Tensor) -> Tensor:
    """A copy of a tensor in the host's memory."""
    return tensor.detach().cpu().contiguous().clone()
