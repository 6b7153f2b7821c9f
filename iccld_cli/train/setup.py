"""What a run computes on: device, precision, processes, compilation, and the batch that fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from torch import nn

from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage import Stage
from iccld_cli.config import Config
from iccld_cli.data.batches import TrainingBatches
from iccld_cli.errors import IccldError, is_out_of_memory
from iccld_cli.inference.device import pick_device
from iccld_cli.parallel.layout import layout_of
from iccld_cli.parallel.ranks import refuse_launcher_sharding
from iccld_cli.train.memory import available_bytes, format_bytes, peak_bytes
from iccld_cli.train.trackers import check_trackers

_HEADROOM = 0.85  # share of the memory to fill: fragments and later, larger layers need the rest
_LARGEST = {"cuda": 64, "cpu": 16}  # a CPU gains nothing from more samples at once
_FIRST = 2  # batch norm wants more than one sample


def build_accelerator(config: Config, run: Path) -> Accelerator:
    """Device, precision, gradient sync and trackers of a run.

    Args:
        config: The configuration.
        run: The run folder, where TensorBoard's files go.

    Raises:
        IccldError: The device does not exist or lacks the precision, or something is not installed or not supported.
    """
    device, precision = config.run.device, config.run.precision
    refuse_launcher_sharding()
    if config.run.compile and config.run.checkpointing:
        raise IccldError("run.compile and run.checkpointing exclude each other", "choose one of them")
    on_cpu = pick_device(device).type == "cpu"
    if device.startswith("cuda:"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    if precision == "auto":  # imitated bf16 is slower than fp32
        precision = "bf16" if not on_cpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision == "fp16" and on_cpu:
        raise IccldError("fp16 training needs a GPU", "use --precision fp32 or bf16")
    handler = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    mixed = "no" if precision == "fp32" else precision
    trackers = check_trackers(config)
    accelerator = Accelerator(
        mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[handler], log_with=trackers or None, project_dir=str(run)
    )
    layout_of(config, accelerator)  # refuses what does not go together; only now is the number of processes known
    return accelerator


def precision_warning(accelerator: Accelerator) -> str | None:
    """What to say of a precision that the processor can only imitate."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return None
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "this processor has no bf16 instructions, so bf16 is many times slower here than --precision fp32"


def compile_network(network: nn.Module, accelerator: Accelerator) -> None:
    """Compile what trains, for the fixed shapes of training crops.

    The teacher is left as it is: it also validates, on frames of any size, and each size would be compiled anew.
    """
    accelerator.unwrap_model(network).compile(dynamic=False)


def check_batch_size(
    make: Callable[[Config], Stage],
    config: Config,
    batches: Callable[[Config], TrainingBatches],
    accelerator: Accelerator,
    console: Console,
) -> Config:
    """Find the batch size that fits by training a few steps of throw-away networks.

    Args:
        make: Builds the stage of a configuration anew.
        config: The configuration.
        batches: Gives the training data of a configuration.
        accelerator: Where to train.
        console: Where the result is printed.

    Returns:
        The configuration with the batch size found.

    Raises:
        IccldError: There are several processes, or not even the smallest batch fits.
    """
    if accelerator.num_processes > 1:
        raise IccldError(
            "--batch-size auto tries batches on one process only",
            "run it once on one device with --iterations 1, and give the number it finds",
        )
    device = accelerator.device
    budget, largest = _HEADROOM * available_bytes(device), _LARGEST[device.type]
    peaks: dict[int, int] = {}
    size = _FIRST
    while size <= largest:
        trial = config.with_batch_size(size)
        peak = _try_steps(make, trial, batches(trial), accelerator)
        if peak is None:
            break
        peaks[size] = peak
        if len(peaks) > 1:
            slope = (peaks[size] - peaks[size // 2]) / (size // 2)
            if slope > 0 and peak + slope * size > budget:
                break
            if device.type == "cpu":  # the rest follows from two sizes, and trying is slow here
                size = _largest_fitting(size, peak, slope, budget, largest)
                peaks.setdefault(size, round(peak + slope * (size - 4)))
                break
        size *= 2
    if not peaks:
        raise IccldError(f"not even {_FIRST} crops fit into {device}", "lower --crop or choose a smaller --preset")
    found = max(peaks)
    room = f"{format_bytes(peaks[found])} of {format_bytes(available_bytes(device))}"
    console.print(f"batch size {found}: about {room} on {device}", soft_wrap=True)
    return config.with_batch_size(found)


def _largest_fitting(size: int, peak: float, slope: float, budget: float, largest: int) -> int:
    while size * 2 <= largest and peak + slope * size <= budget:
        peak, size = peak + slope * size, size * 2
    return size


def _try_steps(
    make: Callable[[Config], Stage], config: Config, batches: TrainingBatches, accelerator: Accelerator
) -> int | None:
    """Peak memory in bytes of two full steps; None where they do not fit."""
    device = accelerator.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    stage: Stage | None = None
    try:
        stage = make(config)
        batch = replace(batches[0], micro=(0, 1))
        for step in (stage.iterations - 1, stage.iterations - 1):  # late enough for every loss term to count
            stage.step(step, to_device(batch, config, step, device))
        return peak_bytes(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        del stage
        accelerator.free_memory()
