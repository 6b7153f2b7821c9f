"""How fast `predict` is on one video: its parts alone, the whole command, an older version, and a peer.

    python benchmarks/predict.py VIDEO [--ckpt FILE] [--frames 60] [--rounds 3] [--height ROWS]
                                 [--backends openvino,torch] [--before CHECKOUT] [--peer]

Everything is measured in alternating rounds of one run, and medians are given. The whole command runs in a process of
its own, as a user runs it; its seconds are those that it reports, without the start of Python. Prints JSON:

    parts      processor seconds a frame of decoding, network, steadying, drawing and encoding, each alone
    whole      by backend: wall and processor seconds a frame, share of those spent in the system, peak MiB; `start`,
               seconds until the first frame is done (the graph is compiled), and what each further frame takes
    bars       wall by (processor seconds of the parts / cores), with the start and for each further frame;
               milliseconds outside the network (of the parts: decoding, drawing and encoding); ratio to before
    peer       SegFormer-B0 at the same size and output, by torch and OpenVINO, and this model by both, and the file of
               `--int8`: seconds a frame
    floor      multiply-adds of the network by the processor's own measured rate of matrix products
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.inference.model import Sampling, find_model, load_model
from iccld_cli.inference.runtimes import threads
from iccld_cli.inference.smooth import Smoother
from iccld_cli.inference.video import VideoFrame, VideoReader, VideoWriter
from iccld_cli.report.overlay import draw_overlay


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--height", help="rows, or own (default: as trained)")
    parser.add_argument("--backends", default="openvino,torch")
    parser.add_argument("--before", type=Path, help="checkout of another version, to run beside this one")
    parser.add_argument("--peer", action="store_true", help="also SegFormer-B0 of transformers")
    parser.add_argument("--int8", type=Path, help="an OpenVINO file of this model in int8, beside the peer")
    given = parser.parse_args()
    backends = given.backends.split(",")
    given.ckpt = find_model(given.ckpt)
    rows = None if given.height is None else int(given.height.replace("own", "0"))
    frames = read(given.video, given.frames)
    for backend in backends:  # conversions are not what is measured
        load_model(given.ckpt, backend=backend)
    result: dict[str, Any] = {
        "video": given.video.name,
        "size": list(frames[0].image.shape[1::-1]),
        "frames": len(frames),
        "rounds": given.rounds,
        "height": given.height or "as trained",
        "cores": threads(),
    }
    parts: list[dict[str, float]] = []
    whole: dict[str, list[dict[str, float]]] = {}
    peer: list[dict[str, float]] = []
    for _ in range(given.rounds):
        parts.append(measure_parts(given.video, given.ckpt, frames, backends[0], rows))
        for backend in backends:
            whole.setdefault(backend, []).append(run_command(given, Path(__file__).parents[1], backend))
        if given.before:
            whole.setdefault("before", []).append(run_command(given, given.before, None))
        if given.peer:
            peer.append(measure_peer(given.ckpt, frames, rows, given.int8))
    result["parts"] = medians(parts)
    result["whole"] = {name: medians(rounds) for name, rounds in whole.items()}
    result["bars"] = bars(result)
    if peer:
        result["peer"] = medians(peer)
    result["floor"] = floor(given.ckpt, frames[0].image, rows)
    print(json.dumps(result, indent=1))


def read(video: Path, count: int) -> list[VideoFrame]:
    """The first frames of a video."""
    with VideoReader(video) as reader:
        return list(itertools.islice(reader.frames(), count))


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each number over the rounds."""
    return {key: round(statistics.median(one[key] for one in rounds), 5) for key in rounds[0]}


def processor_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, all threads, and what it returns."""
    started = time.process_time()
    value = call()
    return time.process_time() - started, value


def measure_parts(
    video: Path, ckpt: Path, frames: list[VideoFrame], backend: str, height: int | None
) -> dict[str, float]:
    """Processor seconds a frame of each part alone. The network's is from uint8 frames to labels at their size."""
    model, sampling = load_model(ckpt, backend=backend), Sampling(height=height)
    header = model.header
    model.segment(frames[0].image[None], sampling=sampling)  # what is set up for a size
    draw_overlay(frames[0].image, np.zeros(frames[0].image.shape[:2], np.uint8), header.label_space)

    def encode(pictures: list[np.ndarray]) -> None:
        with tempfile.TemporaryDirectory() as folder, VideoReader(video) as reader:
            writer = VideoWriter(Path(folder) / "v.mp4", pictures[0].shape[1::-1], reader.fps)
            for frame, picture in zip(frames, pictures, strict=True):
                writer.write(picture, frame.time)
            writer.close()

    decode, _ = processor_seconds(lambda: read(video, len(frames)))
    network, labels = processor_seconds(
        lambda: [model.segment(frame.image[None], sampling=sampling).labels[0] for frame in frames]
    )
    logits = [model.logits(frame.image[None], sampling=sampling)[0] for frame in frames]
    smoother = Smoother(header.label_space.names)
    steady, _ = processor_seconds(
        lambda: [smoother.smooth(frame.index, frame.image, views) for frame, views in zip(frames, logits, strict=True)]
    )
    draw, pictures = processor_seconds(
        lambda: [
            draw_overlay(frame.image, one, header.label_space, legend=header.classes)
            for frame, one in zip(frames, labels, strict=True)
        ]
    )
    encoded, _ = processor_seconds(lambda: encode(pictures))
    seconds = {"decode": decode, "network": network, "steady": steady, "draw": draw, "encode": encoded}
    return {name: value / len(frames) for name, value in seconds.items()}


def run_command(given: argparse.Namespace, checkout: Path, backend: str | None) -> dict[str, float]:
    """`predict` of a checkout, of one frame and of all; None leaves its backend to it."""
    first, found = run_frames(given, checkout, backend, 1), run_frames(given, checkout, backend, given.frames)
    further = max(given.frames - 1, 1)
    found["start"] = first["wall"]
    for name in ("wall", "processor"):
        found[f"{name}_further"] = (found[name] * given.frames - first[name]) / further
    return found


def run_frames(given: argparse.Namespace, checkout: Path, backend: str | None, frames: int) -> dict[str, float]:
    """`predict` of the first frames in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "iccld_cli", "predict", str(given.video.resolve()), "--out", folder]
        command += ["--ckpt", str(given.ckpt.resolve()), "--limit", str(frames)]
        if backend is not None:
            command += ["--backend", backend, *(["--height", given.height] if given.height else [])]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout.resolve()), "COLUMNS": "500"},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"in ([\d.]+) s \(([\d.]+) a second", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "wall": 1 / float(found[2]),
        "frames_per_second": float(found[2]),
        "processor": (user + system) / frames,
        "system_share": system / (user + system),
        "peak_mib": after.ru_maxrss / 1024,  # of the largest child so far
    }


def bars(result: dict[str, Any]) -> dict[str, float]:
    """What the numbers are held against."""
    first = next(iter(result["whole"]))
    whole, parts = result["whole"][first], result["parts"]
    found = {
        "wall_by_parts": whole["wall"] * result["cores"] / sum(parts.values()),
        "further_wall_by_parts": whole["wall_further"] * result["cores"] / sum(parts.values()),
        "processor_ms_outside_network": 1000 * (parts["decode"] + parts["draw"] + parts["encode"]),
        "whole_processor_ms_outside_network": 1000 * (whole["processor"] - parts["network"]),
        "further_processor_ms_outside_network": 1000 * (whole["processor_further"] - parts["network"]),
    }
    if "before" in result["whole"]:
        found["times_before"] = whole["frames_per_second"] / result["whole"]["before"]["frames_per_second"]
    return {name: round(value, 3) for name, value in found.items()}


def measure_peer(
    ckpt: Path, frames: list[VideoFrame], height: int | None, int8: Path | None = None
) -> dict[str, float]:
    """Wall seconds a frame, uint8 frame in and labels of its size out, one frame after the other on all cores."""
    import torch
    import torch.nn.functional as F
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from iccld_cli.inference.openvino_model import OpenvinoModel
    from iccld_cli.inference.runtimes import import_openvino

    sampling, images = Sampling(height=height, once=True), [frame.image for frame in frames[:10]]
    size = images[0].shape[:2]
    torch_model = load_model(ckpt)
    rows = torch_model.settle(sampling).height or size[0]
    inside = (rows // 32 * 32, round(size[1] * rows / size[0] / 32) * 32)
    segformer = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19)).eval()

    class Peer(torch.nn.Module):
        """Its logits for a frame."""

        def __init__(self) -> None:
            super().__init__()
            self.segformer = segformer

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            """uint8 (1, H, W, 3) -> labels uint8 (1, H, W)."""
            image = F.interpolate(frame.permute(0, 3, 1, 2).float() / 255, inside, mode="bilinear", antialias=False)
            logits = self.segformer(pixel_values=image).logits
            return F.interpolate(logits, size, mode="bilinear").argmax(1).to(torch.uint8)

    peer = Peer()
    with torch.inference_mode():
        traced = torch.jit.trace(peer, torch.from_numpy(images[0][None]), check_trace=False)
    core = import_openvino().Core()
    converted = import_openvino().convert_model(traced)
    converted.reshape({0: [1, *size, 3]})
    compiled = core.compile_model(
        converted,
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads()},
    )
    fast = OpenvinoModel.open(ckpt, once=True)

    def eager(image: np.ndarray) -> None:
        with torch.inference_mode():
            peer(torch.from_numpy(image[None]))

    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "segformer_b0_torch": eager,
        "segformer_b0_openvino": lambda image: compiled([image[None]]),
        "this_torch": lambda image: torch_model.segment(image[None], sampling=sampling),
        "this_openvino": lambda image: fast.segment(image[None], sampling=sampling),
    }
    if int8 is not None:
        small = load_model(int8)
        calls["this_int8"] = lambda image: small.segment(image[None], sampling=Sampling(once=True))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for image in images:
        for name, call in calls.items():
            started = time.perf_counter()
            call(image)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def floor(ckpt: Path, frame: np.ndarray, height: int | None) -> dict[str, float]:
    """Seconds that the network's multiply-adds take at the rate of a large matrix product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = load_model(ckpt)
    with FlopCounterMode(display=False) as counter:
        model.segment(frame[None], sampling=Sampling(height=height))
    side = 1536
    a = torch.randn(side, side)
    torch.mm(a, a)
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, a)
        rates.append(2 * side**3 / (time.perf_counter() - started))
    flops = counter.get_total_flops()
    return {
        "gflop_a_frame": round(flops / 1e9, 3),
        "gflops_of_matrix_products": round(statistics.median(rates) / 1e9, 1),
        "seconds": round(flops / statistics.median(rates), 4),
    }


if __name__ == "__main__":
    main()
