"""Scores of a model on the labelled frames of a prepared data set.

The training's validation and `iccld evaluate` are this one function, so that their numbers mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from iccld_cli.data.prepared import Frame, PreparedDataset, labelled_pixels
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.inference.evaluation import Evaluation, FrameScore
from iccld_cli.inference.images import auto_batch_size, normalised_entropy, to_tensor
from iccld_cli.inference.threads import group, prefetch
from iccld_cli.labels import LabelSpace, shared_classes
from iccld_cli.metrics.calibration import CalibrationError, ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix

if TYPE_CHECKING:
    from iccld_cli.models.segmenter import Segmenter


class _Scorer:
    """Accumulates everything that is scored, one frame at a time."""

    def __init__(self, classes: Sequence[int], num_classes: int) -> None:
        self.classes = tuple(classes)
        self.is_scored = np.zeros(256, bool)
        self.is_scored[list(classes)] = True
        self.matrix = ConfusionMatrix(num_classes)
        self.calibration = CalibrationError()
        self.by_entropy = ErrorDetection()
        self.by_disagreement = ErrorDetection()
        self.frames: list[FrameScore] = []

    def add(
        self,
        frame: Frame,
        label: np.ndarray,
        probabilities: torch.Tensor,
        disagreement: torch.Tensor | None,
    ) -> None:
        """Score one frame: label uint8 (h, w), probabilities (K, h, w), disagreement (h, w)."""
        confidence, prediction = probabilities.max(dim=0)
        single = ConfusionMatrix(len(self.matrix.counts))
        # uint8 before the copy: ids fit, and a GPU's answer crosses the bus eight times faster.
        predicted = prediction.to(torch.uint8).cpu().numpy()
        single.update(predicted, label)
        self.matrix.counts += single.counts
        own = single.scores(self.classes)
        self.frames.append(FrameScore(frame, own.pixel_accuracy, own.miou))

        valid = self.is_scored[label]
        correct = (predicted == label)[valid]
        self.calibration.update(confidence.cpu().numpy()[valid], correct)
        self.by_entropy.update(normalised_entropy(probabilities).cpu().numpy()[valid], correct)
        if disagreement is not None:
            self.by_disagreement.update(disagreement.cpu().numpy()[valid], correct)


def scored_classes(model_classes: Sequence[int], dataset: PreparedDataset) -> tuple[int, ...]:
    """The classes on which a model can be scored on a data set: those both know.

    Args:
        model_classes: TrainIds the model was trained on.
        dataset: The data set.

    Raises:
        IccldError: They have no class in common.
    """
    return shared_classes([model_classes, dataset.info.known_ids()], len(dataset.info.label_space))


def chosen_classes(names: str, known: Sequence[int], space: LabelSpace) -> tuple[int, ...]:
    """Read the names of the classes to score.

    Pixels with other labels are left out; the model may still answer any class it knows, and is wrong where it
    answers one of the others.

    Args:
        names: Class names, separated by commas.
        known: TrainIds that can be scored.
        space: Label space of both.

    Raises:
        IccldError: A name is not among the classes that can be scored.
    """
    possible = {space.names[i]: i for i in known}
    chosen = set()
    for name in (part.strip() for part in names.split(",")):
        if name not in possible:
            raise IccldError(f"class {name!r} cannot be scored here", did_you_mean(name, possible))
        chosen.add(possible[name])
    return tuple(sorted(chosen))


def check_label_space(space: LabelSpace, dataset: PreparedDataset) -> None:
    """Refuse a data set whose trainIds mean other classes than the model's.

    Raises:
        IccldError: The label spaces differ.
    """
    other = dataset.info.label_space
    if other.names != space.names:
        raise IccldError(
            f"{dataset.root} uses label space {other.name!r} ({len(other)} classes), "
            f"the model {space.name!r} ({len(space)} classes)",
            "prepare the data in the model's label space, or train a model on this one",
        )


@torch.inference_mode()
def evaluate(
    segmenter: Segmenter,
    dataset: PreparedDataset,
    split: str,
    *,
    classes: Sequence[int] | None = None,
    steps: int | None = None,
    seed: int = 0,
    samples: int = 1,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    limit: int | None = None,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model on a split, at the resolution of each label.

    Args:
        segmenter: The model, already on `device`. Its training mode is restored afterwards.
        dataset: Where the frames come from.
        split: Which of its splits.
        classes: TrainIds to score; None for all that the labels tell apart.
        steps: Sampling steps; None for the model's default, 0 decodes the latent directly.
        seed: Noise seed.
        samples: Noise seeds to average; 2 or more also give `auroc_disagreement`.
        scales: Factors on the images' size to average over, see `Segmenter.segment`.
        flip: Whether to average with the mirrored images.
        limit: Score only this many frames, evenly spread over the split; None or 0 for all.
        device: Where the model is.
        batch_size: Frames of equal size per pass; None chooses 1 on a CPU and by size on a GPU.
        progress: Called with (frames done, frames in all) after every batch.

    Raises:
        IccldError: The split is missing or has no labels, a file cannot be read, or the label space differs.
    """
    info = dataset.info
    frames = labelled_frames(dataset, split, limit)
    if classes is None:
        classes = scored_classes(range(len(info.label_space)), dataset)
    steps = segmenter.default_steps if steps is None else steps
    device = torch.device(device)
    scorer, seconds, done = _Scorer(classes, len(info.label_space)), 0.0, 0

    def most(item: tuple[Frame, np.ndarray, np.ndarray]) -> int:
        return batch_size or auto_batch_size(item[1], device)

    loaded = prefetch(_read(dataset, frames), 4)
    was_training = segmenter.training
    segmenter.eval()
    try:
        for batch in group(loaded, lambda item: (item[1].shape, item[2].shape), most):
            started = time.perf_counter()
            labels = [label for _, _, label in batch]
            images = to_tensor([image for _, image, _ in batch], device)  # (B, 3, H, W)
            out = segmenter.segment(
                images, steps=steps, seed=seed, samples=samples, size=labels[0].shape, scales=scales, flip=flip
            )
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - started
            _check_classes(out.probabilities, dataset)
            for i, (frame, _, label) in enumerate(batch):
                disagreement = None if out.disagreement is None else out.disagreement[i]
                try:
                    scorer.add(frame, label, out.probabilities[i], disagreement)
                except ValueError as error:
                    raise IccldError(f"{dataset.root / str(frame.label)}: {error}", "prepare it again") from None
            done += len(batch)
            if progress is not None:
                progress(done, len(frames))
    finally:
        loaded.close()
        segmenter.train(was_training)
    return Evaluation(
        dataset=info.name,
        split=split,
        label_space=info.label_space,
        scores=scorer.matrix.scores(classes),
        confusion=scorer.matrix.counts,
        images=len(frames),
        steps=steps,
        samples=samples,
        seed=seed,
        scales=tuple(scales),
        flip=flip,
        ece=scorer.calibration.value(),
        auroc=scorer.by_entropy.value(),
        auroc_disagreement=scorer.by_disagreement.value() if samples > 1 else None,
        reliability=tuple(scorer.calibration.curve()),
        seconds_per_image=seconds / len(frames),
        frames=tuple(scorer.frames),
    )


@torch.inference_mode()
def predict_labels(
    segmenter: Segmenter,
    image: np.ndarray,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    steps: int | None = None,
    seed: int = 0,
    samples: int = 1,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> np.ndarray:
    """The labels of one image, as `evaluate` scores them.

    Args:
        segmenter: The model, on `device`.
        image: uint8 (H, W, 3), RGB.
        size: (height, width) of the result.
        device: Where the model is.
        steps: Sampling steps; None for the model's default.
        seed: Noise seed.
        samples: Noise seeds to average.
        scales: Factors on the image's size to average over.
        flip: Whether to average with the mirrored image.

    Returns:
        uint8 (height, width) of trainIds.
    """
    out = segmenter.segment(
        to_tensor([image], device), steps=steps, seed=seed, samples=samples, size=size, scales=scales, flip=flip
    )
    return out.probabilities[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


def labelled_frames(dataset: PreparedDataset, split: str, limit: int | None = None) -> list[Frame]:
    """The frames of a split that have a label.

    Args:
        dataset: The data set.
        split: The split.
        limit: Keep only this many, evenly spread; None or 0 for all.

    Raises:
        IccldError: The split is missing, or none of its frames has a label, or none a labelled pixel.
    """
    frames = [frame for frame in dataset.frames(split) if frame.label is not None]
    if not frames:
        raise IccldError(
            f"{dataset.root} has no labels in split {split!r}",
            "evaluation needs labels; choose another split",
        )
    if labelled_pixels(frames, range(len(dataset.info.label_space))) == 0:
        raise IccldError(f"{dataset.root} has no labelled pixel in split {split!r}", "is its label map right?")
    if limit and limit < len(frames):
        frames = [frames[i * len(frames) // limit] for i in range(limit)]
    return frames


def _read(dataset: PreparedDataset, frames: list[Frame]) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
    """(frame, image (H, W, 3), label (h, w)) of each frame."""
    for frame in frames:
        yield frame, dataset.read_image(frame), dataset.read_label(frame)


def _check_classes(probabilities: torch.Tensor, dataset: PreparedDataset) -> None:
    if probabilities.shape[1] != len(dataset.info.label_space):
        raise IccldError(
            f"the model predicts {probabilities.shape[1]} classes, the labels of {dataset.root} have "
            f"{len(dataset.info.label_space)}",
            "prepare the data in the model's label space",
        )
