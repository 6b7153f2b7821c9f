"""Share of a training step spent waiting for data, as `adapt-seg` loads it: decoded and cut while the GPU works.

    python benchmarks/gpu/wait.py --source DIR --target DIR --preset small --workers 4 --steps 60 --device cuda

Prints JSON: seconds a step, the share of them in which the next batch was not there yet, and seconds of a step on a
batch that lies on the device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torch
import train  # benchmarks/train.py

from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches, read_steps
from iccld_cli.models.build import build_segmenter
from iccld_cli.train.data import open_data
from iccld_cli.train.setup import build_accelerator

_WARM_UP = 8  # steps: the loader's own queue is full at the start


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="+", required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--encoder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    overrides = {"model.encoder": options.encoder, "run.device": options.device, "seg.burn_in": 0.0}
    sets = [f"data.workers={options.workers}", *options.set]
    config = load_config(options.preset, overrides=overrides, assignments=sets)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = build_accelerator(config, Path(folder))
        device = accelerator.device
        data = open_data(options.source, [options.target])
        student = build_segmenter(config, len(data.space), denoiser=False, seed=0)
        stage = Stage1(config, data.space, student, accelerator)
        pools = FramePool.of(data.sources), FramePool.of(data.targets)
        batches = TrainingBatches(config.data, 0, *pools, data.classes)
        loaded = read_steps(batches, 0, _WARM_UP + options.steps, pin_memory=device.type == "cuda")
        waited, raw = 0.0, None
        for step in range(_WARM_UP + options.steps):
            if step == _WARM_UP:
                train._synchronise(device)
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            (raw,) = next(loaded)
            waited += time.perf_counter() - asked
            stage.step(step, to_device(raw, config, step, device))
            # Without this the host would run ahead, and wait for data while the GPU is still busy.
            train._synchronise(device)
        whole = time.perf_counter() - began
        loaded.close()
        assert raw is not None
        tensors = {k: v.to(device) for k, v in vars(raw).items() if isinstance(v, torch.Tensor)}
        held = replace(raw, **tensors)
        steps = iter(lambda: stage.step(1, to_device(held, config, 1, device)), None)
        cached = train._time(steps, device, 10)  # type: ignore[arg-type]
    row = {"seconds": whole / options.steps, "waiting": waited / whole, "cached_seconds": sorted(cached)[5]}
    print(json.dumps({**row, "workers": options.workers, "steps": options.steps}))


if __name__ == "__main__":
    main()
