"""The blocks that networks consist of, and activation checkpointing block by block."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from iccld_cli.models.segmenter import Segmenter


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
