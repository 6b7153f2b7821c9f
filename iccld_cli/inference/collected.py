"""Files about all frames of a run: `frames.jsonl`, `to_label.jsonl` and the prepared data set of predictions.

    OUT/frames.jsonl        a line a frame: class shares, mean confidence and uncertainty, flags
    OUT/to_label.jsonl      the frames most worth labelling, the first one first
    OUT/dataset/            the predictions as a prepared data set; labels below the threshold are 255

Each input leaves its lines in a part of the journal (`Journal.part`), which takes its place together with the input's
other results. The files are made of the parts when all inputs are done, so that a run that was killed and goes on ends
with the same bytes. Lines of inputs of earlier runs stay.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from iccld_cli import __version__
from iccld_cli.data.prepared import INDEX_NAME, INFO_NAME, DatasetInfo, Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_json
from iccld_cli.header import ModelHeader
from iccld_cli.inference.facts import FrameFacts, label_row, most_worth_labelling, named_shares, share_rows
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.journal import Journal
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.names import json_safe

FRAMES_NAME = "frames.jsonl"
TO_LABEL_NAME = "to_label.jsonl"
DATASET = "dataset"


@dataclass(frozen=True)
class DatasetFiles:
    """The two files of a frame in the data set, as they are on disk.

    Attributes:
        image: Path below the data set's folder.
        label: The same of the label.
        image_sha256: Checksum, in hex.
        label_sha256: The same of the label.
        pixels: Pixels of each trainId in the label, 255 included.
    """

    image: str
    label: str
    image_sha256: str
    label_sha256: str
    pixels: dict[int, int]


def part_line(
    item: Input,
    frame: tuple[int, float] | None,
    image: np.ndarray,
    facts: FrameFacts,
    files: DatasetFiles | None,
    header: ModelHeader,
) -> str:
    """One frame's line of its input's part.

    Args:
        item: The input.
        frame: Number and time in seconds of a video's frame; None for an image.
        image: uint8 (H, W, 3).
        facts: Of the frame.
        files: Its files in the data set, if there is one.
        header: Of the model.
    """
    height, width = image.shape[:2]
    told: dict[str, Any] = {
        "name": item.name.as_posix(),
        "input": item.where,
        "frame": None if frame is None else frame[0],
        "time": None if frame is None else round(frame[1], 6),
        "width": width,
        "height": height,
        "classes": named_shares(facts, header.label_space),
        "confidence": facts.confidence,
        "uncertainty": facts.uncertainty,
        "flags": list(facts.flags),
    }
    line: dict[str, Any] = {"told": told}
    if files is not None:
        row = Frame(
            "train", files.image, files.label, width, height, files.pixels, files.image_sha256, files.label_sha256
        )
        line["frame"] = row.to_json()
    return json_safe(json.dumps(line, ensure_ascii=False)) + "\n"


def dataset_source(header: ModelHeader, digest: str, threshold: float) -> dict[str, Any]:
    """`source` of the data set's `dataset.json`: sets of other models or thresholds are not mixed."""
    return {
        "adapter": "predict",
        "path": "",
        "options": {"threshold": threshold, "model": digest, "stage": header.stage},
    }


def refuse_other_dataset(out: Path, source: dict[str, Any]) -> None:
    """Refuse to add to a data set that another model or threshold made.

    Raises:
        IccldError: There is one, or something else lies in its place.
    """
    folder = out / DATASET
    if not (folder / INFO_NAME).exists():
        return
    found = PreparedDataset(folder).info.source
    if found != source:
        raise IccldError(
            f"{folder} holds predictions of another model or threshold", "give another --out, or remove that folder"
        )


def told_names(out: Path) -> set[str]:
    """Names of the inputs that `frames.jsonl` has lines of."""
    found = set()
    for line in _lines(out / FRAMES_NAME):
        with contextlib.suppress(ValueError, AttributeError, KeyError):
            found.add(str(json.loads(line)["name"]))
    return found


def write_frames(out: Path, items: Sequence[Input], journal: Journal) -> None:
    """Write `frames.jsonl`.

    Args:
        out: Output folder.
        items: All inputs of the run; those without a part are passed over.
        journal: Keeps the parts.
    """
    done = {item.name.as_posix() for item in items if journal.part(item).exists()}
    path = out / FRAMES_NAME
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for line in _lines(path):
            if json.loads(line).get("name") not in done:
                file.write(line)
        for _, part in _parts(items, journal):
            file.write(json_safe(json.dumps(part["told"], ensure_ascii=False)) + "\n")


def write_dataset(
    out: Path, items: Sequence[Input], journal: Journal, header: ModelHeader, source: dict[str, Any]
) -> PreparedDataset | None:
    """Write `index.jsonl` and `dataset.json` of the data set.

    Args:
        out: Output folder; `dataset/images` and `dataset/labels` are there.
        items: All inputs of the run.
        journal: Keeps the parts.
        header: Of the model.
        source: From `dataset_source`.

    Returns:
        The set; None where there is no frame.
    """
    folder = out / DATASET
    done = {item.name.as_posix() for item in items if journal.part(item).exists()}
    index = folder / INDEX_NAME
    splits: dict[str, int] = {}
    pixels: Counter[int] = Counter()
    frames_with: Counter[int] = Counter()
    with atomic_path(index) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        kept = (line for line in _lines(index) if not _of(Frame.from_json(line), done))
        for line in itertools.chain(kept, (part["frame"] + "\n" for _, part in _parts(items, journal))):
            frame = Frame.from_json(line)
            splits[frame.split] = splits.get(frame.split, 0) + 1
            pixels.update(frame.pixels or {})
            frames_with.update((frame.pixels or {}).keys())
            file.write(json_safe(line))
    if not splits:
        index.unlink()
        return None
    info = DatasetInfo(
        name=out.resolve().name or DATASET,
        label_space=header.label_space,
        classes_known=header.label_space.names_of(header.classes),
        splits=splits,
        source=source,
        tool_version=__version__,
        extra={
            "labelled": sum(splits.values()),
            "pixels": _by_name(pixels, header.label_space),
            "frames": _by_name(frames_with, header.label_space),
        },
    )
    write_json(folder / INFO_NAME, info.to_json())
    return PreparedDataset(folder)


def write_to_label(out: Path, items: Sequence[Input], journal: Journal, header: ModelHeader, count: int) -> list[str]:
    """Write `to_label.jsonl`, of the frames of this run.

    Args:
        out: Output folder.
        items: All inputs of the run.
        journal: Keeps the parts.
        header: Of the model.
        count: How many frames.

    Returns:
        Each frame in a few words, in order.
    """
    shares, unsure, places = [], [], []
    for number, (_, part) in enumerate(_parts(items, journal)):
        shares.append(share_rows([part["told"]["classes"]], header.label_space)[0])  # a small row, not the line
        unsure.append(part["told"]["uncertainty"])
        places.append(number)
    if not places:
        return []
    chosen = most_worth_labelling(np.stack(shares), np.array(unsure, np.float32), count)
    rank = {number: (place, distance) for place, (number, distance) in enumerate(chosen, 1)}
    found: dict[int, dict[str, Any]] = {}
    for number, (_, part) in enumerate(_parts(items, journal)):
        if number not in rank:
            continue
        place, distance = rank[number]
        image = f"{DATASET}/{Frame.from_json(part['frame']).image}" if "frame" in part else None
        found[place] = label_row(place, part["told"], distance, image)
    rows = [found[place] for place in sorted(found)]
    with atomic_path(out / TO_LABEL_NAME) as temporary:
        text = "".join(json_safe(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")
    return [
        row["input"] if row["frame"] is None else f"{row['input']} frame {row['frame']} ({row['time']:.2f} s)"
        for row in rows
    ]


def ignored_below(labels: np.ndarray, confidence: np.ndarray, threshold: float, classes: Sequence[int]) -> np.ndarray:
    """Labels to train on: 255 where the model is not sure enough, or names a class that it was not trained on.

    Args:
        labels: uint8 (H, W) trainIds.
        confidence: float32 (H, W) in [0, 1].
        threshold: Least confidence that counts.
        classes: TrainIds that the model was trained on.

    Returns:
        uint8 (H, W).
    """
    known = np.zeros(256, bool)
    known[list(classes)] = True
    return np.where((confidence >= threshold) & known[labels], labels, np.uint8(IGNORE))


def _by_name(counts: Counter[int], space: LabelSpace) -> dict[str, int]:
    return {"ignore" if i == IGNORE else space.names[i]: counts[i] for i in sorted(counts)}


def _of(frame: Frame, names: set[str]) -> bool:
    """Whether a frame of the data set comes from one of these inputs."""
    path = PurePosixPath(frame.image).relative_to("images")
    return path.parent.as_posix() in names or path.as_posix().removesuffix(path.suffix) in names


def _parts(items: Sequence[Input], journal: Journal) -> Iterator[tuple[Input, dict[str, Any]]]:
    for item in items:
        for line in _lines(journal.part(item)):
            yield item, json.loads(line)


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        return
