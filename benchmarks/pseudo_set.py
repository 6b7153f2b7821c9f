"""A model's answers as a prepared data set that can be trained on.

    python benchmarks/pseudo_set.py --data DATA/camvid --split train --ckpt free --out runs/labels/camvid --keep 0.7
    python benchmarks/pseudo_set.py ... --scales 0.75,1,1.5 --flip      # the mean of six views of each frame
    python benchmarks/pseudo_set.py ... --ckpt A --ckpt B --ckpt C      # the mean of three models of the same classes
    iccld adapt-seg ... --labelled runs/labels/camvid

Of each class the most confident `--keep` of its pixels, over all frames together, keep their label; the others are
ignored. A share of its own for each class is what keeps rare classes, whose confidence is low, in the labels. No label
of DATA is read. `write_pseudo_set` does the same with answers from elsewhere, such as the mean of several models.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from iccld_cli import __version__
from iccld_cli.data.prepared import IGNORED_NAME, INDEX_NAME, INFO_NAME, DatasetInfo, Frame, PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.inference.collected import ignored_below
from iccld_cli.inference.model import Model, Sampling, Want, load_model
from iccld_cli.inference.threads import group, prefetch
from iccld_cli.labels import IGNORE, LabelSpace

_LEAST_DOUBT = 2.0**-24  # of a float32 below 1
_STEPS = 65535 / 24
_WANTED: tuple[Want, ...] = ("confidence",)


def write_pseudo_set(
    source: PreparedDataset, out: Path, answers: Iterable[tuple[Frame, np.ndarray, np.ndarray]], keep: float
) -> None:
    """Write a prepared set of some frames with labels that a model gave.

    Frames keep their split, in the order in which they come; images are hard links where the file system has them, else
    copies. The set knows the classes that are left in its labels. Memory holds three bytes a pixel.

    Args:
        source: Where the frames come from; its labels are not read.
        out: Folder of the new set, which must not exist; its name is the set's.
        answers: Frame, uint8 (H, W) trainIds or 255, and float (H, W) in [0, 1], how sure each is; of the frame's size.
        keep: Share in (0, 1] of the pixels of each class that keep their label, the surest. Where several are as sure
            as the last one, all of these do.

    Raises:
        IccldError: `out` exists, there is no answer, a frame comes twice, or an answer does not fit; nothing is written
            then.
    """
    if not 0 < keep <= 1:
        raise IccldError(f"a share of {keep} cannot be kept", "give more than 0 and at most 1")
    if out.exists():
        raise IccldError(f"{out} exists", "name another folder, or remove it")
    space = source.info.label_space
    seen: list[tuple[Frame, np.ndarray, np.ndarray]] = []
    histogram = np.zeros((len(space), 65536), np.int64)
    for frame, labels, confidence in answers:
        labels = _checked(source, frame, labels, confidence)
        sure = _in_steps(confidence)
        seen.append((frame, labels, sure))
        for train_id in np.unique(labels[labels != IGNORE]):
            histogram[train_id] += np.bincount(sure[labels == train_id], minlength=65536)
    if not seen:
        raise IccldError("there are no answers to make a set of")
    if len({frame.image for frame, _, _ in seen}) < len(seen):
        raise IccldError(f"a frame of {source.root} has two answers", "give one of each frame")
    least = np.full(256, 65536, np.int64)
    least[: len(space)] = [_least(row, keep) for row in histogram]
    temporary = out.with_name(f".{out.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        frames = [
            _write_frame(source, temporary, frame, np.where(sure >= least[labels], labels, np.uint8(IGNORE)))
            for frame, labels, sure in seen
        ]
        _write_info(source, temporary, out.name, frames, keep)
        PreparedDataset(temporary)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(source: PreparedDataset, frame: Frame, labels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The labels, 255 where the frame shows something that is not the scene."""
    size = (frame.height, frame.width)
    where = f"the answer for {source.root / frame.image}"
    if labels.dtype != np.uint8 or labels.shape != size or confidence.shape != size:
        raise IccldError(
            f"{where} is {labels.dtype} {labels.shape} with confidence {confidence.shape}", f"give uint8 {size}"
        )
    beyond = labels[(labels >= len(source.info.label_space)) & (labels != IGNORE)]
    if beyond.size:
        raise IccldError(f"{where} holds the label {beyond[0]}, and there are {len(source.info.label_space)} classes")
    if not (np.isfinite(confidence).all() and confidence.min() >= 0 and confidence.max() <= 1 + 1e-4):
        raise IccldError(f"{where} has a confidence outside [0, 1]")
    ignored = source.ignored(frame)
    return labels.copy() if ignored is None else np.where(ignored, np.uint8(IGNORE), labels)


def _in_steps(confidence: np.ndarray) -> np.ndarray:
    """Confidence as uint16, in equal ratios of doubt: most is so near 1 that equal steps would not part it."""
    doubt = np.maximum(1 - confidence.astype(np.float32), np.float32(_LEAST_DOUBT))
    return np.round(-np.log2(doubt) * _STEPS).astype(np.uint16)


def _least(counts: np.ndarray, keep: float) -> int:
    """The lowest confidence, in steps, of the surest `keep` of a class."""
    wanted = keep * counts.sum()
    above = counts[::-1].cumsum()  # pixels at least as sure as each step, the highest step first
    return 65535 - int(np.searchsorted(above, wanted)) if wanted else 65536


def _write_frame(source: PreparedDataset, out: Path, frame: Frame, labels: np.ndarray) -> Frame:
    image = out / frame.image
    image.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.root / frame.image, image)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source.root / frame.image, image)
    sha256 = frame.image_sha256 or hashlib.sha256(image.read_bytes()).hexdigest()
    name = PurePosixPath(frame.image)
    inside = PurePosixPath(*name.parts[1:]) if name.parts[0] == "images" and len(name.parts) > 1 else name
    label = PurePosixPath("labels", inside).with_suffix(".png").as_posix()
    done, encoded = cv2.imencode(".png", labels)
    assert done
    (out / label).parent.mkdir(parents=True, exist_ok=True)
    (out / label).write_bytes(encoded.tobytes())
    ids, counts = np.unique(labels, return_counts=True)
    return replace(
        frame,
        label=label,
        pixels=dict(zip(ids.tolist(), counts.tolist(), strict=True)),
        image_sha256=sha256,
        label_sha256=hashlib.sha256(encoded.tobytes()).hexdigest(),
    )


def _write_info(source: PreparedDataset, out: Path, name: str, frames: list[Frame], keep: float) -> None:
    (out / INDEX_NAME).write_text("".join(frame.to_json() + "\n" for frame in frames), encoding="utf-8")
    space = source.info.label_space
    pixels: Counter[int] = Counter()
    frames_with: Counter[int] = Counter()
    for frame in frames:
        pixels.update(frame.pixels or {})
        frames_with.update((frame.pixels or {}).keys())
    extra: dict[str, Any] = {
        "labelled": len(frames), "pixels": _by_name(pixels, space), "frames": _by_name(frames_with, space),
    }  # fmt: skip
    if "ignored" in source.info.extra:
        shutil.copyfile(source.root / IGNORED_NAME, out / IGNORED_NAME)
        extra |= {key: source.info.extra[key] for key in ("ignored", "ignored_share") if key in source.info.extra}
    info = DatasetInfo(
        name=name,
        label_space=space,
        classes_known=space.names_of(sorted(pixels.keys() - {IGNORE})),
        splits=dict(Counter(frame.split for frame in frames)),
        size=source.info.size,
        source={"adapter": "pseudo-labels", "path": str(source.root), "options": {"keep": keep, "of": source.digest}},
        tool_version=__version__,
        extra=extra,
    )
    write_json(out / INFO_NAME, info.to_json())


def _by_name(counts: Counter[int], space: LabelSpace) -> dict[str, int]:
    return {"ignore" if i == IGNORE else space.names[i]: counts[i] for i in sorted(counts)}


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
