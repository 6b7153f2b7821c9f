"""Fully sharded training: each process keeps its part of every parameter, gradient and moment.

torch's FSDP2 gathers the parameters of a block when the block runs and drops them afterwards, so that a process
never holds more than its part and the block at work. Student, teacher and the frozen reference are cut in the same
places, which makes the teacher's average and the optimizer's step local. Everything small (discriminator, gates,
prototypes, batch statistics, biases) stays whole on every process.

Cutting and joining is the same on all ranks and in the same order: whatever here says "together" is a collective, and
a rank that leaves it out stops the others. Training states and model files hold whole tensors, so they
load whatever way they were trained.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from iccld_cli.models.backbones import HuggingFaceBackbone
from iccld_cli.models.encoder import Encoder
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.blocks import layer_blocks
from iccld_cli.parallel.layout import average_gradients, host_copy
from iccld_cli.parallel.ranks import sum_over_ranks, world_size

_LEAST_SHARE = 0.005  # of a network's parameters; gathering smaller blocks one by one costs more than it saves


class Sharded:
    """Each process with its part; the methods are those of `parallel.layout.Layout`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._plans: dict[int, Segmenter] = {}  # what segmenters looked like before they were cut

    def place(self, networks: Iterable[nn.Module | None]) -> None:
        """Cut networks in place and move each rank's part to its device, so that no device ever holds one whole.

        Blocks of the encoder and of the UNet are gathered one at a time, as are encoder, decoder and UNet around them.
        With bf16 a block is gathered in bf16: under autocast alone the converted weights would stay whole from the
        forward to the backward pass. Biases and weights of norms, less than a hundredth of a large network, stay whole
        and float32 on every rank: norms want them so, and they are not worth a message each.

        Args:
            networks: Segmenters, and backbones that run by themselves; None is left out.
        """
        mesh = init_device_mesh(self.accelerator.device.type, (world_size(),))
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        whole = MixedPrecisionPolicy(cast_forward_inputs=False)
        for network in networks:
            if network is None:
                continue
            if isinstance(network, Segmenter):
                self._plans[id(network)] = _blueprint(network)
            for module in network.modules():
                if isinstance(module, Encoder | HuggingFaceBackbone):
                    module.register_forward_hook(_copied)
            parts = [network.encoder.backbone, network.denoiser] if isinstance(network, Segmenter) else [network]
            for part in parts:
                if part is None:
                    continue
                for block in _large_blocks(part):
                    self._cut(block, mesh, half if self.accelerator.mixed_precision == "bf16" else whole)
                self._cut(part, mesh, whole)
            if isinstance(network, Segmenter):
                self._cut(network.encoder, mesh, whole)
                self._cut(network.decoder, mesh, whole)

    def _cut(self, module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
        small = {p for p in module.parameters() if p.ndim <= 1}
        for tensor in (*small, *module.buffers()):  # what FSDP leaves alone
            tensor.data = tensor.data.to(self.accelerator.device)
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.contiguous()
        # Always dropped after the forward pass: the teacher has no backward pass, and its average reads the parts.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=small)

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """See `Layout.prepare`; data parallelism is left to FSDP."""
        accelerator = self.accelerator
        return accelerator.prepare_model(network, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)

    @torch.no_grad()
    def average(self, teacher: nn.Module, student: nn.Module, weight: float) -> None:
        """See `Layout.average`: both are cut in the same places, so that nothing is sent."""
        mine, other = [*teacher.parameters(), *teacher.buffers()], [*student.parameters(), *student.buffers()]
        floats = [(a, b) for a, b in zip(mine, other, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([_local(a) for a, _ in floats], [_local(b) for _, b in floats], weight)
        for a, b in zip(mine, other, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
        _forget_forwards(teacher)

    def reduce_gradients(self, network: nn.Module, limit: float) -> Tensor:
        """See `Layout.reduce_gradients`; gradients of shards are averaged on their way."""
        parameters = [p for p in network.parameters() if p.grad is not None]
        whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        average_gradients(whole)
        cut = [_local(p.grad) for p in parameters if isinstance(p.grad, DTensor)]
        if not cut:  # the discriminator's
            return torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, limit)).detach()
        device = parameters[0].device
        norm = (sum_over_ranks(_square(cut, device)) + _square(whole, device)).sqrt()
        torch._foreach_mul_([*cut, *whole], (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm.detach()

    def whole(self, segmenter: Segmenter, wanted: bool) -> Segmenter | None:
        """See `Layout.whole`; the copy is on the segmenter's device, in evaluation mode."""
        tensors = self.gather(segmenter.state_dict(), wanted)
        if not wanted:
            return None
        copied = copy.deepcopy(self._plans[id(segmenter)])
        copied.load_state_dict(tensors, assign=True)
        copied = copied.to(self.accelerator.device, memory_format=torch.channels_last)
        return copied.requires_grad_(False).eval()

    def gather(self, tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
        """See `Layout.gather`; one by one, so that the device never holds them all."""
        copies: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if wanted:
                copies[name] = host_copy(value)
        return copies

    def part_like(self, value: Tensor, other: Tensor) -> Tensor:
        """See `Layout.part_like`; nothing is sent, and a value of another shape is given back as it is."""
        if not isinstance(other, DTensor) or value.shape != other.shape:
            return value
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a whole tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _blueprint(segmenter: Segmenter) -> Segmenter:
    """A copy of a whole segmenter that has its buffers but no memory for its parameters."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in segmenter.parameters()
    }
    return copy.deepcopy(segmenter, memo)


def _forget_forwards(network: nn.Module) -> None:
    """Let a cut network that is never trained forget the order in which it ran; it would grow for ever."""
    for part in network.children():
        # Missing before the first run, of parts that are not cut, and in older releases of torch, where it stays a few
        # MB.
        with contextlib.suppress(AttributeError):
            part.reset_iter_state()  # type: ignore[operator]


def _copied(module: nn.Module, images: Any, result: Any) -> Any:
    """Results as tensors of their own: FSDP hangs hooks on them, which a view may lose."""
    own = [t.clone() if isinstance(t, Tensor) and t._is_view() else t for t in result]
    return type(result)(own)


def _large_blocks(network: nn.Module) -> list[nn.Module]:
    least = _LEAST_SHARE * sum(p.numel() for p in network.parameters())
    return [block for block in layer_blocks(network) if sum(p.numel() for p in block.parameters()) >= max(least, 1)]


def _square(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Sum of squares, float32 ()."""
    norms = torch._foreach_norm([t for t in tensors if t.numel()]) if tensors else []
    return torch.stack(list(norms)).float().square().sum() if norms else torch.zeros((), device=device)
