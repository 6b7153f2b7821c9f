"""Check presets at their true size: parameters by part, memory and seconds of a training step, with random weights.

    python benchmarks/models.py base large xl --out benchmarks/models.json

Nothing is downloaded: the encoder is built from its published sizes. Each preset runs in a process of its own, so that
the peak memory is its own. One step is a forward and a backward pass of both stages' paths (E, D on z_0; UNet, D on
its estimate) at the preset's crop, batch 1, in float32, without the optimizer and without the teacher.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Sizes as in the hub's config.json of each encoder.
_MIT = {"hidden_sizes": [64, 128, 320, 512], "num_attention_heads": [1, 2, 5, 8], "sr_ratios": [8, 4, 2, 1]}
ENCODERS = {
    "nvidia/mit-b2": ("SegformerConfig", {**_MIT, "depths": [3, 4, 6, 3]}),
    "nvidia/mit-b5": ("SegformerConfig", {**_MIT, "depths": [3, 6, 40, 3]}),
    "facebook/dinov2-large": (
        "Dinov2Config",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "image_size": 518},
    ),
}


def build(preset: str, threads: int):
    """The configuration of a preset and its model of both stages, with random weights."""
    import torch
    import transformers

    from iccld_cli.config import load_config
    from iccld_cli.models.build import build_segmenter

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = load_config(preset)
    with tempfile.TemporaryDirectory() as folder:
        if config.model.encoder in ENCODERS:
            kind, sizes = ENCODERS[config.model.encoder]
            raw = getattr(transformers, kind)(**sizes)
            transformers.AutoModel.from_config(raw).save_pretrained(folder)
            config = load_config(preset, overrides={"model.encoder": folder})
        return config, build_segmenter(config, 19, denoiser=True, seed=0).train()


def estimate(preset: str, threads: int) -> dict:
    """What `--dry-run` says that training a preset takes, at the preset's own batch and in float32."""
    from iccld_cli.train.dry_run import estimate_memory

    weights, activations = estimate_memory(*build(preset, threads), adversarial=True)
    return {
        "preset": preset,
        "weights_gib": round(weights / 2**30, 1),
        "activations_gib": round(activations / 2**30, 1),
    }


def measure(preset: str, threads: int) -> dict:
    """Build one preset and run one step."""
    import torch
    import transformers

    from iccld_cli.config import load_config
    from iccld_cli.models.build import build_discriminator

    config, model = build(preset, threads)
    width, height = config.data.crop
    images, labels = torch.rand(1, 3, height, width), torch.randint(0, 19, (1, height // 4, width // 4))

    started = time.perf_counter()
    z_0, skip, _ = model.encoder(images)
    estimate = model.denoiser(torch.randn_like(z_0), torch.tensor([config.diffusion.train_timesteps - 1]), z_0)
    logits = model.decoder(z_0, skip), model.decoder(estimate, skip)
    assert logits[0].shape == (1, 19, height // 4, width // 4)
    forward = time.perf_counter() - started
    sum(torch.nn.functional.cross_entropy(x, labels) for x in logits).backward()
    total = time.perf_counter() - started
    untouched = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = {"encoder": model.encoder, "decoder": model.decoder, "denoiser": model.denoiser}
    parts["discriminator"] = build_discriminator(config, 19)
    return {
        "preset": preset,
        "encoder": load_config(preset).model.encoder,
        "crop": [width, height],
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "frozen_parameters": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "without_gradient": untouched,
        "peak_rss_mib": round(peak / (1024 if sys.platform != "darwin" else 1024**2)),
        "seconds_forward": round(forward, 2),
        "seconds_forward_backward": round(total, 2),
        "threads": threads,
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def main() -> None:
    """Measure presets one after the other and print their numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["tiny", "small", "base", "large", "xl"])
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="estimate the memory of training instead")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        work = estimate if arguments.memory else measure
        print(json.dumps(work(arguments.presets[0], arguments.threads)))
        return
    rows = []
    for preset in arguments.presets:
        command = [sys.executable, __file__, preset, "--inside", "--threads", str(arguments.threads)]
        command += ["--memory"] * arguments.memory
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{preset}: {done.stderr.strip().splitlines()[-1]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
