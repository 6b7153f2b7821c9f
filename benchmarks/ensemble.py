"""Is the mean of several models' probabilities better than the best of them? mIoU of each and of the mean.

    python benchmarks/ensemble.py A.safetensors B.safetensors C.safetensors --data data/camvid --split val test
    python benchmarks/ensemble.py seed-*/stage1.safetensors --data data/camvid --classes road,car --json ensemble.json

The models answer in the same classes and label space, such as seeds of one training. A student of the mean is worth a
training from a gain of 1.0 mIoU over the best member on. It prints Markdown. The interval is that of 95 % of the gains
over this best member when the frames are drawn anew (1,000 resamples); it knows nothing of other seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.inference.evaluate import (
    check_label_space,
    chosen_classes,
    folded_predictions,
    labelled_frames,
    scored_classes,
)
from iccld_cli.inference.model import Model, Sampling, load_model
from iccld_cli.inference.threads import group, prefetch
from iccld_cli.metrics.bootstrap import interval, mean_of_classes, resampled_iou
from iccld_cli.metrics.confusion import ConfusionMatrix, SegmentationScores

WORTH = 1.0
"""Gain in mIoU (%) from which a student of the mean is worth a training."""


@dataclass(frozen=True)
class Scores:
    """Scores on one split.

    Attributes:
        classes: Names of the scored classes.
        frames: Number of frames.
        members: Scores of each model.
        mean: Scores of the mean of their probabilities.
        counts: int64 (models + 1, frames, 3, classes), see `ConfusionMatrix.class_counts`; the mean's come last.
    """

    classes: tuple[str, ...]
    frames: int
    members: tuple[SegmentationScores, ...]
    mean: SegmentationScores
    counts: np.ndarray

    @property
    def best(self) -> int:
        """Number of the best model."""
        return int(np.argmax([member.miou for member in self.members]))

    @property
    def gain(self) -> float:
        """mIoU (%) of the mean beyond that of the best model."""
        return 100 * (self.mean.miou - self.members[self.best].miou)

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Percents; `names` are those of the models."""
        resampled = [mean_of_classes(resampled_iou(self.counts[i])) for i in (-1, self.best)]
        within = interval(100 * (resampled[0] - resampled[1]))
        return {
            "frames": self.frames,
            "classes": list(self.classes),
            "members": {name: self._told(member) for name, member in zip(names, self.members, strict=True)},
            "mean": self._told(self.mean),
            "best": names[self.best],
            "gain": round(self.gain, 3),
            "interval": None if within is None else [round(value, 3) for value in within],
            "worth_a_student": self.gain >= WORTH,
        }

    def _told(self, scores: SegmentationScores) -> dict[str, Any]:
        iou = {
            name: None if np.isnan(value) else round(100 * float(value), 2)
            for name, value in zip(self.classes, scores.iou, strict=True)
        }
        return {"miou": round(100 * scores.miou, 3), "iou": iou}


def score(
    models: Sequence[Model], data: PreparedDataset, split: str, classes: str | None = None, limit: int = 0
) -> Scores:
    """Score models, and the mean of their probabilities, as `iccld evaluate` does.

    Args:
        models: At least one; all are trained on the same classes.
        data: The data set.
        split: Its split.
        classes: Names of the classes to score, with commas; None for all that models and labels know.
        limit: At most this many frames, evenly spread; 0 for all.

    Raises:
        IccldError: The models know different classes, the label space is another one, or the split has no labels.
    """
    first = models[0].header
    if any(model.header.classes != first.classes for model in models):
        raise IccldError(
            "the models were trained on different classes", "their mean has no meaning; take seeds of one training"
        )
    for model in models:
        check_label_space(model.header.label_space, data)
    space = data.info.label_space
    known = scored_classes(first.classes, data)
    ids = known if classes is None else chosen_classes(classes, known, space)
    fold = np.arange(256, dtype=np.uint8)
    for fine, coarse in folded_predictions(first.classes, data).items():
        fold[fine] = coarse
    frames = labelled_frames(data, split, limit)
    matrices = [ConfusionMatrix(len(space)) for _ in range(len(models) + 1)]
    counts: list[list[np.ndarray]] = [[] for _ in matrices]
    loaded = prefetch(((data.read_image(frame), data.read_label(frame)) for frame in frames), 4)
    size = min(model.batch_size((frames[0].height, frames[0].width), Sampling()) for model in models)
    try:
        for batch in group(loaded, lambda item: (item[0].shape, item[1].shape), lambda item: size):
            images = np.stack([image for image, _ in batch])
            found = [model.segment(images, ["probabilities"], batch[0][1].shape) for model in models]
            mean = np.mean([one.probabilities for one in found], axis=0)  # (B, K, h, w)
            for answers, matrix, own in zip(
                [*(one.labels for one in found), mean.argmax(axis=1)], matrices, counts, strict=True
            ):
                for answer, (_, label) in zip(answers, batch, strict=True):
                    single = ConfusionMatrix(len(space))
                    single.update(fold[answer], label)
                    matrix.counts += single.counts
                    own.append(single.class_counts(ids))
    finally:
        loaded.close()
    told = [matrix.scores(ids) for matrix in matrices]
    return Scores(space.names_of(ids), len(frames), tuple(told[:-1]), told[-1], np.array(counts))


def main() -> None:
    """Print the tables, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="Model files.")
    parser.add_argument("--data", type=Path, required=True, help="Prepared data set with labels.")
    parser.add_argument("--split", nargs="+", default=["val"], help="Splits to score (default: val).")
    parser.add_argument("--classes", help="Score these classes only, with commas.")
    parser.add_argument("--limit", type=int, default=0, help="At most this many frames of a split, evenly spread.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="Write the scores to this file.")
    options = parser.parse_args()
    names = [str(path) for path in options.models]
    if len(set(names)) < len(names):
        parser.error("a model is named twice")
    try:
        models = [load_model(path, options.device) for path in options.models]
        data = PreparedDataset(options.data)
        found = {split: score(models, data, split, options.classes, options.limit) for split in options.split}
    except IccldError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    for split, scores in found.items():
        print(f"\n| {split}, {scores.frames} frames | mIoU | {' | '.join(scores.classes)} |")
        print("|---" * (2 + len(scores.classes)) + "|")
        for name, one in zip([*names, "mean"], [*scores.members, scores.mean], strict=True):
            print(f"| {name} | {100 * one.miou:.2f} | {' | '.join(f'{100 * value:.1f}' for value in one.iou)} |")
        verdict = "a student is worth a training" if scores.gain >= WORTH else f"below {WORTH}, no student"
        print(f"\nThe mean gains {scores.gain:+.2f} over {names[scores.best]}: {verdict}.")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            options.json,
            {"data": data.info.name, "splits": {split: one.to_json(names) for split, one in found.items()}},
        )


if __name__ == "__main__":
    main()
