"""What `--smooth` does: flicker, answers that change, time, accuracy on drives whose labels are exact, and cuts.

    python benchmarks/smooth.py --video dashcam.mp4                           # a real clip, no labels
    python benchmarks/smooth.py --drives 3 --frames 60                        # the virtual town, camera look

Flicker: the share of pixels whose label differs from the last frame's at the place where the scene was, by Farneback's
optical flow, which is another one than the smoother's (DIS). It is measured at 480x270. It prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.inference.fullsize import segment_frame
from iccld_cli.inference.model import Model, load_model
from iccld_cli.inference.smooth import Smoother
from iccld_cli.inference.video import VideoReader
from iccld_cli.metrics.confusion import ConfusionMatrix

SIZE = (480, 270)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="Default: the shipped model.")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--drives", type=int, default=0, help="Drives through the town, one after the other.")
    parser.add_argument("--frames", type=int, default=60, help="Frames of each.")
    options = parser.parse_args()
    model = load_model(options.ckpt, backend="openvino")
    if options.video is not None:
        with VideoReader(options.video) as reader:
            clip = ((cv2.resize(f.image, SIZE, interpolation=cv2.INTER_AREA), None) for f in reader.frames())
            _report(model, clip)
    if options.drives:
        _report(model, _town(options.drives, options.frames), cut_every=options.frames)


def _town(drives: int, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from iccld_cli.town import render_drive

    for seed in range(drives):
        yield from render_drive(1000 + seed, frames, "camera", SIZE)


def _report(model: Model, frames: Iterator[tuple[np.ndarray, np.ndarray | None]], cut_every: int = 0) -> None:
    space = model.header.label_space
    smoother, flow = Smoother(space.names), cv2.FarnebackOpticalFlow_create()
    plain_matrix, steady_matrix = ConfusionMatrix(len(space)), ConfusionMatrix(len(space))
    grid = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), axis=2).astype(np.float32)
    seconds, differ, flicker, still = [], [], [], []
    same_after_cut, cuts, last = 0, 0, None
    for number, (image, label) in enumerate(frames):
        (views,) = model.logits(image[None])
        started = time.process_time()
        steady = smoother.smooth(number, image, views)
        seconds.append(time.process_time() - started)
        pair = [segment_frame(its, SIZE[::-1], ()).labels[0] for its in (views, steady)]
        differ.append((pair[0] != pair[1]).mean())
        begins = number == 0 or (cut_every and not number % cut_every)
        if number and begins:
            cuts, same_after_cut = cuts + 1, same_after_cut + int((pair[0] == pair[1]).all())
        if label is not None:
            plain_matrix.update(pair[0], label)
            steady_matrix.update(pair[1], label)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if last is not None and not begins:
            where = grid + flow.calc(grey, last[0], None)
            inside = ((where >= 0) & (where <= np.float32([SIZE[0] - 1, SIZE[1] - 1]))).all(axis=2)
            moved = [cv2.remap(labels, where, None, cv2.INTER_NEAREST) for labels in last[1]]
            flicker.append([(old != new)[inside].mean() for old, new in zip(moved, pair, strict=True)])
            still.append([(old != new).mean() for old, new in zip(last[1], pair, strict=True)])
        last = (grey, pair)
    before, after = 100 * np.mean(flicker, axis=0)
    print("| | frame by frame | steadied |\n|---|---|---|")
    print(f"| labels changed a frame, along the motion | {before:.2f} % | {after:.2f} % |")
    before, after = 100 * np.mean(still, axis=0)
    print(f"| labels changed a frame, in place | {before:.2f} % | {after:.2f} % |")
    print(f"| answers that differ from frame by frame | | {100 * np.mean(differ):.2f} % |")
    print(f"| processor time a frame, {SIZE[0]}x{SIZE[1]} | | {1000 * np.median(seconds):.1f} ms |")
    if cuts:
        print(f"| frames after a cut that equal the frame-by-frame answer | | {same_after_cut} of {cuts} |")
    if plain_matrix.counts.any():
        ids = [i for i in model.header.classes if plain_matrix.counts[i].sum()]
        one, other = (100 * np.asarray(m.scores(ids).iou) for m in (plain_matrix, steady_matrix))
        print(f"| mIoU | {np.nanmean(one):.2f} | {np.nanmean(other):.2f} |")
        for index, old, new in zip(ids, one, other, strict=True):
            print(f"| {space.names[index]} | {old:.2f} | {new:.2f} |")


if __name__ == "__main__":
    main()
