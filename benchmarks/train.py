"""What training costs: both stages against bare loops, real data against a cached batch, peers at equal work.

    python benchmarks/train.py --source DATA/carla --target DATA/camvid --json results.json

Every row is measured in a process of its own, the rows in turn and the turn several times (`--rounds`), so that what
else the machine does meets all rows alike; the median of all steps counts:

    stage1, stage2          the whole step on real data, as `adapt-seg` and `adapt-adv` run it
    ... cached              the same step on one batch that lies on the device already: what loading costs
    ... bare                every pass that the stage needs and nothing else, on random tensors that lie on the device:
                            the student's on as many images, with torch's own losses, the backward pass and the
                            optimizer's step, the teacher's on as many target images, its average, in stage 2 also the
                            discriminator's two passes and its step; no pseudo-labels, ClassMix, augmentation or log
    segformer-b0, -b2, -b5  fine-tuning of the model from `transformers` (random weights), at equal crop and batch

`step.py` compares the first three more finely, and says where the time goes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage import Stage
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.adapt.stage2 import Stage2
from iccld_cli.config import Config, load_config
from iccld_cli.data.batches import Batch, FramePool, TrainingBatches, read_steps
from iccld_cli.losses.segmentation import pixel_cross_entropy
from iccld_cli.models.build import build_segmenter
from iccld_cli.train.data import open_data
from iccld_cli.train.memory import peak_bytes
from iccld_cli.train.setup import build_accelerator, compile_network

ROWS = (
    "stage1", "stage1 cached", "stage1 bare", "stage2", "stage2 cached", "stage2 bare", "segformer-b0", "segformer-b2",
    "segformer-b5",
)  # fmt: skip
# Widths, depths, heads and decoder width of the published sizes (Xie et al. 2021, table 6).
SEGFORMER = {
    "segformer-b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "segformer-b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "segformer-b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


def main() -> None:
    """Measure every row, each in a process of its own, and print a table."""
    options = _options()
    if options.row:
        print(json.dumps(_measure(options)))
        return
    names = options.only or ROWS
    times: dict[str, list[float]] = {name: [] for name in names}
    peaks = dict.fromkeys(names, 0.0)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", flush=True)
        for name in names:
            found = _in_a_process(name)
            times[name] += found["times"]
            peaks[name] = max(peaks[name], found["peak_gib"])
            print(f"  {name:14s} {median(found['times']):8.3f} s/step", flush=True)
    rows = [_row(name, times[name], peaks[name]) for name in names]
    ratios = {}
    for row in rows:
        spread = f"(quarters {row['quarters'][0]:.3f} to {row['quarters'][1]:.3f})"
        print(f"{row['name']:14s} {row['seconds']:8.3f} s/step {spread}  {row['peak_gib']:6.2f} GiB")
        for kind in ("cached", "bare"):
            if other := times.get(f"{row['name']} {kind}"):
                ratios[f"{row['name']} / {kind}"] = row["seconds"] / median(other)
    for name, ratio in ratios.items():
        print(f"{name:20s} {ratio:.2f}")
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("row", "json")},
        "rows": rows,
        "ratios": ratios,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _in_a_process(row: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--row", row]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{row} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _row(name: str, times: list[float], peak_gib: float) -> dict[str, Any]:
    middle = median(times)
    first, _, third = quantiles(times, n=4)
    return {
        "name": name,
        "seconds": middle,
        "steps_per_second": 1 / middle,
        "quarters": [first, third],
        "steps": len(times),
        "peak_gib": peak_gib,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="Labelled prepared data set.")
    parser.add_argument("--target", type=Path, required=True, help="Target prepared data set.")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--encoder", help="Encoder, where the preset's own is not at hand.")
    parser.add_argument("--crop", default="128x128", metavar="WxH")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="Measured steps of a row in a round.")
    parser.add_argument("--rounds", type=int, default=3, help="How often all rows are measured.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--own-loss", action="store_true", help="The package's cross-entropy in the bare loops too.")
    parser.add_argument("--compile", action="store_true", help="Through torch.compile.")
    parser.add_argument("--only", nargs="+", choices=ROWS, help="Measure these rows only.")
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _config(options: argparse.Namespace) -> Config:
    width, _, height = options.crop.partition("x")
    values = {
        "model.encoder": options.encoder,
        "data.crop": (int(width), int(height)),
        "data.batch_size": options.batch_size,
        "run.device": options.device,
        "run.precision": options.precision,
        "run.compile": options.compile,
        "seg.burn_in": 0.0,
        "seg.iterations": 10_000,
        "adv.iterations": 10_000,
    }
    return load_config(options.preset, overrides=values)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    config = _config(options)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = build_accelerator(config, Path(folder))
        steps = _steps_of(options, config, accelerator)
        times = _time(steps, accelerator.device, options.steps)
        peak = peak_bytes(accelerator.device) / 2**30
        flops = None if options.compile else _flops(steps)
    return {"times": times, "peak_gib": peak, "flops": flops}


def _flops(steps: Iterator[None]) -> int:
    """Floating-point operations of a step's matrix products and convolutions, teacher and backward pass included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        next(steps)
    return int(counter.get_total_flops())


def _steps_of(options: argparse.Namespace, config: Config, accelerator: Accelerator) -> Iterator[None]:
    name, _, kind = options.row.partition(" ")
    if name in SEGFORMER:
        return _segformer(name, config, accelerator)
    data = open_data([options.source], [options.target])
    student = build_segmenter(config, len(data.space), denoiser=name == "stage2", seed=0)
    stage: Stage = (Stage2 if name == "stage2" else Stage1)(config, data.space, student, accelerator)
    if kind == "bare":
        return _bare(stage, config, len(data.space), accelerator, options.own_loss)
    if config.run.compile:
        compile_network(stage.network, accelerator)
    batches = TrainingBatches(config.data, 0, FramePool.of(data.sources), FramePool.of(data.targets), data.classes)
    return _real(stage, config, batches, accelerator, cached=kind == "cached")


def _real(
    stage: Stage, config: Config, batches: TrainingBatches, accelerator: Accelerator, cached: bool
) -> Iterator[None]:
    device = accelerator.device
    if cached:
        raw = batches[0]
        tensors = {k: v.to(device) for k, v in vars(raw).items() if isinstance(v, torch.Tensor)}
        steps: Iterator[list[Batch]] = iter(lambda: [replace(raw, **tensors)], None)
    else:
        steps = read_steps(batches, 0, 10_000, pin_memory=device.type == "cuda")
    for step, (raw,) in enumerate(steps):
        stage.step(step, to_device(raw, config, step, device))
        yield


def _bare(stage: Stage, config: Config, classes: int, accelerator: Accelerator, own_loss: bool) -> Iterator[None]:
    """See `bare` in the head of this file."""
    student, teacher, device = stage.student, stage.teacher.model, accelerator.device
    fused = device.type in ("cuda", "cpu")
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-5, fused=fused)
    images, labels = _random_batch(config, classes, device)
    count = len(images) // 2  # source and mixed images; target images are as many as either
    target = images[:count]
    second, adversary = student.denoiser is not None, getattr(stage, "adversary", None)
    shape = (config.model.latent_channels, images.shape[-2] // 8, images.shape[-1] // 8)
    noise = torch.randn(3 * count, *shape, device=device)
    times = torch.full((3 * count,), config.diffusion.train_timesteps - 1, device=device)
    # Of source and mixed images only those that start from pure noise pass the discriminator.
    seen = round(count * config.adv.terminal_probability)

    def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
        if own_loss:
            return pixel_cross_entropy(logits, labels).mean()
        fine = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)
        return F.cross_entropy(fine, labels)

    while True:
        with torch.no_grad(), accelerator.autocast():
            z_0, skip, _ = teacher.encoder(target)
            teacher.decoder(teacher.denoiser(noise[:count], times[:count], z_0) if second else z_0, skip)
        with accelerator.autocast():
            z_0, skip, _ = student.encoder(images)
            logits = [student.decoder(z_0, skip)]
            if second:
                with torch.no_grad():
                    z_target = student.encoder(target)[0]
                estimate = student.denoiser(noise, times, torch.cat([z_0, z_target]))
                logits.append(student.decoder(estimate[: 2 * count], skip))
        loss = torch.stack([cross_entropy(each) for each in logits]).sum()
        if second:
            loss = loss + (estimate.float() - noise)[: 2 * count].square().mean()
            others = torch.cat([estimate[count : count + seen], estimate[2 * count :]]).float()
            adversary.discriminator.requires_grad_(False)
            loss = loss + (adversary.discriminator(others) - 1).square().mean()
            adversary.discriminator.requires_grad_(True)
        _descend(loss, optimizer, accelerator)
        if second:
            scores = adversary.discriminator(torch.cat([estimate[:seen].float(), others]).detach())
            loss = (scores[:seen] - 1).square().mean() + scores[seen:].square().mean()
            _descend(loss, adversary.optimizer, accelerator)
        with torch.no_grad():
            pairs = zip(_floats(teacher), _floats(student), strict=True)
            torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), 1e-3)
        yield


def _floats(network: torch.nn.Module) -> list[torch.Tensor]:
    return [t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]


def _segformer(name: str, config: Config, accelerator: Accelerator) -> Iterator[None]:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, depths, decoder = SEGFORMER[name]
    shape = SegformerConfig(hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder, num_labels=19)
    network = SegformerForSemanticSegmentation(shape).to(accelerator.device).train()
    if config.run.compile:
        network.compile(dynamic=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=6e-5, fused=accelerator.device.type in ("cuda", "cpu"))
    images, labels = _random_batch(config, 19, accelerator.device)
    return _loop(lambda: network(pixel_values=images, labels=labels).loss, optimizer, accelerator)


def _random_batch(config: Config, classes: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width, height = config.data.crop
    count = 2 * config.data.batch_size  # as many images as a step has: source and mixed
    images = torch.rand(count, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(classes, (count, height, width), device=device)


def _loop(
    loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> Iterator[None]:
    while True:
        with accelerator.autocast():
            value = loss()
        _descend(value, optimizer, accelerator)
        yield


def _descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    optimizer.step()


def _time(steps: Iterator[None], device: torch.device, count: int) -> list[float]:
    """Seconds of each step after three that warm up."""
    for _ in range(3):
        next(steps)
    times = []
    for _ in range(count):
        _synchronise(device)
        began = time.perf_counter()
        next(steps)
        _synchronise(device)
        times.append(time.perf_counter() - began)
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
