"""What tensors a model has, found out without memory for any of them.

The header of a model file asks for sizes. Before anything is allocated the model is built on torch's `meta` device,
where a tensor is a shape alone, and compared with the tensors that the file really holds. Even that takes time and
memory for every layer, so the construction ends as soon as it has more layers than the file can fill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from iccld_cli.tensorfile import FLOATS, TensorInfo

_SLACK = 512  # tensors that an encoder's class builds and this program then drops (poolers, classifying layers)
_MODULES = 12  # modules a tensor, with activations, dropouts and containers; most architectures have 1 to 3
_ELEMENTS = 4  # times the file's values: dropped layers are less than that
_SPARE = 64 * 2**20  # values of a small encoder's dropped layers and of tables that are not stored, such as Swin's

_TYPES = {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}


class TooLargeError(Exception):
    """A construction has more layers or values than the file that it is for."""


@dataclass
class _Count:
    tensors: int = 0
    modules: int = 0
    values: int = 0


def outline(build: Callable[[], nn.Module], held: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Build a model without memory.

    Args:
        build: Makes the model.
        held: What the file holds, which bounds what may be built.

    Returns:
        Its state dict, on the `meta` device.

    Raises:
        TooLargeError: There is far more to it than the file holds.
    """
    limits = _Count(
        tensors=2 * len(held) + _SLACK,
        modules=_MODULES * (len(held) + _SLACK),
        values=_ELEMENTS * sum(info.elements for info in held.values()) + _SPARE,
    )
    with _bounded(limits), torch.device("meta"), torch.random.fork_rng(devices=[]):
        return dict(build().state_dict())


def differences(wanted: Mapping[str, torch.Tensor], held: Mapping[str, TensorInfo]) -> Iterator[str]:
    """In what a file's tensors differ from a model's, in words."""
    for name in sorted(wanted.keys() - held.keys()):
        yield f"{name} is missing"
    for name in sorted(held.keys() - wanted.keys()):
        yield f"{name[:100]!r} is none of its tensors"
    for name in sorted(wanted.keys() & held.keys()):
        tensor, info = wanted[name], held[name]
        if tuple(tensor.shape) != info.shape:
            yield f"{name} has shape {list(info.shape)}, not {list(tensor.shape)}"
        elif tensor.is_floating_point() != (info.dtype in FLOATS) or (
            not tensor.is_floating_point() and _TYPES.get(tensor.dtype) != info.dtype
        ):
            yield f"{name} is of type {info.dtype}"


@contextlib.contextmanager
def _bounded(limits: _Count) -> Iterator[None]:
    """End any construction of modules that goes beyond the limits."""
    count = _Count()

    def check() -> None:
        for what in ("tensors", "modules", "values"):
            if getattr(count, what) > getattr(limits, what):
                raise TooLargeError(f"more {what}")

    def on_tensor(_module: nn.Module, _name: str, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            count.tensors += 1
            count.values += tensor.numel()
            check()

    def on_module(_module: nn.Module, _name: str, child: Any) -> None:
        count.modules += 1
        check()

    handles = [
        hooks.register_module_parameter_registration_hook(on_tensor),
        hooks.register_module_buffer_registration_hook(on_tensor),
        hooks.register_module_module_registration_hook(on_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
