"""Answers of a model as a prepared data set whose labels can be learnt: of each class the surest pixels.

A share of its own for each class is what keeps rare classes, whose confidence is low, in the labels.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from iccld_cli import __version__
from iccld_cli.data.prepared import IGNORED_NAME, INDEX_NAME, INFO_NAME, DatasetInfo, Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error, write_json
from iccld_cli.labels import IGNORE, LabelSpace

Answer = tuple[Frame, np.ndarray, np.ndarray]
"""A frame, uint8 (H, W) trainIds or 255, and (H, W) how sure each is: float in [0, 1], or uint16 from `in_steps`."""

_LEAST_DOUBT = 2.0**-24  # of a float32 below 1
_STEPS = 65535 / 24


def write_pseudo_set(
    source: PreparedDataset, out: Path, answers: Iterable[Answer], keep: float, name: str | None = None
) -> None:
    """Write a prepared set of some frames with labels that a model gave.

    Frames keep their split, in the order in which they come; images are hard links where the file system has them, else
    copies. The set knows the classes that are left in its labels.

    Args:
        source: Where the frames come from; its labels are not read.
        out: Folder of the new set, which must not exist.
        answers: Of the frames' size. An iterator is held in memory, three bytes a pixel; anything else is gone through
            twice, and a frame held at a time.
        keep: Share in (0, 1] of the pixels of each class that keep their label, the surest. Where several are as sure
            as the last one, all of these do.
        name: Of the set; None for the folder's.

    Raises:
        IccldError: `out` exists, there is no answer, a frame comes twice, or an answer does not fit, or the disk is
            full; nothing is written then.
    """
    if not 0 < keep <= 1:
        raise IccldError(f"a share of {keep} cannot be kept", "give more than 0 and at most 1")
    if out.exists():
        raise IccldError(f"{out} exists", "name another folder, or remove it")

    def checked() -> Iterator[Answer]:
        for frame, labels, confidence in answers:
            yield frame, _checked(source, frame, labels, confidence), in_steps(confidence)

    held = list(checked()) if isinstance(answers, Iterator) else None
    histogram, images = np.zeros((len(source.info.label_space), 65536), np.int64), Counter[str]()
    for frame, labels, sure in held or checked():
        images[frame.image] += 1
        for train_id in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[: len(histogram)]):
            histogram[train_id] += np.bincount(sure[labels == train_id], minlength=65536)
    if not images:
        raise IccldError("there are no answers to make a set of")
    if images.total() > len(images):
        raise IccldError(f"a frame of {source.root} has two answers", "give one of each frame")
    least = np.full(256, 65536, np.int32)
    least[: len(histogram)] = [_least(row, keep) for row in histogram]
    temporary = out.with_name(f".{out.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        frames = [
            _write_frame(source, temporary, frame, np.where(sure >= least[labels], labels, np.uint8(IGNORE)))
            for frame, labels, sure in held or checked()
        ]
        _write_info(source, temporary, name or out.name, frames, keep)
        PreparedDataset(temporary)
        os.rename(temporary, out)
    except FileNotFoundError:
        raise  # a frame of the source is gone
    except OSError as error:
        raise explain_os_error(error, out) from error
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
    if confidence.dtype != np.uint16 and not (
        np.isfinite(confidence).all() and confidence.min() >= 0 and confidence.max() <= 1 + 1e-4
    ):
        raise IccldError(f"{where} has a confidence outside [0, 1]")
    ignored = source.ignored(frame)
    return labels if ignored is None else np.where(ignored, np.uint8(IGNORE), labels)


def in_steps(confidence: np.ndarray) -> np.ndarray:
    """Confidence (H, W) in [0, 1] as uint16, in equal ratios of doubt: most is so near 1 that equal steps would not
    part it. What is uint16 stays."""
    if confidence.dtype == np.uint16:
        return confidence
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
    counts = np.bincount(labels.ravel(), minlength=256)
    return replace(
        frame,
        label=label,
        pixels={int(i): int(counts[i]) for i in np.flatnonzero(counts)},
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
