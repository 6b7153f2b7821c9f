"""The README's picture: the same frames of a finished demo through all three models.

python benchmarks/figure.py iccld-demo assets/demo.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.demo import FILES, RUNS, TITLES
from iccld_cli.inference.device import pick_device
from iccld_cli.inference.evaluate import predict_labels
from iccld_cli.inference.overlay import colorize, draw_overlay

TILE = (320, 160)
HEAD = 26


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `iccld demo` left")
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 12, 22], help="numbers of test frames")
    args = parser.parse_args()
    target = PreparedDataset(args.demo / "data" / "virtual-camera")
    source = PreparedDataset(args.demo / "data" / "virtual-game")
    frames, labelled = target.frames("test"), source.frames("train")
    space, device = target.info.label_space, pick_device("auto")
    columns: dict[str, list[np.ndarray]] = {
        "virtual source (labelled)": [
            draw_overlay(source.read_image(f), source.read_label(f), space, alpha=0.25)
            for f in (labelled[i] for i in args.frames)
        ],
        "camera (no labels)": [target.read_image(frames[i]) for i in args.frames],
    }
    for stage, run in RUNS.items():
        segmenter, _ = load_segmenter(args.demo / "runs" / run / FILES[stage], device)
        columns[TITLES[stage].lower()] = [
            colorize(predict_labels(segmenter, image, image.shape[:2], device, None, 0, 1), space)
            for image in columns["camera (no labels)"]
        ]
    columns["ground truth"] = [colorize(target.read_label(frames[i]), space) for i in args.frames]
    strips = []
    for title, pictures in columns.items():
        head = np.full((HEAD, TILE[0], 3), 255, np.uint8)
        cv2.putText(head, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        tiles = [cv2.resize(p, TILE, interpolation=cv2.INTER_AREA) for p in pictures]
        strips.append(np.vstack([head, *tiles]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    gap = np.full((strips[0].shape[0], 4, 3), 255, np.uint8)
    sheet = np.hstack([part for strip in strips for part in (strip, gap)][:-1])
    cv2.imwrite(str(args.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
