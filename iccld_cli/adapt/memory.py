"""Memory: how much a training takes, what to do when it is not enough, and activation checkpointing."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iccld_cli.errors import IccldError, is_out_of_memory
from iccld_cli.models.segmenter import Segmenter

GIB = 2**30


def peak_bytes(device: torch.device) -> int:
    """Most memory used so far: of the GPU's allocator, or of this process where there is no GPU; in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def available_bytes(device: torch.device) -> int:
    """Memory that this process could have in all: on the GPU, or of the machine (its control group's limit counts)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    limits = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        limits.append(int(rows["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # absent, or "max", where there is no limit
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            limits.append(limit - int(file.read()))
    if not limits and hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(min(limits, default=4 * GIB), 0) + peak_bytes(device)


def format_bytes(count: float) -> str:
    """Bytes as a person reads them, such as `1.25 GiB`."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


@contextlib.contextmanager
def explain_out_of_memory(what: str, device: torch.device, smaller: str) -> Iterator[None]:
    """Turn running out of memory into an error that names what to lower.

    Args:
        what: What was going on, such as `step 12 of stage1`.
        device: Where.
        smaller: Which options to lower.

    Raises:
        IccldError: There was not enough memory inside the block.
    """
    try:
        yield
    except Exception as error:  # every library has its own, see `errors.is_out_of_memory`
        if not is_out_of_memory(error):
            raise
        place = str(device) if device.type == "cuda" else "this machine"
        raise IccldError(
            f"{place} ran out of memory in {what} (peak {format_bytes(peak_bytes(device))})", smaller
        ) from None


def checkpoint_activations(segmenter: Segmenter) -> None:
    """Forget activations in the forward pass and compute them again in the backward pass.

    Applied to the encoder's blocks, its fusion, the UNet's blocks and the decoder, of a network that trains. It costs
    about a third more computing, changes no number, and names of parameters stay as they are.
    """
    parts = [*layer_blocks(segmenter.encoder.backbone), segmenter.encoder.fusion, segmenter.decoder]
    for part in parts:
        part.forward = _checkpointed(part, part.forward)  # type: ignore[method-assign]
    if segmenter.denoiser is not None:
        segmenter.denoiser.unet.enable_gradient_checkpointing()


def layer_blocks(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists of layers of a network, whatever the architecture calls them."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for element in child:
                found += layer_blocks(element) if isinstance(element, nn.ModuleList) else [element]
        else:
            found += layer_blocks(child)
    if isinstance(module, nn.ModuleList):
        return [e for e in module if not isinstance(e, nn.ModuleList)] or found
    return found


def _checkpointed(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        contexts = functools.partial(_twice, module)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return call


def _twice(module: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    return contextlib.nullcontext(), _without_statistics(module)


@contextlib.contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """Computing a batch norm again must not count its batch twice."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def saved_for_backward(compute: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, parameters left out.

    Args:
        compute: Runs the forward pass.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        result = compute()
    total = sum(kept.values())
    del result
    return total
