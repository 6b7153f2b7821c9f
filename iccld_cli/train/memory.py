"""Memory: how much a training takes, and what to do when it is not enough."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from iccld_cli import errors

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
        place = str(device) if device.type == "cuda" else "this machine"
        peak = format_bytes(peak_bytes(device))
        explained = errors.explain_out_of_memory(error, f"{place} ran out of memory in {what}, peak {peak}", smaller)
        if explained is None:
            raise
        raise explained from None


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
