"""A model's answers as a prepared data set that can be trained on.

    python benchmarks/pseudo_set.py --data DATA/camvid --split train --ckpt free --out runs/labels/camvid --keep 0.7
    python benchmarks/pseudo_set.py ... --scales 0.75,1,1.5 --flip      # the mean of six views of each frame
    python benchmarks/pseudo_set.py ... --ckpt A --ckpt B --ckpt C      # the mean of three models of the same classes
    iccld adapt-seg ... --labelled runs/labels/camvid

Of each class the most confident `--keep` of its pixels, over all frames together, keep their label; the others are
ignored. A share of its own for each class is what keeps rare classes, whose confidence is low, in the labels. No label
of DATA is read. `iccld_cli.data.pseudoset` does the same with answers from elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.pseudoset import write_pseudo_set
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.inference.collected import ignored_below
from iccld_cli.inference.model import Model, Sampling, Want, load_model
from iccld_cli.inference.threads import group, prefetch

_WANTED: tuple[Want, ...] = ("confidence",)


def answers_of(
    models: Sequence[Model], dataset: PreparedDataset, frames: Iterable[Frame], sampling: Sampling
) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
    """What models say of frames: labels uint8 (H, W), 255 for classes that they were not trained on, and confidence.

    Several models answer with the mean of their probabilities.
    """
    first = models[0]
    sampling = first.settle(sampling)
    loaded = prefetch(((frame, dataset.read_image(frame)) for frame in frames), 4)
    try:
        for batch in group(
            loaded, lambda item: item[1].shape, lambda item: first.batch_size(item[1].shape[:2], sampling)
        ):
            images = np.stack([image for _, image in batch])
            if len(models) == 1:
                found = first.segment(images, _WANTED, sampling=sampling)
                assert found.confidence is not None
                answered = zip(batch, found.labels, found.confidence, strict=True)
            else:
                answered = zip(batch, *_mean_answer(models, images, sampling), strict=True)
            for (frame, _), labels, confidence in answered:
                yield frame, ignored_below(labels, confidence, 0.0, first.header.classes), confidence
    finally:
        loaded.close()


def _mean_answer(models: Sequence[Model], images: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 (B, H, W) and their probability, of the mean over models."""
    mean: np.ndarray | None = None
    for model in models:
        found = model.segment(images, ("probabilities",), sampling=model.settle(sampling)).probabilities
        assert found is not None
        mean = found / len(models) if mean is None else mean + found / len(models)
    assert mean is not None
    return mean.argmax(1).astype(np.uint8), mean.max(1)


def main() -> None:
    """Write a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set; its labels are not read")
    parser.add_argument("--split", default="train")
    parser.add_argument("--ckpt", action="append", required=True, help="model file or a shipped one's name; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new set")
    parser.add_argument("--keep", type=float, default=0.7, help="share of each class that keeps its label")
    parser.add_argument("--scales", default="1", help="sizes that each frame is seen at, separated by commas")
    parser.add_argument("--flip", action="store_true", help="see the mirrored frames too")
    parser.add_argument("--limit", type=int, default=0, help="this many frames, spread evenly; 0 for all")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    try:
        scales = tuple(float(part) for part in options.scales.split(","))
    except ValueError:
        sys.exit(f"--scales {options.scales} are no numbers; write them as 0.75,1,1.5")
    try:
        dataset = PreparedDataset(options.data)
        frames = evenly(dataset.frames(options.split), options.limit)
        sampling = Sampling(scales=scales, flip=options.flip, average=len(scales) > 1 or options.flip)
        models = [load_model(ckpt, options.device) for ckpt in options.ckpt]
        if len({model.header.classes for model in models}) > 1:
            sys.exit("the files of --ckpt know different classes; name files of one class set")
        write_pseudo_set(dataset, options.out, answers_of(models, dataset, frames, sampling), options.keep)
    except IccldError as error:
        sys.exit(f"{error.message}{f'; {error.hint}' if error.hint else ''}")
    found = PreparedDataset(options.out).info.extra["pixels"]
    share = 1 - found.get("ignore", 0) / sum(found.values())
    print(f"{options.out}: {len(frames)} frames, {100 * share:.0f} % of the pixels labelled: {', '.join(found)}")


if __name__ == "__main__":
    main()
