"""How a model does on a motorway that it never saw: ten frames of a dashcam clip with labels drawn by hand.

    python benchmarks/highway.py solidWhiteRight.mp4 [--ckpt FILE ...] [--picture OUT.png]

The clip is of udacity/CarND-LaneLines-P1 (MIT); `benchmarks/highway.json` holds the labels, polygons of road, sky,
vegetation, terrain (the verge, dry grass), fence and car. Their borders are left out, so a model is judged on what is
inside, and the numbers are not comparable with mIoU elsewhere. Prints JSON: IoU and recall of each class over the
labelled pixels, and the share of verge and fence that is taken for road, sidewalk or building. A model without terrain
is not scored on it, but for that share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.inference.model import Model, Sampling, find_model, load_model
from iccld_cli.inference.video import VideoReader
from iccld_cli.report.overlay import draw_overlay

LABELS = Path(__file__).with_suffix(".json")
CONFUSED = ("road", "sidewalk", "building")


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--ckpt", type=Path, nargs="+", help="models (default: the shipped one)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--picture", type=Path, help="write the first and the last frame of each model")
    options = parser.parse_args()
    drawn = json.loads(LABELS.read_text(encoding="utf-8"))["frames"]
    with VideoReader(options.video) as reader:
        frames = {str(frame.index): frame.image for frame in reader.frames() if str(frame.index) in drawn}
    if frames.keys() != drawn.keys() or next(iter(frames.values())).shape != (540, 960, 3):
        parser.error(f"{options.video} is not the clip that was labelled")
    result, pictures = {}, []
    for path in options.ckpt or [None]:
        file = find_model(path)
        model = load_model(file, backend=options.backend)
        result[str(file)], labels = score(model, frames, drawn)
        for name in (next(iter(frames)), list(frames)[-1]):
            pictures.append(draw_overlay(frames[name], labels[name], model.header.label_space, legend=None))
    print(json.dumps(result, indent=1))
    if options.picture:
        rows = [np.hstack(pictures[i : i + 2]) for i in range(0, len(pictures), 2)]
        cv2.imwrite(str(options.picture), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def score(
    model: Model, frames: dict[str, np.ndarray], drawn: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The numbers of a model, and its labels."""
    names = model.header.label_space.names
    classes = list(next(iter(drawn.values())))
    known = [n for n in classes if names.index(n) in model.header.classes]
    counts = np.zeros((len(classes), 256), np.int64)  # drawn class, predicted trainId
    labels = {}
    for name, image in frames.items():
        labels[name] = model.segment(image[None], sampling=model.settle(Sampling())).labels[0]
        for row, polygons in enumerate(drawn[name].get(n, []) for n in classes):
            mask = np.zeros(image.shape[:2], np.uint8)
            for polygon in polygons:
                cv2.fillPoly(mask, [np.array(polygon, np.int32)], 1)
            counts[row] += np.bincount(labels[name][mask == 1], minlength=256)
    found: dict[str, Any] = {"classes": {}}
    for row, name in enumerate(classes):
        column = names.index(name)
        hit, of_class = counts[row, column], counts[row].sum()
        union = of_class + counts[[classes.index(n) for n in known], column].sum() - (hit if name in known else 0)
        iou = round(100 * float(hit / union), 2) if name in known else None
        seen_as = {names[i]: round(100 * float(counts[row, i] / of_class), 1) for i in np.argsort(-counts[row])[:4]}
        found["classes"][name] = {"iou": iou, "recall": round(100 * float(hit / of_class), 2), "seen_as": seen_as}
    found["miou"] = round(float(np.mean([found["classes"][n]["iou"] for n in known])), 2)
    wrong = [names.index(n) for n in CONFUSED]
    rows = [classes.index(n) for n in ("terrain", "fence")]
    found["verge_and_fence_as_road_or_building"] = round(
        100 * float(counts[rows][:, wrong].sum() / counts[rows].sum()), 2
    )
    return found, labels


if __name__ == "__main__":
    main()
