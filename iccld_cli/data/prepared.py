"""The prepared data set: what `iccld prepare` writes and everything else reads.

    DATA/<name>/
        dataset.json    one object, see `DatasetInfo`
        index.jsonl     one object per frame and line, see `Frame`
        images/...      RGB images, JPEG or PNG
        labels/...      8-bit single-channel PNG of trainIds, 255 = ignore; absent for unlabelled data
        ignored.png     8-bit grey, 255 where pixels are not the scene (bonnet, time stamp), if there are such

A frame's `image` and `label` are paths relative to the data set's folder, with forward slashes, and do not leave it.

Nothing of a set is taken on trust: a file that is not what was prepared (its checksum, size or ids), or that lies
elsewhere, is an error when it is read, and never trained or scored on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.data.checks import MAX_PIXELS, check_header, decode_image
from iccld_cli.data.fixed import fitted_region
from iccld_cli.data.labelfiles import decode_channels
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, IGNORE, LabelSpace
from iccld_cli.reading import ReadError, kind_problem, read_bytes, read_json

FORMAT_VERSION = 1
INFO_NAME = "dataset.json"
INDEX_NAME = "index.jsonl"
IGNORED_NAME = "ignored.png"
_AGAIN = "prepare the data set again"
_LONGEST_LINE = 1 << 20
_MOST_PIXELS = MAX_PIXELS  # of a frame


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
        image_sha256: Checksum of the image file, in hex; None in sets prepared by older versions.
        label_sha256: Checksum of the label file.
    """

    split: str
    image: str
    label: str | None
    width: int
    height: int
    pixels: dict[int, int] | None
    image_sha256: str | None = None
    label_sha256: str | None = None

    def to_json(self) -> str:
        """The frame as one line of JSON without a line end."""
        raw = asdict(self)
        if self.pixels is not None:
            raw["pixels"] = {str(k): v for k, v in sorted(self.pixels.items())}
        for key in ("image_sha256", "label_sha256"):
            if raw[key] is None:
                del raw[key]
        return json.dumps(raw, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Frame:
        """Read a line written by `to_json`.

        Raises:
            ValueError: A field is missing or of another kind, or a path leaves the data set's folder.
        """
        raw = json.loads(line)
        if not isinstance(raw, dict):
            raise ValueError("no object")
        pixels = raw["pixels"]
        return cls(
            split=_checked(raw["split"], str),
            image=_path_inside(raw["image"]),
            label=None if raw["label"] is None else _path_inside(raw["label"]),
            width=_count(raw["width"], 1, _MOST_PIXELS),
            height=_count(raw["height"], 1, _MOST_PIXELS),
            pixels=None if pixels is None else {_count(int(k), 0, IGNORE): _count(v, 0) for k, v in pixels.items()},
            image_sha256=_sha256_or_none(raw.get("image_sha256")),
            label_sha256=_sha256_or_none(raw.get("label_sha256")),
        )


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value


def _count(value: Any, least: int, most: int = 1 << 62) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]} is no number from {least} to {most}")
    return value


def _path_inside(value: Any) -> str:
    path = _checked(value, str)
    # A drive letter or a backslash leads out on Windows, where the same set may be read.
    if not path or path.startswith("/") or ".." in re.split(r"[/\\]", path) or path[1:2] == ":" or "\0" in path:
        raise _OutsideError(path)
    return path


class _OutsideError(ValueError):
    pass


def _sha256_or_none(value: Any) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9a-f]{64}", _checked(value, str)):
        raise ValueError("no sha256")
    return value


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    Attributes:
        name: Name of the data set, also its folder's.
        label_space: Classes that the trainIds of the labels index.
        classes_known: Names of the classes that the labels distinguish; None where there are no labels.
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
        if _checked(raw, dict)["format_version"] != FORMAT_VERSION:
            raise IccldError(f"data set format {raw['format_version']} is not supported", "prepare it again")
        known, size = raw["classes_known"], raw["size"]
        space = LabelSpace.from_json(raw["label_space"])
        covers = _checked(raw.get("covers", {}), dict)
        if known is not None:
            space.ids_of(_checked(name, str) for name in _checked(known, list))
        space.ids_of([*covers, *(_checked(name, str) for name in covers.values())])
        if size is not None and len(_checked(size, list)) != 2:
            raise ValueError("size is not of two numbers")
        return cls(
            name=_checked(raw["name"], str),
            label_space=space,
            classes_known=None if known is None else tuple(known),
            splits={k: _count(v, 0) for k, v in _checked(raw["splits"], dict).items()},
            size=None if size is None else (_count(size[0], 1, _MOST_PIXELS), _count(size[1], 1, _MOST_PIXELS)),
            source=_checked(raw["source"], dict),
            tool_version=_checked(raw["tool_version"], str),
            skipped=tuple(_checked(entry, dict) for entry in _checked(raw["skipped"], list)),
            covers=dict(covers),
            extra=_check_extra({k: v for k, v in raw.items() if k not in own}, space),
        )

    def known_ids(self) -> tuple[int, ...] | None:
        """TrainIds of `classes_known`, or None where there are no labels."""
        return None if self.classes_known is None else self.label_space.ids_of(self.classes_known)


def _check_extra(extra: dict[str, Any], space: LabelSpace) -> dict[str, Any]:
    """Look at the statistics that others compute with; what they do not know is passed over."""
    for key in ("pixels", "frames"):
        for name, count in _checked(extra.get(key, {}), dict).items():
            if name != "ignore" and name not in space.names:
                raise ValueError(f"{key} names {name!r}")
            _count(count, 0)
    _count(extra.get("labelled", 0), 0)
    for key in ("duplicates", "doubtful"):
        _count(_checked(extra.get(key, {}), dict).get("frames", 0), 0)
    return extra


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
        for path in (info_path, index_path):
            if problem := kind_problem(path):
                raise IccldError(f"{path} {problem}", _AGAIN)
        if not info_path.is_file() or not index_path.is_file():
            raise IccldError(f"{self.root} has no {INFO_NAME} and {INDEX_NAME}", hint)
        try:
            self.info = DatasetInfo.from_json(read_json(info_path))
        except ReadError as error:
            raise IccldError(f"{info_path} {error.message}", _AGAIN) from None
        except IccldError as error:
            raise IccldError(f"{info_path}: {error.message}", error.hint or _AGAIN) from None
        except (KeyError, TypeError, ValueError) as error:
            raise IccldError(f"{info_path} is damaged ({error!r})", _AGAIN) from None
        try:
            self.digest = _sha256(index_path)
        except OSError as error:
            raise IccldError(f"{index_path} cannot be read ({error.strerror})", _AGAIN) from None
        self._region: np.ndarray | None = None
        self._inside = os.path.realpath(self.root)
        self._limit = len(self.info.label_space)

    def iter_frames(self, split: str | None = None) -> Iterator[Frame]:
        """Read the index line by line.

        Args:
            split: Only frames of this split; None for all.

        Raises:
            IccldError: A line is damaged, or names a file outside the data set's folder.
        """
        path = self.root / INDEX_NAME
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):  # a file without line ends does not fill the memory
                number += 1
                try:
                    frame = Frame.from_json(line.decode("utf-8"))
                except _OutsideError as error:
                    raise IccldError(
                        f"{path} line {number} names {str(error)[:200]!r}, which is not inside the data set's folder",
                        "prepare the data set again, and do not use sets that others have tampered with",
                    ) from None
                except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                    raise IccldError(f"{path} line {number} is damaged", _AGAIN) from None
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
            IccldError: The file is missing, is not the one that was prepared, or cannot be decoded.
        """
        path = self.root / frame.image
        try:
            data = self._read(path, frame.image_sha256)
            if frame.image_sha256 is None:  # nothing vouches for the file: look at all of it
                image = decode_image(data).pixels
            else:
                check_header(data)
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                if image is None:
                    raise IccldError("cannot be decoded")
            _check_size(image, frame)
        except IccldError as error:
            raise IccldError(f"cannot read image {path}: it {error.message}", _AGAIN) from None
        except cv2.error:
            raise IccldError(f"cannot read image {path}: memory ran out or it is damaged", _AGAIN) from None
        return image

    def read_label(self, frame: Frame) -> np.ndarray:
        """Decode a label.

        Returns:
            uint8 (H, W) of trainIds, 255 = ignore; of the image's size, and without ids outside the label space.

        Raises:
            IccldError: The frame has no label, or the file is missing, is not the one that was prepared, or cannot be
                decoded.
        """
        if frame.label is None:
            raise IccldError(f"{self.root / frame.image} has no label")
        path = self.root / frame.label
        try:
            data = self._read(path, frame.label_sha256)
            if frame.label_sha256 is None:
                label = decode_channels(data)
                label = label[..., 0] if label.shape[2] == 1 else label
            else:
                check_header(data)
                label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if label is None or label.ndim != 2 or label.dtype != np.uint8:
                raise IccldError("is not an 8-bit picture of one channel")
            _check_size(label, frame)
            beyond = label >= self._limit
            if beyond.any() and (found := np.setdiff1d(label[beyond], [IGNORE])).size:
                raise IccldError(f"holds the label value {found[0]}, and there are {self._limit} classes")
        except IccldError as error:
            raise IccldError(f"cannot read label {path}: it {error.message}", _AGAIN) from None
        except cv2.error:
            raise IccldError(f"cannot read label {path}: memory ran out or it is damaged", _AGAIN) from None
        return label

    def ignored(self, frame: Frame) -> np.ndarray | None:
        """Where a frame shows something that is not the scene, and nothing may be learnt.

        Returns:
            bool (H, W), True there; None where the data set has no such region.

        Raises:
            IccldError: The picture of the region is missing, is not the one that was prepared, or has another shape.
        """
        if self._region is None and (sha256 := self.info.extra.get("ignored")) is not None:
            path = self.root / IGNORED_NAME
            try:
                self._region = decode_channels(self._read(path, str(sha256)))[..., 0] > 127
            except IccldError as error:
                raise IccldError(f"cannot read {path}: it {error.message}", _AGAIN) from None
        return None if self._region is None else fitted_region(self._region, (frame.height, frame.width))

    def _read(self, path: Path, sha256: str | None) -> bytes:
        real = os.path.realpath(path)
        if not real.startswith(os.path.join(self._inside, "")):
            raise IccldError(f"is a link to {real}, outside the data set's folder")
        data = read_bytes(path)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise IccldError("is not the file that was prepared, its checksum differs")
        return data


def labelled_pixels(frames: Iterable[Frame], ids: Iterable[int]) -> int | None:
    """Pixels of some classes in all, by the index.

    Args:
        frames: The frames.
        ids: TrainIds of the classes.

    Returns:
        Their number; None where a labelled frame does not say.
    """
    wanted, total = frozenset(ids), 0
    for frame in frames:
        if frame.label is None:
            continue
        if frame.pixels is None:
            return None
        total += sum(count for train_id, count in frame.pixels.items() if train_id in wanted)
    return total


def _check_size(pixels: np.ndarray, frame: Frame) -> None:
    height, width = pixels.shape[:2]
    if (width, height) != (frame.width, frame.height):
        raise IccldError(f"is {width}x{height}, the index says {frame.width}x{frame.height}")


def _sha256(path: Path) -> str:
    # In pieces: the index of a million frames is larger than everything else that preparing holds.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
