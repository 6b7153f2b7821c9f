"""Memory over a long run: `predict` of many small frames, and many steps of a training.

    python benchmarks/soak.py predict --frames 50000
    python benchmarks/soak.py train --steps 3000

The command runs in a process of its own; its resident memory, without that of loading processes, is read from /proc
every second. Printed is a straight line through the second half of the run, in KiB per 1,000 frames or steps, where
progress is taken as even over time. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from kill import make_world, picture, prepare_words, training_words


def make_video(path: Path, frames: int, distinct: int = 500) -> None:
    """A video of 64x48 pixels; its pictures repeat after a while, which its time does not."""
    from iccld_cli.inference.video import VideoWriter

    pictures = [np.ascontiguousarray(picture(seed, 64, 48)[0]) for seed in range(distinct)]
    writer = VideoWriter(path, (64, 48), Fraction(25), preset="ultrafast")
    for number in range(frames):
        writer.write(pictures[number % distinct], Fraction(number, 25))
    writer.close()


def watch(words: Sequence[str], said: Path) -> list[tuple[float, int]]:
    """Run a command and look at its memory every second.

    Returns:
        Seconds since it began and KiB of resident memory.
    """
    began, rows = time.monotonic(), []
    with open(said, "wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "iccld_cli", *words], stdout=out, stderr=out)
        while process.poll() is None:
            try:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                break
            rows.append((time.monotonic() - began, pages * os.sysconf("SC_PAGE_SIZE") // 1024))
            time.sleep(1)
    if process.wait():
        raise SystemExit(
            f"iccld {' '.join(words)} ended with {process.returncode}:\n{said.read_text(errors='replace')}"
        )
    return rows


def summary(rows: list[tuple[float, int]], units: int) -> dict[str, float]:
    """Slope of the second half and what it started from; the last two seconds, in which it ends, are left out."""
    rows = rows[:-2] if len(rows) > 20 else rows
    half = [row for row in rows if row[0] > rows[-1][0] / 2]
    times, memory = np.array(half).T
    slope = float(np.polyfit(times, memory, 1)[0])  # KiB a second
    return {
        "units": units,
        "seconds": round(rows[-1][0], 1),
        "mib_at_a_quarter": round(rows[len(rows) // 4][1] / 1024, 1),
        "mib_at_half": round(half[0][1] / 1024, 1),
        "mib_at_the_end": round(half[-1][1] / 1024, 1),
        "mib_at_most": round(max(row[1] for row in rows) / 1024, 1),
        "slope_kib_per_1000": round(slope * rows[-1][0] / units * 1000, 2),
    }


def main() -> None:
    """Run one of the two and print its numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("predict", "train"))
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save", default="labels", help="what `predict` saves")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_world(root)
        for kind in ("source", "target"):
            watch(prepare_words(root, kind, root / "data"), root / "said.txt")
        steps = options.steps if options.what == "train" else 2
        words = training_words("stage 1", root, root / "run", steps)
        every = words.index("--save-every")
        words[every + 1] = str(max(2, steps // 6))
        if options.what == "train":
            # Under 2 M parameters: the preset as it is, on crops of 64x64.
            start = [i for i, word in enumerate(words) if word.startswith("model.")]
            words = [word for i, word in enumerate(words) if i not in start and i + 1 not in start]
            words = [word.replace("run.log_every=1", f"run.log_every={options.log_every}") for word in words]
            words += ["--preset", "tiny"]
            rows, units = watch(words, root / "said.txt"), steps
        else:
            watch(words, root / "said.txt")
            make_video(root / "long.mp4", options.frames)
            model = str(root / "run/stage1.safetensors")
            given = ["predict", str(root / "long.mp4"), "--ckpt", model, "--save", options.save, "--device", "cpu"]
            rows, units = watch([*given, "--out", str(root / "predictions")], root / "said.txt"), options.frames
    print(json.dumps({"what": options.what, **summary(rows, units)}))


if __name__ == "__main__":
    main()
