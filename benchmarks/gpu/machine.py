"""The card and its ceilings: how fast it multiplies matrices and copies memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from results import Deadline, Results
from setting import Setting

if TYPE_CHECKING:  # `--list` needs no torch
    import torch


def run(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Measure what is not yet known."""
    import accelerate
    import diffusers
    import torch
    import transformers

    device = torch.device(setting.device)
    if not results.has("machine", "machine"):
        card = torch.cuda.get_device_properties(device) if setting.device == "cuda" else None
        row = {
            "device": card.name if card else platform.processor() or "cpu",
            "memory_gib": card.total_memory / 2**30 if card else None,
            "multiprocessors": card.multi_processor_count if card else None,
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "diffusers": diffusers.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "toy": setting.toy,
        }
        results.put("machine", "machine", row)
    side = 512 if setting.toy else 8192
    for name in ("bf16", "fp16", "tf32", "fp32"):
        if setting.device == "cpu" and name in ("fp16", "tf32"):
            continue
        if not results.has("machine", f"matmul {name}") and deadline.left():
            seconds = _matmul(name, side, device)
            results.put("machine", f"matmul {name}", {"side": side, "tflops": 2 * side**3 / seconds / 1e12})
    if not results.has("machine", "copy") and deadline.left():
        count = 2**20 if setting.toy else 2**30
        source = torch.randint(255, (count,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        seconds = time_of(lambda: target.copy_(source), device)
        results.put("machine", "copy", {"bytes_read_and_written": 2 * count, "tb_per_s": 2 * count / seconds / 1e12})


def ceiling(results: Results, precision: str) -> float | None:
    """Measured FLOP/s of a matrix product at a precision, or None."""
    row = results.rows("machine").get(f"matmul {precision}")
    return row["tflops"] * 1e12 if row else None


def time_of(work: Callable[[], Any], device: torch.device, repeats: int = 20) -> float:
    """Median seconds of a piece of work, after three that warm up."""
    times = []
    for number in range(repeats + 3):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number >= 3:
            times.append(time.perf_counter() - began)
    return median(times)


def _matmul(name: str, side: int, device: torch.device) -> float:
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
        one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return time_of(lambda: one @ other, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
