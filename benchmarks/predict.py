"""How fast `predict` is, stage by stage and as a whole, on one video.

    python benchmarks/predict.py --ckpt RUN/stage2.safetensors VIDEO [--frames 50] [--height 270] [--device auto]

Prints JSON: seconds per frame of decoding, network, drawing and encoding alone, of the whole pipelined
command's work, and the memory it peaked at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from iccld_cli.inference.inputs import collect
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.inference.predict import PredictOptions, predict
from iccld_cli.inference.video import VideoReader, VideoWriter
from iccld_cli.report.overlay import draw_overlay


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--height", type=int, help="rows; 0 for the video's own (default: as trained)")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    model = load_model(given.ckpt, given.device)
    sampling = Sampling(steps=given.steps, height=given.height)
    model.segment(np.zeros((1, 64, 64, 3), np.uint8), sampling=sampling)  # the first call sets things up

    started = time.perf_counter()
    with VideoReader(given.video) as reader:
        frames = list(itertools.islice(reader.frames(), given.frames))
        fps = reader.fps
    seconds = {"decode": time.perf_counter() - started}

    started = time.perf_counter()
    labels = [model.segment(frame.image[None], sampling=sampling).labels[0] for frame in frames]
    seconds["network"] = time.perf_counter() - started

    started = time.perf_counter()
    drawn = [
        draw_overlay(f.image, labels_, model.header.label_space, legend=model.header.classes)
        for f, labels_ in zip(frames, labels, strict=True)
    ]
    seconds["draw"] = time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        writer = VideoWriter(Path(folder) / "v.mp4", drawn[0].shape[1::-1], fps)
        for frame, picture in zip(frames, drawn, strict=True):
            writer.write(picture, frame.time)
        writer.close()
        seconds["encode"] = time.perf_counter() - started

        out_folder = Path(folder) / "out"
        options = PredictOptions(out=out_folder, sampling=sampling, limit=given.frames)
        processor = time.process_time()
        started = time.perf_counter()
        predict(model, collect([given.video], out_folder), options)
        seconds["whole"] = time.perf_counter() - started
        seconds["whole_processor"] = time.process_time() - processor
    result = {
        "frames": len(frames),
        "size": list(frames[0].image.shape[1::-1]),
        "network_height": model.settle(sampling).height or frames[0].image.shape[0],
        "backend": model.backend,
        "device": model.device,
        "threads": torch.get_num_threads(),
        "seconds_per_frame": {name: round(value / len(frames), 4) for name, value in seconds.items()},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
