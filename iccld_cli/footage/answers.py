"""The start's own answers to the footage, which are learnt as labels are.

    OUT/answers/1-NAME, 2-NAME...    a labelled set for each piece of footage
    OUT/answers/frames/              answers that are not in such a set yet

The start answers each frame, as it is and mirrored, with the mean. Of each class the surest pixels keep their label.
These labels stay as they are, while those of the teacher follow what is learnt from them. No label of the footage is
read.
"""

from __future__ import annotations

import shutil
import statistics
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from iccld_cli.bars import progress_bar
from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.pseudoset import Answer, in_steps, write_pseudo_set
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.record import Record
from iccld_cli.header import read_header
from iccld_cli.inference.collected import ignored_below
from iccld_cli.inference.model import Model, Sampling, Want, load_model, network_size
from iccld_cli.labels import IGNORE
from iccld_cli.names import shown
from iccld_cli.prepare.own import set_name

KEPT = 0.7
"""Share of the pixels of each class that keep their label."""

MOST_ANSWERED = 400
"""Frames that are answered at most, over all of the footage."""

ANSWER_SHARE = 1 / 3
"""Share of the minutes that answering may take, if `FEWEST_ANSWERED` frames take no longer."""

FEWEST_ANSWERED = 8
FOLDER, _FRAMES = "answers", "frames"
_VIEWS = Sampling(flip=True, average=True)
_WANTED: tuple[Want, ...] = ("confidence",)
_TIMED = 3  # frames, the first of which also pays for what is loaded on the way
_LONGEST_NAME = 60

Place = tuple[int, PreparedDataset, Frame]
"""A frame's number in the footage, its set, and itself."""


def learnt_answers(
    options: FootageOptions, record: Record, start: Path, targets: Sequence[PreparedDataset], console: Console
) -> list[Path]:
    """The sets of labels that the start gives, made once.

    Args:
        options: Of the run.
        record: Keeps what is settled: `answered`, frames to answer, `answer_seconds`, what they take where `minutes`
            are counted, and `answers`, the sets.
        start: The model file.
        targets: The footage's frames.
        console: Where messages go.

    Returns:
        Folders of prepared sets; none where nothing is to be learnt, or nothing could be answered.

    Raises:
        IccldError: A label of `options.labelled` cannot be read, or the disk is full.
        KeyboardInterrupt: Interrupted; what was answered is kept.
    """
    folder = options.out / FOLDER
    if not options.answers:
        return []
    if "answers" not in record.tree:
        places = [(target, frame) for target in targets for frame in target.frames("train")]
        numbered = [(number, *place) for number, place in enumerate(places)]
        _answer(options, record, start, numbered, console)
        chosen = evenly(numbered, record.tree["answered"])
        config = read_header(start).config.data
        rows = (config.ignore_rows_top, config.ignore_rows_bottom)
        roots, of_labels, pixels = [], 0, 0
        for number, target in enumerate(targets, 1):
            own = [place for place in chosen if place[1] is target]
            name = f"{number}-{set_name(target.info.name)[:_LONGEST_NAME]}"
            counts = _write(folder, name, target, own, options.labelled, rows)
            of_labels += counts[0]
            pixels += counts[1]
            roots += [str((folder / name).absolute())] if counts[0] else []
        record.keep("answers", roots)
        if roots:
            count = sum(_path(folder / _FRAMES, number).exists() for number, *_ in chosen)
            console.print(f"{count} frames answered: {100 * of_labels / pixels:.0f} % of their pixels are learnt")
        else:
            console.print("note: the start has no answer that could be learnt; self-training goes on without")
    shutil.rmtree(folder / _FRAMES, ignore_errors=True)
    return [Path(root) for root in record.tree["answers"]]


def _answer(options: FootageOptions, record: Record, start: Path, places: Sequence[Place], console: Console) -> None:
    """Answer as many frames as there are minutes for; each lies in a file of its own afterwards."""
    folder, most = options.out / FOLDER / _FRAMES, min(len(places), MOST_ANSWERED)
    known = record.tree.get("answered")
    if known is not None and all(_path(folder, number).exists() for number, *_ in evenly(places, known)):
        return
    began = time.perf_counter()
    model = load_model(start, options.device)
    console.print(f"the start answers up to {known or most} frames")
    failed: dict[int, str] = {}
    if known is None:
        seconds = []
        for place in evenly(places, min(_TIMED, most)) if options.iterations is None else []:
            _path(folder, place[0]).unlink(missing_ok=True)  # of a run that was stopped: it would take no time
            before = time.perf_counter()
            _answer_one(model, place, folder, failed)
            seconds.append(time.perf_counter() - before)
        known = most
        if seconds:
            each, first = statistics.median(seconds[1:] or seconds), time.perf_counter() - began - sum(seconds)
            affordable = int((60 * options.minutes * ANSWER_SHARE - first) / each)
            known = min(most, max(affordable, FEWEST_ANSWERED))
            record.tree["answer_seconds"] = round(first + known * each, 2)
        record.keep("answered", known)
    chosen = evenly(places, known)
    missing = [place for place in chosen if not _path(folder, place[0]).exists()]
    with progress_bar("answers", "frames", console) as update:
        update(known - len(missing), known)
        for done, place in enumerate(missing, known - len(missing) + 1):
            _answer_one(model, place, folder, failed)
            update(done, known)
    if failed:
        why = next(iter(failed.values()))
        console.print(shown(f"note: {len(failed)} frames were not answered: {why}"), soft_wrap=True)


def _answer_one(model: Model, place: Place, folder: Path, failed: dict[int, str]) -> None:
    """Answer a frame, unless that was done; a frame without an answer has none, and the others are worth no less."""
    number, target, frame = place
    path = _path(folder, number)
    if path.exists() or number in failed:
        return
    try:
        labels, confidence = answer(model, target.read_image(frame))
    except IccldError as error:
        failed[number] = error.message
        return
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, labels=labels, sure=in_steps(confidence))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.npz"


def answer(model: Model, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a model says of a frame with the mean of its probabilities, as it is and mirrored.

    Args:
        model: Its working height is that of the answer, which is finer than a network is and costs less than the
            frame's own.
        image: uint8 (H, W, 3), RGB.

    Returns:
        uint8 (h, w) trainIds, 255 for a class that the model was not trained on, and float32 (h, w) their probability;
        no larger than the frame.

    Raises:
        IccldError: The model cannot answer it.
    """
    height, width = image.shape[:2]
    sampling = model.settle(_VIEWS)
    rows, columns = network_size((height, width), sampling.height)
    size = (min(rows, height), min(columns, width))
    found = model.segment(image[None], _WANTED, size, sampling)
    assert found.confidence is not None
    return ignored_below(found.labels[0], found.confidence[0], 0.0, model.header.classes), found.confidence[0]


def _write(
    folder: Path,
    name: str,
    target: PreparedDataset,
    places: Sequence[Place],
    labelled: Sequence[Path],
    rows: tuple[float, float],
) -> tuple[int, int]:
    """Write a set of the answers to a piece of footage, unless it is there.

    Args:
        folder: Of all answers.
        name: Of the set.
        target: The piece of footage.
        places: Its frames that were to be answered.
        labelled: Sets of labels that a person gave, which go before answers.
        rows: Shares of a frame's rows, from the top and from the bottom, where nothing is learnt.

    Returns:
        Its pixels with a label, and all its pixels; 0 and 0 where nothing was answered.
    """
    frames = folder / _FRAMES
    root = folder / name
    answered = [place for place in places if _path(frames, place[0]).exists()]
    if not root.exists():
        if not answered:
            return 0, 0
        for left in folder.glob(".*.part"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        write_pseudo_set(target, root, _Found(frames, answered, _drawn(labelled), rows), KEPT, name)
    pixels = PreparedDataset(root).info.extra["pixels"]
    return sum(pixels.values()) - pixels.get("ignore", 0), sum(pixels.values())


def _drawn(labelled: Sequence[Path]) -> dict[str, list[tuple[PreparedDataset, Frame]]]:
    """Frames that a person has labelled, by the digest of their file."""
    found: dict[str, list[tuple[PreparedDataset, Frame]]] = {}
    for path in labelled:
        dataset = PreparedDataset(path)
        for frame in dataset.iter_frames("train"):
            if frame.label is not None and frame.image_sha256 is not None:
                found.setdefault(frame.image_sha256, []).append((dataset, frame))
    return found


class _Found:
    """Answers that lie in files, in the frames' size; each is read when its turn comes."""

    def __init__(
        self,
        folder: Path,
        places: Sequence[Place],
        drawn: Mapping[str, Sequence[tuple[PreparedDataset, Frame]]],
        rows: tuple[float, float],
    ) -> None:
        self.folder, self.places, self.drawn, self.rows = folder, places, drawn, rows

    def __iter__(self) -> Iterator[Answer]:
        for number, _, frame in self.places:
            path = _path(self.folder, number)
            try:
                with np.load(path) as file:
                    labels, sure = file["labels"], file["sure"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                raise IccldError(f"{path} is damaged", "remove it, and the same command goes on") from None
            size = (frame.width, frame.height)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
            labels[: round(frame.height * self.rows[0])] = IGNORE
            labels[frame.height - round(frame.height * self.rows[1]) :] = IGNORE
            for dataset, one in self.drawn.get(frame.image_sha256 or "", ()):  # a person knows better
                label = dataset.read_label(one)
                if label.shape == labels.shape:
                    labels[label != IGNORE] = IGNORE
            yield frame, labels, cv2.resize(sure, size, interpolation=cv2.INTER_NEAREST_EXACT)
