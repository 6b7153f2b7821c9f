"""How long a frame takes with each of several models, in turn within one process.

    python benchmarks/frame_time.py solidWhiteRight.mp4 --height 360 --models "MobileNetV2=A.safetensors" \\
        "EfficientNet-Lite0=B.safetensors"

A uint8 frame goes in, labels of its size come out. Each frame goes through all models by all backends before the next
one is taken, so that what slows the machine slows all of them. Prints Markdown: parameters, median milliseconds a frame
and the median of the ratios to the first model.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.inference.video import VideoReader

WARM_UP = 2
"""Frames that are not counted."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--models", nargs="+", metavar="TITLE=FILE", required=True)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--height", type=int, help="rows of the network (default: as each model was trained)")
    parser.add_argument("--backends", default="openvino,torch")
    given = parser.parse_args()
    files = {title: Path(file) for title, _, file in (text.partition("=") for text in given.models)}
    backends, sampling = given.backends.split(","), Sampling(height=given.height)
    with VideoReader(given.video) as reader:
        images = [frame.image[None] for frame in itertools.islice(reader.frames(), given.frames + WARM_UP)]
    models = {
        (title, backend): load_model(file, backend=backend) for title, file in files.items() for backend in backends
    }
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    for image in images:
        for key, model in models.items():
            started = time.perf_counter()
            model.segment(image, sampling=sampling)
            seconds[key].append(time.perf_counter() - started)
    print(table(files, {key: values[WARM_UP:] for key, values in seconds.items()}, backends))


def table(files: dict[str, Path], seconds: dict[tuple[str, str], list[float]], backends: list[str]) -> str:
    """Markdown: a row a model, beside the first.

    Args:
        files: Title -> weights.
        seconds: Title and backend -> seconds of each frame.
        backends: A column each.
    """
    lines = ["| | M parameters | " + " | ".join(f"{backend}, ms a frame" for backend in backends) + " |"]
    lines.append("|---" * (2 + len(backends)) + "|")
    first = next(iter(files))
    for title, file in files.items():
        cells = []
        for backend in backends:
            own = np.array(seconds[title, backend])
            ratio = statistics.median(own / np.array(seconds[first, backend]))
            cells.append(f"{1000 * statistics.median(own):.1f} ({ratio:.2f} x)")
        lines.append(f"| {title} | {parameters(file) / 1e6:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parameters(file: Path) -> int:
    """Trained numbers of a model."""
    return sum(parameter.numel() for parameter in load_segmenter(file)[0].parameters())


if __name__ == "__main__":
    main()
