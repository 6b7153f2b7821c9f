"""Measures how fast the virtual town renders, per look, picture size and number of processes.

Prints one JSON object: python benchmarks/town.py --frames 24
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor

# One thread per process, or two processes would measure each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from iccld_cli.town import LOOKS, render_frame


def start() -> None:
    """Prepares a worker."""
    import cv2

    cv2.setNumThreads(1)


def job(task: tuple[int, str, tuple[int, int]]) -> float:
    """Renders one frame; returns the processor seconds it took."""
    index, look, size = task
    begin = time.process_time()
    render_frame(11, index, look, size)
    return time.process_time() - begin


def measure(look: str, size: tuple[int, int], processes: int, frames: int) -> dict[str, float]:
    """Frames per second and processor time per frame of one setting, textures and shapes already built."""
    with ProcessPoolExecutor(processes, initializer=start) as pool:
        list(pool.map(job, [(900 + k, look, size) for k in range(2 * processes)]))
        begin = time.perf_counter()
        used = list(pool.map(job, [(k, look, size) for k in range(frames)]))
        rate = frames / (time.perf_counter() - begin)
    # On a busy machine the processor time says more than the wall clock.
    return {"fps": round(rate, 2), "cpu_ms_per_frame": round(1000 * sum(used) / frames, 1)}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16, help="frames per setting")
    parser.add_argument("--size", action="append", metavar="WxH", help="picture size, repeatable (default 512x256)")
    parser.add_argument("--look", action="append", choices=LOOKS, help="look, repeatable (default all)")
    parser.add_argument("--processes", type=int, action="append", help="processes, repeatable (default 1 and 2)")
    args = parser.parse_args()
    rows = []
    for text in args.size or ["256x128", "512x256"]:
        width, height = (int(v) for v in text.lower().split("x"))
        for look in args.look or LOOKS:
            for processes in args.processes or [1, 2]:
                row = {"look": look, "size": [width, height], "processes": processes}
                rows.append(row | measure(look, (width, height), processes, args.frames))
    print(json.dumps({"frames": args.frames, "cpus": os.cpu_count(), "results": rows}, indent=1))


if __name__ == "__main__":
    main()
