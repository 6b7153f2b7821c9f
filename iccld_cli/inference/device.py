"""Which device a command runs on, and a model made ready for it."""

from __future__ import annotations

from pathlib import Path

import torch

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.models.segmenter import Segmenter


def pick_device(name: str) -> torch.device:
    """Turn `--device` into a device.

    Args:
        name: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        IccldError: The name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise IccldError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise IccldError(f"device {name!r} is not supported", "use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise IccldError("this machine has no usable CUDA device", "use --device cpu, or see `iccld doctor`")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise IccldError(f"there is no {name}", f"this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def load_for_inference(path: Path | str, device: torch.device) -> tuple[Segmenter, ModelHeader]:
    """Load a model to predict with.

    The weights are laid out channels-last, which takes a third off the time of MobileNetV2 on a CPU
    (`benchmarks/predict.py`); the numbers stay the same within rounding.

    Args:
        path: A model file.
        device: Where the model goes.

    Raises:
        IccldError: The file is missing, damaged, or not a model of this program.
    """
    segmenter, header = load_segmenter(path, device)
    segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return segmenter, header
