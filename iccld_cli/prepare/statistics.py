"""What training and the user need to know about a data set: counts, shares, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iccld_cli.data.prepared import Frame
from iccld_cli.files import atomic_path
from iccld_cli.labels import IGNORE, LabelSpace

MOST_DOUBTS = 100
"""Doubtful files that are listed by name."""


@dataclass
class Totals:
    """Sums over the frames, taken in the index's order so that they come out the same each time."""

    splits: dict[str, int] = field(default_factory=dict)
    pixels: dict[int, int] = field(default_factory=dict)
    frames_with: dict[int, int] = field(default_factory=dict)
    labelled: int = 0
    area: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    squares: list[float] = field(default_factory=lambda: [0.0] * 3)
    passed_over: dict[str, int] = field(default_factory=dict)
    doubtful: int = 0
    doubts: list[dict[str, str]] = field(default_factory=list)

    def add(self, frame: Frame, record: dict[str, Any]) -> None:
        """Add a frame and its record, see `iccld_cli.prepare.worker.process`."""
        mean, std = record["mean"], record["std"]
        self.splits[frame.split] = self.splits.get(frame.split, 0) + 1
        for train_id, count in (frame.pixels or {}).items():
            self.pixels[train_id] = self.pixels.get(train_id, 0) + count
            self.frames_with[train_id] = self.frames_with.get(train_id, 0) + 1
        self.labelled += frame.label is not None
        area = frame.width * frame.height
        self.area += area
        for channel in range(3):
            self.sums[channel] += mean[channel] * area
            self.squares[channel] += (std[channel] ** 2 + mean[channel] ** 2) * area
        for name in record.get("passed_over", ()):
            self.passed_over[name] = self.passed_over.get(name, 0) + 1
        if "doubt" in record:
            self.doubtful += 1
            if len(self.doubts) < MOST_DOUBTS:
                self.doubts.append(record["doubt"])

    def to_json(self, space: LabelSpace) -> dict[str, Any]:
        """Further fields of `dataset.json`.

        Returns:
            `mean` and `std` per channel R, G, B over all pixels, of values in [0, 1]; `labelled` frames; and,
            where there are any, `pixels` and `frames` per class name ("ignore" for 255); `passed_over`, how often each
            name that no table knows came up in the labels; and `doubtful`, with how many `frames` the decoder remarked
            something about, and `examples`, where it did.
        """
        means = [total / max(1, self.area) for total in self.sums]
        variances = [s / max(1, self.area) - m * m for s, m in zip(self.squares, means, strict=True)]
        extra: dict[str, Any] = {
            "mean": [round(m / 255, 6) for m in means],
            "std": [round(math.sqrt(max(0.0, v)) / 255, 6) for v in variances],
            "labelled": self.labelled,
        }
        if self.labelled:
            extra["pixels"] = {_name(i, space): self.pixels[i] for i in sorted(self.pixels)}
            extra["frames"] = {_name(i, space): self.frames_with[i] for i in sorted(self.frames_with)}
        if self.passed_over:
            extra["passed_over"] = dict(sorted(self.passed_over.items()))
        if self.doubtful:
            extra["doubtful"] = {"frames": self.doubtful, "examples": self.doubts}
        return extra


def _name(train_id: int, space: LabelSpace) -> str:
    return "ignore" if train_id == IGNORE else space.names[train_id]


def write_index(path: Path, records: Iterable[tuple[str, str, dict]], totals: Totals) -> None:
    """Write `index.jsonl`, line by line.

    Args:
        path: The file.
        records: Split, key and record of each frame, sorted.
        totals: Takes in each frame.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for frame, record in _frames(records):
            totals.add(frame, record)
            file.write(frame.to_json() + "\n")


def _frames(records: Iterable[tuple[str, str, dict]]) -> Iterator[tuple[Frame, dict]]:
    for split, _, record in records:
        image, *labels = record["files"]
        pixels = record.get("pixels")
        image_sha256, *label_sha256 = record.get("sha256") or [None]  # work begun by an older version has none
        yield (
            Frame(
                split=split,
                image=image,
                label=labels[0] if labels else None,
                width=record["width"],
                height=record["height"],
                pixels=None if pixels is None else {int(k): v for k, v in pixels.items()},
                image_sha256=image_sha256,
                label_sha256=label_sha256[0] if label_sha256 else None,
            ),
            record,
        )
