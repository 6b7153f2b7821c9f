"""Which device a command runs on: the one place that reads `--device`."""

from __future__ import annotations

import torch

from iccld_cli.errors import IccldError


def pick_device(name: str) -> torch.device:
    """Turn `--device` into a device.

    Args:
        name: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:N`, or `mps` (Apple's GPU, on which
            this program was never tried).

    Raises:
        IccldError: The name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise IccldError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise IccldError("this machine or this torch has no mps device", "use --device cpu, or see `iccld doctor`")
    if device.type == "mps":
        return torch.device("mps")
    if device.type != "cuda":
        raise IccldError(f"device {name!r} is not supported", "use auto, cpu, cuda, cuda:N or mps")
    if not torch.cuda.is_available():
        raise IccldError("this machine has no usable CUDA device", "use --device cpu, or see `iccld doctor`")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise IccldError(f"there is no {name}", f"this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device
