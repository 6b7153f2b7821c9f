"""How fast `iccld prepare` is, and whether its memory stays flat.

    python benchmarks/prepare.py speed  [--frames 240] [--workers 2]
    python benchmarks/prepare.py scale  [--frames 20000 100000]

`speed` writes GTA5-like files (1914x1052 PNG, palette labels) and times prepare against the plainest loop that does
the same work: cv2.imread, cv2.resize with --size, cv2.imwrite. The loop runs in one process, and in as many at once as
prepare uses, because on a machine that others use as well two processes do not get twice what one gets.
`scale` prepares folders of many small images and reports the peak memory of the parent process and how long a
second run takes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (1914, 1052)
SMALL = (1024, 563)


def make_gta(root: Path, frames: int, different: int = 8) -> None:
    """Write frames with the detail of a game: gradients, edges and some noise; a few pictures over and over."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, 768).astype(np.uint8).tobytes()
    made: list[tuple[bytes, bytes]] = []
    for number in range(frames):
        if number < different:
            coarse = rng.integers(0, 255, (27, 49, 3)).astype(np.uint8)
            image = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
            noise = rng.normal(0, 3, image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
            ids = rng.choice([7, 8, 11, 21, 23, 26], (14, 25)).astype(np.uint8)
            label = Image.fromarray(cv2.resize(ids, SIZE, interpolation=cv2.INTER_NEAREST), "P")
            label.putpalette(palette)
            label.save(root / "label.png")
            made.append((cv2.imencode(".png", image)[1].tobytes(), (root / "label.png").read_bytes()))
        image_bytes, label_bytes = made[number % different]
        (root / "images" / f"{number + 1:05d}.png").write_bytes(image_bytes)
        (root / "labels" / f"{number + 1:05d}.png").write_bytes(label_bytes)
    (root / "label.png").unlink()


def plain_loop(source: Path, out: Path, size: tuple[int, int] | None, frames: int) -> tuple[float, float]:
    """Frames per second, and processor time of a frame in ms, of imread, resize and imwrite in one process."""
    cv2.setNumThreads(1)
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True)
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(1, frames + 1):
        image = cv2.imread(str(source / f"images/{number:05d}.png"))
        label = cv2.imread(str(source / f"labels/{number:05d}.png"), cv2.IMREAD_GRAYSCALE)
        if size is not None:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        suffix = "png" if size is None else "jpg"
        quality = [] if size is None else [cv2.IMWRITE_JPEG_QUALITY, 95]
        cv2.imwrite(str(out / f"images/{number:05d}.{suffix}"), image, quality)
        cv2.imwrite(str(out / f"labels/{number:05d}.png"), label)
    seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    return frames / seconds, 1000 * busy / frames


def plain_loops(source: Path, out: Path, size: tuple[int, int] | None, frames: int, workers: int) -> float:
    """Frames per second of `workers` such loops at once, together."""
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        rates = [pool.submit(plain_loop, source, out / str(i), size, frames) for i in range(workers)]
        return sum(rate.result()[0] for rate in rates)


def run_prepare(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds with workers, and peak memory in MiB without workers, of `iccld prepare`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    code = (
        "import resource, sys; from iccld_cli.cli.app import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "prepare", *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, int(done.stderr.strip().splitlines()[-1]) / 1024


def speed(frames: int, workers: int, root: Path) -> list[dict]:
    """Compare prepare with the plain loop, with and without resizing."""
    source = root / "gta"
    make_gta(source, frames)
    results = []
    for size in (SMALL, None):
        tag = "resized" if size else "copied"
        few = max(frames // 4, 1)
        one, plain_cpu = plain_loop(source, root / f"one-{tag}", size, few)
        options = ["--gta5", str(source), "--out", str(root / tag), "--workers", str(workers)]
        seconds, busy, memory = run_prepare(options + (["--size", f"{size[0]}x{size[1]}"] if size else []))
        all_cores = plain_loops(source, root / f"all-{tag}", size, few, workers)
        rate = frames / seconds
        results.append(
            {
                "mode": tag,
                "frames": frames,
                "workers": workers,
                "plain_one_process": round(one, 2),
                "plain_all_processes": round(all_cores, 2),
                "prepare": round(rate, 2),
                "prepare_per_core": round(rate / workers, 2),
                "of_plain_one_times_cores": round(rate / (one * workers), 3),
                "of_plain_all": round(rate / all_cores, 3),
                "plain_cpu_ms_per_frame": round(plain_cpu, 1),
                "prepare_cpu_ms_per_frame": round(1000 * busy / frames, 1),
                "parent_peak_mib": round(memory),
            }
        )
    return results


def scale(counts: list[int], workers: int, root: Path) -> list[dict]:
    """Prepare folders of many small images."""
    rng = np.random.default_rng(0)
    results = []
    for count in counts:
        folder = root / f"many-{count}"
        folder.mkdir()
        originals = []
        for number in range(count):
            target = folder / f"{number:07d}.jpg"
            if number % 50_000 == 0:  # an inode takes at most 65,000 links
                data = cv2.imencode(".jpg", rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))[1]
                target.write_bytes(data.tobytes())
                originals.append(target)
            else:
                os.link(originals[-1], target)
        options = ["--images", str(folder), "--out", str(root / f"out-{count}"), "--workers", str(workers)]
        first, _, memory = run_prepare(options)
        again, _, memory_again = run_prepare(options)
        results.append(
            {
                "frames": count,
                "seconds": round(first, 1),
                "frames_per_s": round(count / first),
                "parent_peak_mib": round(memory),
                "second_run_seconds": round(again, 1),
                "second_run_peak_mib": round(memory_again),
            }
        )
    return results


def main() -> None:
    """Run one of the measurements and print its results as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "scale"))
    parser.add_argument("--frames", type=int, nargs="+")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "speed":
            results = speed((arguments.frames or [240])[0], arguments.workers, Path(folder))
        else:
            results = scale(arguments.frames or [20_000, 100_000], arguments.workers, Path(folder))
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
