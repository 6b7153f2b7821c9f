"""Which score finds a model's errors best? Area under the ROC curve of ranking wrong pixels above right ones.

    python benchmarks/uncertainty.py --data data/camvid                       # the shipped model on `val`
    python benchmarks/uncertainty.py --data data/camvid --ckpt RUN/stage2.safetensors --split test

The views of a frame are the frame and its mirror image at the scales 1, 0.75 and 1.5. p_0 is the plain pass, the others
are further views. A line is one rule: what the answer is, and what says how unsure it is. It prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.evaluate import folded_predictions, labelled_frames, scored_classes
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.metrics.calibration import ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix

FLIP, SCALES, BOTH = (1,), (2, 4), (1, 2, 3, 4, 5)
"""Numbers of further views: the mirror image; the other scales; all, mirrored as well."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--ckpt", type=Path, help="Default: the shipped model.")
    parser.add_argument("--limit", type=int, help="At most this many frames, evenly spread.")
    options = parser.parse_args()
    data, model = PreparedDataset(options.data), load_model(options.ckpt, backend="openvino")
    frames = labelled_frames(data, options.split, options.limit)
    classes = scored_classes(model.header.classes, data)
    fold, scored = np.arange(256, dtype=np.uint8), np.zeros(256, bool)
    for fine, coarse in folded_predictions(model.header.classes, data).items():
        fold[fine] = coarse
    scored[list(classes)] = True
    found: dict[str, tuple[ErrorDetection, ConfusionMatrix]] = {}
    for frame in frames:
        image, label = data.read_image(frame), data.read_label(frame)
        views = []
        for scale in (1.0, 0.75, 1.5):
            for seen in (image, np.ascontiguousarray(image[:, ::-1])):
                asked = Sampling(scales=(scale,))
                segmentation = model.segment(seen[None], ["probabilities"], label.shape, asked)
                assert segmentation.probabilities is not None
                values = segmentation.probabilities[0]
                views.append(values if seen is image else values[..., ::-1])
        for name, labels, score in rules(np.stack(views)):
            detection, matrix = found.setdefault(
                name, (ErrorDetection(), ConfusionMatrix(len(model.header.label_space)))
            )
            answers, valid = fold[labels], scored[label]
            matrix.update(answers, label)
            detection.update(score[valid], (answers == label)[valid])
    print("| answer; score | mIoU | AUROC |\n|---|---|---|")
    for name, (detection, matrix) in found.items():
        print(f"| {name} | {100 * matrix.scores(classes).miou:.2f} | {detection.value():.4f} |")


def rules(views: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every rule on the views (V, K, H, W) of a frame: its name, labels (H, W) and score (H, W) in [0, 1]."""
    plain = views[0].argmax(axis=0).astype(np.uint8)
    yield "plain; entropy", plain, entropy(views[0])
    yield "plain; 1 - p_0", plain, 1 - views[0].max(axis=0)
    for name, further in (("flip", FLIP), ("scales", SCALES), ("flip and scales", BOTH)):
        of_answer = np.take_along_axis(views, plain[None, None].astype(np.int64), axis=1)[:, 0]  # (V, H, W)
        yield f"plain; 1 - mean of further views ({name})", plain, 1 - of_answer[[*further]].mean(axis=0)
        yield f"plain; 1 - mean of all views ({name})", plain, 1 - of_answer[[0, *further]].mean(axis=0)
        every = views[[0, *further]]
        mean = every.mean(axis=0)
        labels = mean.argmax(axis=0).astype(np.uint8)
        yield f"mean; entropy of the mean ({name})", labels, entropy(mean)
        yield f"mean; 1 - mean of all views ({name})", labels, 1 - mean.max(axis=0)
        gap = entropy(mean) - np.mean([entropy(one) for one in every], axis=0)
        yield f"mean; mutual information ({name})", labels, np.clip(gap, 0, 1)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """(K, H, W) -> (H, W): entropy / log K."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.clip(-(probabilities * logs).sum(axis=0) / math.log(len(probabilities)), 0, 1)


if __name__ == "__main__":
    main()
