"""What a million hours of footage, or 64 GPUs, would take: arithmetic on numbers that RESULTS.md holds.

    python benchmarks/scale.py

Nothing is measured here. Rates grow with the number of machines as long as nothing is shared.
"""

from __future__ import annotations

import json
from pathlib import Path

MODELS = Path(__file__).with_name("models.json")
HOURS = 1_000_000
FPS = 25

# "Predict" in RESULTS.md: the whole command at 960x540 with overlay, OpenVINO, two cores (AVX2).
CPU_FRAMES_PER_S, CPU_CORES = 12.2, 2
DECODE_MS = 3.5  # processor time of one frame of 960x540 H.264
LABEL_BYTES = 7_500  # PNG of trainIds at 960x540: 6.8 to 9.7 kB on five frames of the dashcam clip
VIDEO_BITS_PER_S = 2.3e6  # that clip: 2.6 MB for 8.8 s

# "GPU" in RESULTS.md: one H200, eager, batch 1, 1024x512, network alone.
GPU_FRAMES_PER_S = {"small": 34.7, "base": 37.6, "xl": 29.2}

# The same chapter: seconds of a step of stage 1, and images in it. Its parameters come from models.json.
STEP = {"small": (0.052, 8), "base": (0.095, 4), "xl": (0.132, 4)}
GPUS = 64


def main() -> None:
    """Print the table of docs/scale.md."""
    frames = HOURS * 3600 * FPS
    print(f"{HOURS:,} hours at {FPS} frames a second: {frames:.1e} frames\n")
    for every in (1, FPS):
        count = frames / every
        machine_hours = count / CPU_FRAMES_PER_S / 3600
        label = "every frame" if every == 1 else "one frame a second"
        print(f"{label}:")
        print(f"  two-core machines: {machine_hours:,.0f} hours; {machine_hours / 24 / 30:,.0f} machines for a month")
        decode = frames * DECODE_MS / 1000 / 3600 / CPU_CORES
        print(f"  of that decoding (all frames): {decode:,.0f} hours, {100 * decode / machine_hours:.0f} %")
        for name, rate in GPU_FRAMES_PER_S.items():
            feed = rate * every * DECODE_MS / 1000
            print(f"  H200, {name}: {count / rate / 3600:,.0f} hours; {feed:.1f} cores decode for one of them")
        print(f"  labels: {count * LABEL_BYTES / 1e12:,.0f} TB")
    print(f"\nvideo to read: {HOURS * 3600 * VIDEO_BITS_PER_S / 8 / 1e15:.1f} PB")
    print(f"\ntraining on {GPUS} GPUs, gradients in float32 averaged by a ring:")
    models = {row["preset"]: row["parameters"] for row in json.loads(MODELS.read_text(encoding="utf-8"))}
    for name, (seconds, images) in STEP.items():
        sent = 2 * (GPUS - 1) / GPUS * 4 * (models[name]["encoder"] + models[name]["decoder"])
        print(
            f"  {name}: {sent / 1e6:,.0f} MB a step and GPU, {sent / seconds / 1e9:.1f} GB/s to hide it behind a step; "
            f"at best {GPUS * images / seconds:,.0f} images a second"
        )


if __name__ == "__main__":
    main()
