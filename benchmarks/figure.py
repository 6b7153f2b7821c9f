"""The same frames through several models, beside what they should have answered.

    python benchmarks/figure.py assets/demo.jpg --demo iccld-demo
    python benchmarks/figure.py figure.jpg --data data/camvid --split val --models "source only=A.safetensors" \\
        "stage 1=B.safetensors" "stage 2=C.safetensors"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.demo import RUNS, TITLES
from iccld_cli.header import FILE_NAMES
from iccld_cli.imagefiles import PREVIEW_QUALITY
from iccld_cli.inference.model import load_model
from iccld_cli.report.overlay import colorize, draw_overlay

WIDTH = 320
HEAD = 26


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--demo", type=Path, help="folder that `iccld demo` left; stands for all other paths")
    parser.add_argument("--data", type=Path, help="prepared data set with labels")
    parser.add_argument("--split", default="test")
    parser.add_argument("--models", nargs="+", metavar="TITLE=FILE", default=[])
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 12, 22], help="numbers of frames in the split")
    args = parser.parse_args()
    columns: dict[str, list[np.ndarray]] = {}
    files = {title: Path(file) for title, _, file in (text.partition("=") for text in args.models)}
    if args.demo is not None:
        args.data = args.demo / "data" / "virtual-camera"
        files = {
            TITLES[stage].lower(): args.demo / "runs" / run / FILE_NAMES[stage]
            for stage, run in RUNS.items()
            if stage != "labelled"
        }
        source = PreparedDataset(args.demo / "data" / "virtual-game")
        labelled = [source.frames("train")[i] for i in args.frames]
        columns["virtual source (labelled)"] = [
            draw_overlay(source.read_image(f), source.read_label(f), source.info.label_space, alpha=0.25)
            for f in labelled
        ]
    elif args.data is None or not files:
        parser.error("give --demo, or --data and --models")
    target = PreparedDataset(args.data)
    every, space = target.frames(args.split), target.info.label_space
    frames = [every[i] for i in args.frames]
    columns["camera (no labels)"] = images = [target.read_image(f) for f in frames]
    for title, file in files.items():
        model = load_model(file)
        columns[title] = [colorize(model.segment(image[None]).labels[0], space) for image in images]
    columns["ground truth"] = [colorize(target.read_label(f), space) for f in frames]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet(columns)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])


def sheet(columns: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Titled columns of RGB pictures, side by side."""
    strips: list[np.ndarray] = []
    for title, pictures in columns.items():
        head = np.full((HEAD, WIDTH, 3), 255, np.uint8)
        cv2.putText(head, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        tiles = [
            cv2.resize(p, (WIDTH, round(p.shape[0] * WIDTH / p.shape[1])), interpolation=cv2.INTER_AREA)
            for p in pictures
        ]
        strips.append(np.vstack([head, *tiles]))
    gap = np.full((strips[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for strip in strips for part in (strip, gap)][:-1])


if __name__ == "__main__":
    main()
