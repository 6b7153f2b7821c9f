"""Mapillary Vistas: real street images of the whole world, of many sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.prepare.adapters.base import Adapter, Choice, RawFrame
from iccld_cli.prepare.tree import Tree, join, locate, stem, suffix

MAPILLARY_CLASSES: dict[str, str | None] = {
    "construction--barrier--curb": "sidewalk",
    "construction--barrier--fence": "fence",
    "construction--barrier--wall": "wall",
    "construction--flat--bike-lane": "road",
    "construction--flat--crosswalk-plain": "road",
    "construction--flat--curb-cut": "sidewalk",
    "construction--flat--pedestrian-area": "sidewalk",
    "construction--flat--road": "road",
    "construction--flat--road-shoulder": None,
    "construction--flat--service-lane": "road",
    "construction--flat--sidewalk": "sidewalk",
    "construction--flat--traffic-island": "sidewalk",
    "construction--structure--building": "building",
    "construction--structure--garage": "building",
    "human--person": "person",
    "human--rider": "rider",
    "marking": "road",
    "marking-only": "road",
    "nature--sand": "terrain",
    "nature--sky": "sky",
    "nature--terrain": "terrain",
    "nature--vegetation": "vegetation",
    "object--catch-basin": "road",
    "object--manhole": "road",
    "object--pothole": "road",
    "object--support--pole": "pole",
    "object--support--pole-group": None,
    "object--support--utility-pole": "pole",
    "object--traffic-light": "traffic light",
    "object--traffic-sign--direction-front": "traffic sign",
    "object--traffic-sign--front": "traffic sign",
    "object--traffic-sign--information-parking": "traffic sign",
    "object--traffic-sign--temporary-front": "traffic sign",
    "object--vehicle--bicycle": "bicycle",
    "object--vehicle--bus": "bus",
    "object--vehicle--car": "car",
    "object--vehicle--motorcycle": "motorcycle",
    "object--vehicle--on-rails": "train",
    "object--vehicle--truck": "truck",
}
"""Category names of `config_v1.2.json` and `config_v2.0.json`, whole or up to a `--`, by the definitions of the
Cityscapes classes; the longest entry counts, and a category without an entry is ignored. Cityscapes ignores
parking, rail track, guard rail, bridge, tunnel, pole group, caravan and trailer as well."""

_SPLITS = {"training": "train", "validation": "val", "testing": "test"}


class Mapillary(Adapter):
    """`training/images/*.jpg` with `training/labels/*.png` (v1.2) or `training/v2.0/labels/*.png`.

    Labels are palette PNGs whose index is the position in the `labels` of `config_v1.2.json` or `config_v2.0.json`.
    """

    name = "mapillary"
    help = "Mapillary Vistas, v1.2 or v2.0."
    choices: ClassVar[Mapping[str, Choice]] = {
        "version": Choice("auto", ("auto", "1.2", "2.0"), "which labels; auto takes 2.0 where there are both")
    }

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Find the labels' version and read its table."""
        super().__init__(tree, options, labelled)
        base = locate(tree, ("training/images",))
        base = locate(tree, ("validation/images",)) if base is None else base
        if base is None:
            raise IccldError(f"no Mapillary Vistas in {tree.describe()}", "expected training/images/ there")
        self._base = base
        self._labels = self._find_labels() if labelled else None
        self.labelled = self._labels is not None
        self.ids = self._table()

    def _find_labels(self) -> str | None:
        wanted = self.options["version"]
        for version, folder in (("2.0", "v2.0/labels"), ("1.2", "v1.2/labels"), ("1.2", "labels")):
            if wanted in ("auto", version) and any(
                self.tree.is_folder(join(self._base, split, folder)) for split in _SPLITS
            ):
                self.options["version"] = version
                return folder
        if wanted != "auto":
            raise IccldError(f"no Mapillary labels of version {wanted} in {self.tree.describe()}")
        return None

    def _table(self) -> dict[int, str | None]:
        if self._labels is None:
            return {}
        version = self.options["version"]
        for name in (f"config_v{version}.json", "config.json"):
            path = join(self._base, name)
            if self.tree.stamp(path):
                try:
                    names = [entry["name"] for entry in json.loads(self.tree.read(path))["labels"]]
                except (ValueError, KeyError, TypeError) as error:
                    raise IccldError(f"{path} cannot be read ({error!r})", "download it again") from None
                return {index: class_of(name) for index, name in enumerate(names)}
        raise IccldError(
            f"{self.tree.describe()} has no config_v{version}.json", "it comes with the data set and names its labels"
        )

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of training, validation and testing."""
        for folder, split in _SPLITS.items():
            labels = self._labels and join(self._base, folder, self._labels)
            if labels and not self.tree.is_folder(labels):
                labels = None
            for image in self.tree.walk(join(self._base, folder, "images")):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    yield RawFrame(split, name, image, join(labels, f"{name}.png") if labels else None)


def class_of(category: str) -> str | None:
    """The class of a Mapillary category name, None where it is ignored."""
    parts = category.split("--")
    for end in range(len(parts), 0, -1):
        start = "--".join(parts[:end])
        if start in MAPILLARY_CLASSES:
            return MAPILLARY_CLASSES[start]
    return None
