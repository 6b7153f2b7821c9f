"""A CUDA device that exists in name only: tensors with shapes, types and a device, but without numbers.

torch's fake tensors refuse to compute with tensors of two devices, as a GPU does, so a forward pass on them finds what
was left on the other device. A build of torch without CUDA has no place for a few of the operations, the move to the
device among them; those are done here, on shapes alone. Backward passes are out of reach: the autograd engine asks the
device for a stream.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
_NO_CUDA = "not linked with support for cuda"
_SYNCHRONISING = {"item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "cpu", "numpy", "masked_select"}


@contextlib.contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """A block in which `cuda:0` exists in name; whatever meets there must be on one device, or is an error."""
    with _FakeCuda(), torch.no_grad():
        try:
            yield CUDA
        finally:
            _forget_caches()


@contextlib.contextmanager
def training_step() -> Iterator[None]:
    """A block in which nothing may be copied to the GPU in a way that makes the host wait, as set-up may."""
    _FakeCuda.in_step = True
    try:
        yield
    finally:
        _FakeCuda.in_step = False


def devices_of(value: Any) -> set[str]:
    """Types of the devices of all tensors in a nested value."""
    return {leaf.device.type for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)}


class _FakeCuda(TorchFunctionMode):
    """Whatever has to do with the device is done on fake tensors; those on the CPU are real and have numbers."""

    in_step = False

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.__deepcopy__:  # its other argument holds everything copied so far
            if not isinstance(args[0], FakeTensor):
                return function(*args, **kwargs)
            with self.fake:
                return args[1].setdefault(id(args[0]), args[0].clone())
        if not _asks_for_cuda(args, kwargs):
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name in _SYNCHRONISING and "cuda" in devices_of(args):
            raise AssertionError(f"{name} of a tensor on the GPU: the host would wait for it")
        if self.in_step and _copies_and_waits(function, args, kwargs):
            raise AssertionError(f"{name} from the host without non_blocking: the host would wait for the GPU")
        with self.fake:
            if function in (Tensor.to, Tensor.cuda):
                return _move(args[0], *((CUDA,) if function is Tensor.cuda else args[1:]), **kwargs)
            try:
                return function(*args, **kwargs)
            except RuntimeError as error:
                if _NO_CUDA not in str(error):
                    raise
            if name != "copy_":
                _check_one_device(name, args, kwargs)
            return _by_shape(function, args, kwargs)


def _move(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`."""
    with unset_fake_temporarily():
        meta = [torch.empty(0, dtype=a.dtype, device="meta") if isinstance(a, Tensor) else a for a in args]
        target = _like(tensor, "meta").to(*["meta" if _names_device(a) else a for a in meta], **_on_meta(kwargs))
    named = [a.device if isinstance(a, Tensor) else a for a in (*args, kwargs.get("device"))]
    device = next((torch.device(d) for d in named if _names_device(d)), tensor.device)
    if device == tensor.device and (target.dtype, target.stride()) == (tensor.dtype, tensor.stride()):
        return tensor
    return torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device=device)


def _asks_for_cuda(*values: Any) -> bool:
    leaves = tree_flatten(values)[0]
    return any(isinstance(v, FakeTensor) or (_names_device(v) and torch.device(v).type == "cuda") for v in leaves)


def _copies_and_waits(function: Callable, args: tuple, kwargs: dict) -> bool:
    if function in (torch.tensor, torch.as_tensor):
        return not isinstance(args[0], FakeTensor)
    if function not in (Tensor.to, Tensor.cuda) or args[0].device.type != "cpu":
        return False
    return not (kwargs.get("non_blocking") or any(a is True for a in args[1:]))


def _names_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.startswith(("cuda", "cpu")))


def _check_one_device(name: str, *values: Any) -> None:
    tensors = [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor)]
    found = {t.device.type for t in tensors if t.ndim}
    assert len(found) < 2, f"{name} of tensors on {sorted(found)}"


def _by_shape(function: Callable, args: tuple, kwargs: dict) -> Any:
    with unset_fake_temporarily():
        on_meta = tree_map_only(Tensor, lambda t: _like(t, "meta"), args)
        result = function(*on_meta, **tree_map_only(Tensor, lambda t: _like(t, "meta"), _on_meta(kwargs)))
    name = getattr(function, "__name__", "")
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        return args[0]
    return tree_map_only(Tensor, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=CUDA), result)


def _on_meta(kwargs: dict) -> dict:
    return {k: "meta" if k == "device" and v is not None else v for k, v in kwargs.items()}


def _like(tensor: Tensor, device: str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _forget_caches() -> None:
    """Empty the caches of the package: what they hold has no numbers."""
    for name, module in list(sys.modules.items()):
        if name.startswith("iccld_cli."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
