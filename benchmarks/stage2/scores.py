"""mIoU and error-detection AUROC of rules, counted on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.header import ModelHeader
from iccld_cli.inference.evaluate import folded_predictions, labelled_frames, scored_classes
from iccld_cli.inference.threads import prefetch
from iccld_cli.labels import IGNORE
from iccld_cli.metrics.calibration import ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix

Scored = tuple[str, Tensor, Tensor]
"""A rule's name, its labels int64 (H, W), and how unsure it is of them, (H, W) in [0, 1]."""

Rules = Callable[[Tensor, tuple[int, int]], Iterator[Scored]]
"""A frame (1, 3, H, W) in [0, 1] and the size of its label -> what the rules say of it."""


class _Counts:
    def __init__(self, classes: int, bins: int, device: torch.device) -> None:
        self.pairs = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self.bins = torch.zeros(2 * bins, dtype=torch.int64, device=device)


def score(
    rules: Rules, header: ModelHeader, data: PreparedDataset, split: str, device: torch.device, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Rule -> mIoU, AUROC and the IoU of each class, in percent, over the labelled frames of a split.

    Args:
        rules: What is scored.
        header: Of the model, which knows the classes.
        data: The data set.
        split: Of it.
        device: Where to count.
        limit: Only so many frames, evenly spread.
    """
    classes, count = scored_classes(header.classes, data), len(header.label_space)
    fold, scored = torch.arange(256), torch.zeros(256, dtype=torch.bool)
    for fine, coarse in folded_predictions(header.classes, data).items():
        fold[fine] = coarse
    scored[list(classes)] = True
    fold, scored = fold.to(device), scored.to(device)
    bins = ErrorDetection().bins
    found: dict[str, _Counts] = {}
    frames = labelled_frames(data, split, limit)
    for label, image in prefetch((data.read_label(frame), data.read_image(frame)) for frame in frames):
        truth = torch.tensor(label).to(device).long().flatten()
        pixels = torch.tensor(image).to(device).permute(2, 0, 1)[None].float() / 255
        valid = scored[truth].long()
        for name, answer, unsure in rules(pixels, label.shape):
            counts = found.setdefault(name, _Counts(count, bins, device))
            labels = fold[answer.flatten()]
            counts.pairs.scatter_add_(0, truth.masked_fill(truth == IGNORE, 0) * count + labels, valid)
            place = (unsure.flatten().double().clamp(0, 1).sqrt().sqrt() * bins).long().clamp(max=bins - 1)
            counts.bins.scatter_add_(0, place + bins * (labels == truth), valid)
    names = header.label_space.names
    return {name: _read(counts, classes, names, bins) for name, counts in found.items()}


def _read(counts: _Counts, classes: tuple[int, ...], names: Sequence[str], bins: int) -> dict[str, float]:
    count = len(names)
    matrix, detection = ConfusionMatrix(count), ErrorDetection(bins)
    matrix.counts += counts.pairs.cpu().numpy().reshape(count, count)
    detection.wrong, detection.right = counts.bins.cpu().numpy().reshape(2, bins)
    scores = matrix.scores(classes)
    return {
        "miou": round(100 * scores.miou, 3),
        "auroc": round(100 * detection.value(), 3),
        **{f"iou {names[i]}": round(100 * float(iou), 2) for i, iou in zip(classes, scores.iou, strict=True)},
    }


def rules_of(name: str, answer: Tensor, further: dict[str, list[Tensor]]) -> Iterator[Scored]:
    """Ways to say how unsure an answer is.

    Args:
        name: Of the answer.
        answer: Probabilities (1, K, H, W).
        further: Key -> probabilities of further passes.

    Yields:
        Entropy and 1 - p of the answer; of the further passes 1 - mean p of the answer's class with and without the
        answer's own pass, and the mutual information of class and pass.
    """
    labels, scale = answer.argmax(1, keepdim=True), np.log(answer.shape[1])
    flat = labels[0, 0]
    yield f"{name}; entropy", flat, entropy(answer)[0] / scale
    yield f"{name}; 1 - p", flat, 1 - answer.gather(1, labels)[0, 0]
    for key, views in further.items():
        if not views:
            continue
        for title, of in ((key, views), (f"{key}, and the plain pass", [answer, *views])):
            yield f"{name}; 1 - mean p of {title}", flat, 1 - sum(v.gather(1, labels)[0, 0] for v in of) / len(of)
        every = [answer, *views]
        gain = entropy(sum(every) / len(every)) - sum(entropy(view) for view in every) / len(every)
        yield f"{name}; mutual information of {key}", flat, gain[0] / scale


def entropy(probabilities: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, H, W)."""
    return -(probabilities * probabilities.clamp(min=1e-30).log()).sum(1)
