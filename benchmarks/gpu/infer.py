"""Seconds and memory of inference, one network in this process: `Segmenter.segment`, or SegFormer's forward pass.

    python benchmarks/gpu/infer.py NAME --size WxH --batch-size B --precision bf16 --device cuda --folder DIR

NAME is a preset or segformer-b0, -b2, -b5. Both end with argmax of logits at the image's size. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import networks
import torch
from machine import time_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def main() -> None:
    """Measure."""
    options = _options()
    device = torch.device(options.device)
    work = _work(options, device)
    autocast = (
        contextlib.nullcontext()
        if options.precision == "fp32"
        else torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[options.precision])
    )
    with torch.no_grad(), autocast:
        seconds = time_of(work, device, options.repeats)
        peak = torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None
        flops = None
        if not options.compile:
            with FlopCounterMode(display=False) as counter:
                work()
            flops = int(counter.get_total_flops())
    print(json.dumps({"times": [seconds], "peak_gib": peak, "flops": flops}))


def _work(options: argparse.Namespace, device: torch.device) -> Callable[[], Tensor]:
    width, _, height = options.size.partition("x")
    size = (int(height), int(width))
    images = torch.rand(options.batch_size, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    if options.name.startswith("segformer"):
        network = networks.segformer(options.name).eval().to(device, memory_format=torch.channels_last)
        if options.compile:
            network.compile(dynamic=False)

        def answer() -> Tensor:
            logits = network(pixel_values=images).logits
            return torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)

        return answer
    from iccld_cli.config import load_config
    from iccld_cli.models.build import build_segmenter

    encoder = networks.encoder_folder(options.name, options.folder)
    config = load_config(options.name, overrides={"model.encoder": encoder})
    model = build_segmenter(config, 19, denoiser=True, seed=0).eval().to(device, memory_format=torch.channels_last)
    if options.compile:
        for part in (model.encoder, model.decoder, model.denoiser):
            assert part is not None
            part.compile(dynamic=False)
    return lambda: model.probabilities(images).argmax(dim=1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--size", default="1024x512", metavar="WxH")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, required=True, help="Where encoders of random weights are kept.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
