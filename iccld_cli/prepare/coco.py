"""The JSON of COCO, one file for many images (cocodataset.org, "Data format"; also what CVAT and others export).

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 480, "height": 360}, ...],
     "categories": [{"id": 3, "name": "road"}, ...],
     "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [[x, y, x, y, ...], ...]}, ...]}

`segmentation` is a list of polygons, or a run-length code of a mask (`counts` as numbers or packed into text, column by
column). An annotation without it may have `keypoints` [x, y, visible, ...], which are taken as points; a box alone says
nothing of pixels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iccld_cli.data.checks import MAX_PIXELS
from iccld_cli.errors import IccldError
from iccld_cli.prepare.shapes import Shape
from iccld_cli.prepare.tree import Tree
from iccld_cli.reading import parse_json


@dataclass(frozen=True)
class Coco:
    """A parsed file.

    Attributes:
        sizes: `file_name` -> (width, height).
        categories: Category id -> name.
        annotations: `file_name` -> its annotations, as they stand in the file.
        by_last: Last part of `file_name` -> the whole, where it is the only one.
    """

    sizes: dict[str, tuple[int, int]]
    categories: dict[int, str]
    annotations: dict[str, list[dict[str, Any]]]
    by_last: dict[str, str] = field(default_factory=dict)

    def name_of(self, image: str) -> str | None:
        """The `file_name` of an image.

        Args:
            image: Its path below the images' folder.

        Returns:
            The name with annotations; None where the file has none of that image.
        """
        name = image if image in self.sizes else self.by_last.get(image.rpartition("/")[2])
        return name if name is not None and self.annotations.get(name) else None

    def shapes(self, name: str) -> list[Shape]:
        """The shapes of an image.

        Raises:
            IccldError: One cannot be read; the message starts with "has".
        """
        found: list[Shape] = []
        for raw in self.annotations[name]:
            where = f"has an annotation of {name} (id {str(raw.get('id'))[:20]})"
            of = raw.get("category_id")
            label = self.categories.get(of) if isinstance(of, int) else None
            if label is None:
                raise IccldError(f"{where} of a category that it does not name")
            found += _shapes(raw, label, where)
        return found


def read_coco(tree: Tree, path: str) -> Coco:
    """Read a file; once in each process, for it holds the labels of many images.

    Raises:
        IccldError: It is damaged, or no file of COCO.
    """
    key = (tree.describe(), path, tree.stamp(path))
    if key not in _READ:
        found = parsed_coco(tree.read(path))
        _READ.clear()
        _READ[key] = found
    return _READ[key]


_READ: dict[tuple[Any, ...], Coco] = {}
"""The file that was read last, by where it lies and its version."""


def parsed_coco(data: bytes) -> Coco:
    """Read the content of a file; see `read_coco`."""
    raw, lists = parse_json(data), ("images", "annotations", "categories")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in lists):
        raise IccldError("has no lists `images`, `annotations` and `categories`, so it is no file of COCO")
    try:
        names = {image["id"]: str(image["file_name"]).replace("\\", "/") for image in raw["images"]}
        sizes = {str(i["file_name"]).replace("\\", "/"): (int(i["width"]), int(i["height"])) for i in raw["images"]}
        categories = {category["id"]: str(category["name"]) for category in raw["categories"]}
        annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in raw["annotations"]:
            annotations[names[entry["image_id"]]].append(entry)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise IccldError(f"is damaged ({type(error).__name__}: {str(error)[:80]})") from None
    last = Counter(name.rpartition("/")[2] for name in sizes)
    by_last = {name.rpartition("/")[2]: name for name in sizes if last[name.rpartition("/")[2]] == 1}
    return Coco(sizes, categories, dict(annotations), by_last)


def _shapes(raw: dict[str, Any], label: str, where: str) -> list[Shape]:
    outline, points = raw.get("segmentation"), raw.get("keypoints")
    try:
        if isinstance(outline, dict):
            return [Shape(label, "mask", ((0.0, 0.0),), _unpacked(outline, where))]
        if outline:
            return [Shape(label, "polygon", _pairs(polygon, 2, 3)) for polygon in outline]
        if points:
            seen = [part for i in range(0, len(points), 3) if points[i + 2] > 0 for part in points[i : i + 3]]
            return [Shape(label, "points", _pairs(seen, 3, 1))] if seen else []
    except (LookupError, TypeError, ValueError, OverflowError):
        raise IccldError(f"{where} whose outline or points are no numbers [x, y, ...]") from None
    raise IccldError(f"{where} with a box alone, which says nothing of its pixels")


def _pairs(numbers: Any, step: int, least: int) -> tuple[tuple[float, float], ...]:
    pairs = tuple((float(numbers[i]), float(numbers[i + 1])) for i in range(0, len(numbers), step))
    if len(pairs) < least or not all(abs(side) < 1e9 for pair in pairs for side in pair):
        raise ValueError
    return pairs


def _unpacked(raw: dict[str, Any], where: str) -> np.ndarray:
    """A mask of its run lengths: off, on, off..., down the columns."""
    height, width = (int(side) for side in raw["size"])
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise IccldError(f"{where} whose mask is {width}x{height} pixels, which cannot be drawn")
    counts = raw["counts"]
    runs = np.array(_numbers(counts) if isinstance(counts, str) else counts, np.int64)
    filled = runs.ndim == 1 and ((runs >= 0) & (runs <= height * width)).all() and int(runs.sum()) == height * width
    if not filled:
        raise IccldError(f"{where} whose run lengths do not fill its {width}x{height} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _numbers(text: str) -> list[int]:
    """Run lengths of their packed form: five bits a letter, from the third on as the difference to the last but one."""
    found: list[int] = []
    value = shift = 0
    for letter in text:
        part = ord(letter) - 48
        if not 0 <= part < 64 or shift > 60:
            raise ValueError
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    return found
