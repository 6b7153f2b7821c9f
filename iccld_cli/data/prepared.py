"""The prepared data set: what `iccld prepare` writes and everything else reads.

    DATA/<name>/
        dataset.json    one object, see `DatasetInfo`
        index.jsonl     one object per frame and line, see `Frame`
        images/...      RGB images, JPEG or PNG
        labels/...      8-bit single-channel PNG of trainIds, 255 = ignore; absent for unlabelled data

A frame's `image` and `label` are paths relative to the data set's folder, with forward slashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace

FORMAT_VERSION = 1
INFO_NAME = "dataset.json"
INDEX_NAME = "index.jsonl"


@dataclass(frozen=True)
class Frame:
    """One line of `index.jsonl`.

    Attributes:
        split: `train`, `val` or `test` (or a data set's own further name, such as `extra`).
        image: Path of the image, relative to the data set's folder.
        label: Path of the trainId PNG, or None where the frame has no label.
        width: Width in pixels.
        height: Height in pixels.
        pixels: Number of pixels of each trainId that occurs, 255 included; None without a label.
    """

    split: str
    image: str
    label: str | None
    width: int
    height: int
    pixels: dict[int, int] | None

    def to_json(self) -> str:
        """The frame as one line of JSON without a line end."""
        raw = asdict(self)
        if self.pixels is not None:
            raw["pixels"] = {str(k): v for k, v in sorted(self.pixels.items())}
        return json.dumps(raw, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Frame:
        """Read a line written by `to_json`."""
        raw = json.loads(line)
        pixels = raw["pixels"]
        return cls(
            split=raw["split"],
            image=raw["image"],
            label=raw["label"],
            width=int(raw["width"]),
            height=int(raw["height"]),
            pixels=None if pixels is None else {int(k): int(v) for k, v in pixels.items()},
        )


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    Attributes:
        name: Name of the data set, also its folder's.
        label_space: Classes that the trainIds of the labels index.
        classes_known: Names of the classes that the labels tell apart; None where there are no labels.
        splits: Number of frames of each split.
        size: (width, height) that every frame was resized to, or None where frames keep their own size.
        source: Where it came from: at least `adapter` and `path`, and the options used.
        tool_version: Version of iccld that wrote it.
        skipped: Files left out, each with `file` and `reason`.
        covers: Class name -> name of the known class that its pixels carry here, such as truck -> car where
            every vehicle is labelled car.
        extra: Further facts of the adapter or the statistics (mean, std, ...).
    """

    name: str
    label_space: LabelSpace = CITYSCAPES
    classes_known: tuple[str, ...] | None = None
    splits: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    tool_version: str = ""
    skipped: tuple[dict[str, str], ...] = ()
    covers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that `dataset.json` holds."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "label_space": self.label_space.to_json(),
            "classes_known": None if self.classes_known is None else list(self.classes_known),
            "splits": dict(self.splits),
            "count": sum(self.splits.values()),
            "size": None if self.size is None else list(self.size),
            "source": self.source,
            "tool_version": self.tool_version,
            "skipped": list(self.skipped),
            **({"covers": self.covers} if self.covers else {}),
            **self.extra,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DatasetInfo:
        """Read an object written by `to_json`."""
        own = {
            "format_version",
            "name",
            "label_space",
            "classes_known",
            "splits",
            "count",
            "size",
            "source",
            "tool_version",
            "skipped",
            "covers",
        }
        if raw["format_version"] != FORMAT_VERSION:
            raise IccldError(f"data set format {raw['format_version']} is not supported", "prepare it again")
        known, size = raw["classes_known"], raw["size"]
        return cls(
            name=raw["name"],
            label_space=LabelSpace.from_json(raw["label_space"]),
            classes_known=None if known is None else tuple(known),
            splits={k: int(v) for k, v in raw["splits"].items()},
            size=None if size is None else (int(size[0]), int(size[1])),
            source=raw["source"],
            tool_version=raw["tool_version"],
            skipped=tuple(raw["skipped"]),
            covers=dict(raw.get("covers", {})),
            extra={k: v for k, v in raw.items() if k not in own},
        )

    def known_ids(self) -> tuple[int, ...] | None:
        """TrainIds of `classes_known`, or None where there are no labels."""
        return None if self.classes_known is None else self.label_space.ids_of(self.classes_known)


class PreparedDataset:
    """A prepared data set, opened for reading.

    Attributes:
        root: Folder of the data set.
        info: Content of `dataset.json`.
        digest: sha256 of `index.jsonl`, in hex; it names the exact frames a model was trained on.
    """

    def __init__(self, root: Path | str) -> None:
        """Open a folder that `iccld prepare` wrote.

        Args:
            root: The folder that holds `dataset.json`.

        Raises:
            IccldError: The folder is missing, is not a prepared data set or cannot be read.
        """
        self.root = Path(root)
        hint = "run `iccld prepare` first and give a folder it made, such as data/camvid"
        if not self.root.is_dir():
            raise IccldError(f"no prepared data set at {self.root}", hint)
        info_path, index_path = self.root / INFO_NAME, self.root / INDEX_NAME
        if not info_path.is_file() or not index_path.is_file():
            raise IccldError(f"{self.root} has no {INFO_NAME} and {INDEX_NAME}", hint)
        try:
            self.info = DatasetInfo.from_json(json.loads(info_path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise IccldError(f"{info_path} is damaged ({error!r})", "prepare the data set again") from None
        self.digest = _sha256(index_path)

    def iter_frames(self, split: str | None = None) -> Iterator[Frame]:
        """Read the index line by line.

        Args:
            split: Only frames of this split; None for all.

        Raises:
            IccldError: A line is damaged.
        """
        path = self.root / INDEX_NAME
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    frame = Frame.from_json(line)
                except (KeyError, TypeError, ValueError, AttributeError):
                    raise IccldError(f"{path} line {number} is damaged", "prepare the data set again") from None
                if split is None or frame.split == split:
                    yield frame

    def frames(self, split: str) -> list[Frame]:
        """All frames of a split.

        Raises:
            IccldError: The split does not exist or is empty.
        """
        found = list(self.iter_frames(split))
        if not found:
            have = ", ".join(f"{k} ({v})" for k, v in self.info.splits.items()) or "none"
            raise IccldError(f"{self.root} has no frames in split {split!r}", f"it has: {have}")
        return found

    def read_image(self, frame: Frame) -> np.ndarray:
        """Decode an image.

        Returns:
            uint8 (H, W, 3), RGB.

        Raises:
            IccldError: The file is missing or cannot be decoded.
        """
        path = self.root / frame.image
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise IccldError(f"cannot read image {path}", "prepare the data set again")
        return image

    def read_label(self, frame: Frame) -> np.ndarray:
        """Decode a label.

        Returns:
            uint8 (H, W) of trainIds, 255 = ignore.

        Raises:
            IccldError: The frame has no label, or the file is missing or cannot be decoded.
        """
        if frame.label is None:
            raise IccldError(f"{self.root / frame.image} has no label")
        path = self.root / frame.label
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if label is None or label.ndim != 2:
            raise IccldError(f"cannot read label {path}", "prepare the data set again")
        return label


def _sha256(path: Path) -> str:
    # In pieces: the index of a million frames is larger than everything else that preparing holds.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
