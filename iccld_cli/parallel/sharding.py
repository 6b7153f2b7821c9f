"""Fully sharded training: each process keeps its part of every parameter, gradient and moment.

torch's FSDP2 gathers the parameters of a block when the block runs and drops them afterwards, so that a process
never holds more than its part and the block at work. Student, teacher and the frozen reference are cut in the same
places, which makes the teacher's average and the optimizer's step local. Everything small (discriminator, gates,
prototypes, batch statistics, biases) stays whole on every process.

Cutting and joining is the same on all ranks and in the same order: whatever here says "together" is a collective, and
a rank that leaves it out stops the others. Training states and model files hold whole tensors, so that nobody who
reads them needs to know how they were trained.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from iccld_cli.config import Config
from iccld_cli.errors import IccldError
from iccld_cli.models.backbones import HuggingFaceBackbone
from iccld_cli.models.encoder import Encoder
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.blocks import layer_blocks
from iccld_cli.parallel.ranks import sum_over_ranks, world_size

_LEAST_SHARE = 0.005  # of a network's parameters; gathering smaller blocks one by one costs more than it saves


def is_sharded(config: Config) -> bool:
    """Whether this training cuts its networks: asked for, and there are processes to share them."""
    return config.run.shard and world_size() > 1


def check_sharding(config: Config, precision: str) -> None:
    """Refuse what does not go together with shards.

    Args:
        config: The configuration.
        precision: `no`, `bf16` or `fp16`, as resolved for the device.

    Raises:
        IccldError: The precision is fp16, or the networks are to be compiled.
    """
    if not is_sharded(config):
        return
    if precision == "fp16":
        raise IccldError(
            "run.shard does not work with fp16, whose loss scaling needs whole gradients",
            "use --precision bf16 or fp32",
        )
    if config.run.compile:
        raise IccldError("run.shard and run.compile exclude each other", "choose one of them")


def shard_networks(networks: Iterable[Segmenter | nn.Module | None], accelerator: Accelerator) -> None:
    """Cut networks in place, move each rank's part to its device; together.

    Blocks of the encoder and of the UNet are gathered one at a time, as are encoder, decoder and UNet around them.
    With bf16 a block is gathered in bf16: under autocast alone the converted weights would stay whole from the forward
    to the backward pass. Biases and weights of norms, less than a hundredth of a large network, stay whole and float32
    on every rank: norms want them so, and they are not worth a message each.

    Args:
        networks: Segmenters, and backbones that run by themselves; on the CPU, so that no device ever holds one whole.
            None is left out.
        accelerator: Device, and precision of the blocks.
    """
    device = accelerator.device
    mesh = init_device_mesh(device.type, (world_size(),))
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    whole = MixedPrecisionPolicy(cast_forward_inputs=False)

    def cut(module: nn.Module, policy: MixedPrecisionPolicy = whole) -> None:
        small = {p for p in module.parameters() if p.ndim <= 1}
        for tensor in (*small, *module.buffers()):  # what FSDP leaves alone
            tensor.data = tensor.data.to(device)
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.contiguous()
        # Always dropped after the forward pass: the teacher has no backward pass, and its average reads the parts.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=small)

    for network in networks:
        if network is None:
            continue
        for module in network.modules():
            if isinstance(module, Encoder | HuggingFaceBackbone):
                module.register_forward_hook(_copied)
        parts = [network.encoder.backbone, network.denoiser] if isinstance(network, Segmenter) else [network]
        for part in parts:
            if part is None:
                continue
            for block in _large_blocks(part):
                cut(block, half if accelerator.mixed_precision == "bf16" else whole)
            cut(part)
        if isinstance(network, Segmenter):
            cut(network.encoder)
            cut(network.decoder)


def prepare(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer, config: Config
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make a network and its optimizer ready to train on several processes, each by the means of its layout."""
    if not is_sharded(config):
        return accelerator.prepare(network, optimizer)
    return accelerator.prepare_model(network, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a whole tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def joined(tensor: Tensor) -> Tensor:
    """The whole of a tensor; together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(value: Tensor, other: Tensor) -> Tensor:
    """This rank's part of a whole tensor, cut as another one is; nothing is sent.

    Args:
        value: The same whole tensor on every rank.
        other: Of the same shape, whole or cut; a `value` of another shape is given back as it is.
    """
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def clip_shards(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Clip gradients of which each rank has a part, by the norm of the whole; together.

    Args:
        parameters: Parameters with a gradient.
        limit: Largest norm; infinite for no clipping.

    Returns:
        The norm before clipping, the same on all ranks.
    """
    cut = [local(p.grad) for p in parameters if isinstance(p.grad, DTensor)]
    own = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    square = sum_over_ranks(_square(cut, parameters[0].device)) + _square(own, parameters[0].device)
    norm = square.sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*cut, *own], factor)
    return norm


def blueprint(segmenter: Segmenter) -> Segmenter:
    """A copy of a whole segmenter that has its buffers but no memory for its parameters."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in segmenter.parameters()
    }
    return copy.deepcopy(segmenter, memo)


def join_segmenter(segmenter: Segmenter, plan: Segmenter, wanted: bool) -> Segmenter | None:
    """A whole copy of a segmenter; together.

    Args:
        segmenter: The cut one.
        plan: Its `blueprint`, from before it was cut.
        wanted: Whether this rank wants the copy.

    Returns:
        The copy on the segmenter's device, or None where it is not wanted.
    """
    tensors = join_tensors(segmenter.state_dict(), wanted)
    if not wanted:
        return None
    device = next(segmenter.parameters()).device
    whole = copy.deepcopy(plan)
    whole.load_state_dict(tensors, assign=True)
    return whole.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()


def join_tensors(tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """Whole copies of tensors in the host's memory, one by one so that the device never holds them all; together.

    Args:
        tensors: Whole and cut tensors by name, in the same order on all ranks.
        wanted: Whether this rank wants the copies.

    Returns:
        The copies; nothing where they are not wanted.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = joined(tensor)
        if wanted:
            copies[name] = value.detach().cpu().contiguous().clone()
    return copies


def forget_forwards(segmenter: Segmenter) -> None:
    """Let a cut network that is never trained forget the order in which it ran; it would grow for ever."""
    parts: tuple[Any, ...] = (segmenter.encoder, segmenter.decoder, segmenter.denoiser)
    for part in parts:
        # Missing before the first run, without a UNet, and in older releases of torch, where it stays a few MB.
        with contextlib.suppress(AttributeError):
            part.reset_iter_state()


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
