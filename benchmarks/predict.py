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

import torch

from iccld_cli.inference.device import load_for_inference, pick_device
from iccld_cli.inference.images import to_tensor
from iccld_cli.inference.inputs import collect
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
    parser.add_argument("--height", type=int)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = pick_device(given.device)
    segmenter, header = load_for_inference(given.ckpt, device)
    segmenter.segment(torch.zeros(1, 3, 64, 64, device=device))  # the first call sets things up

    started = time.perf_counter()
    with VideoReader(given.video) as reader:
        frames = list(itertools.islice(reader.frames(), given.frames))
        fps = reader.fps
    seconds = {"decode": time.perf_counter() - started}

    started = time.perf_counter()
    labels = []
    for frame in frames:
        image = to_tensor([frame.image], device)
        size = frame.image.shape[:2]
        if given.height:
            width = round(size[1] * given.height / size[0])
            image = torch.nn.functional.interpolate(image, (given.height, width), mode="bilinear", antialias=True)
        out = segmenter.segment(image, steps=given.steps, size=size)
        labels.append(out.probabilities[0].argmax(0).to(torch.uint8).cpu().numpy())
    seconds["network"] = time.perf_counter() - started

    started = time.perf_counter()
    drawn = [
        draw_overlay(f.image, labels_, header.label_space, legend=header.classes)
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
        options = PredictOptions(out=out_folder, steps=given.steps, height=given.height, limit=given.frames)
        processor = time.process_time()
        started = time.perf_counter()
        predict(segmenter, header, collect([given.video], out_folder), options, device=device)
        seconds["whole"] = time.perf_counter() - started
        seconds["whole_processor"] = time.process_time() - processor
    result = {
        "frames": len(frames),
        "size": list(frames[0].image.shape[1::-1]),
        "network_height": given.height or frames[0].image.shape[0],
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds_per_frame": {name: round(value / len(frames), 4) for name, value in seconds.items()},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
