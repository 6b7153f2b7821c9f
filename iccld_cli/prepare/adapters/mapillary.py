"""Mapillary Vistas: real street images of the whole world, of many sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import Choice
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout
from iccld_cli.prepare.tree import Tree

if TYPE_CHECKING:
    from iccld_cli.prepare.layouts import Found

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

FIELD_RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("trafficsign", "front", "back"), "traffic sign"),
    (("onrail",), "train"),
    (("cyclist", "rider"), "rider"),
    (("pole", "streetlight"), "pole"),
    (("curb", "pedestrianarea"), "sidewalk"),
    (("crosswalkplain", "parking", "bikelane", "servicelane", "lanemarking"), "road"),
)
"""Parts of a readable name -> class, as published scores on Mapillary have it (openseg-group/openseg.pytorch, taken
over by w1oves/Rein, tools/convert_datasets/mapillary2cityscape.py): the first rule counts, after a name that is a class
itself. Sign backs and frames become signs, street lights and pole groups poles, parking road; manholes, sand, traffic
islands and all else are ignored."""

_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_VERSIONS = ("2.0", "1.2", "1.2")
"""Version of the labels by the order of `Mapillary.layouts`."""


class Mapillary(OfficialSet):
    """`training/images/*.jpg` with `training/labels/*.png` (v1.2) or `training/v2.0/labels/*.png`.

    Labels are palette PNGs whose index is the position in the `labels` of `config_v1.2.json` or `config_v2.0.json`.
    """

    name = "mapillary"
    help = "Mapillary Vistas, v1.2 or v2.0."
    choices: ClassVar[Mapping[str, Choice]] = {
        "version": Choice("auto", ("auto", "1.2", "2.0"), "which labels; auto takes 2.0 where there are both"),
        "classes": Choice(
            "definitions", ("definitions", "field"), "by the Cityscapes definitions, or as published scores have them"
        ),
    }
    layouts = (
        Layout(
            r"(?P<split>training|validation|testing)/images/(?P<name>[^/]+)\.(?:jpe?g|png)",
            (
                r"(?P<split>training|validation|testing)/v2\.0/labels/(?P<name>[^/]+)\.png",
                r"(?P<split>training|validation|testing)/v1\.2/labels/(?P<name>[^/]+)\.png",
                r"(?P<split>training|validation|testing)/labels/(?P<name>[^/]+)\.png",
            ),
            "{split}/labels/{name}.png",
            r"(?:training|validation|testing)/images/",
        ),
    )
    expected = "training/images/"
    extras = r"config(?:_v(?:1\.2|2\.0))?\.json"
    label_archive = "the folder labels/"
    # The paper (ICCV 2017) and the set's page: 25,000 images.
    official: Mapping[str, Part] = {"train": Part(18000), "val": Part(2000), "test": Part(5000)}

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Find the labels' version and read its table."""
        super().__init__(tree, options, labelled)
        found = self.find()
        if labelled:
            self._choose_version(found)
        self.labelled = bool(found.labels) and labelled
        self.ids = self._table(found) if self.labelled else {}

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name."""
        return _SPLITS[groups["split"]], groups["name"]

    def _choose_version(self, found: Found) -> None:
        """Keep the labels of one version."""
        wanted = self.options["version"]
        have = sorted({_VERSIONS[kind] for kinds in found.labels.values() for kind in kinds})
        if wanted != "auto" and wanted not in have:
            raise IccldError(f"no Mapillary labels of version {wanted} in {self.tree.describe()}")
        if not have:
            return
        self.options["version"] = version = have[-1] if wanted == "auto" else wanted
        kept = {
            key: {kind: paths for kind, paths in kinds.items() if _VERSIONS[kind] == version}
            for key, kinds in found.labels.items()
        }
        found.labels = {key: kinds for key, kinds in kept.items() if kinds}

    def _table(self, found: Found) -> dict[int, str | None]:
        version = self.options["version"]
        for name in (f"config_v{version}.json", "config.json"):
            paths = [path for path in found.extras if path.rsplit("/", 1)[-1] == name]
            tables = [self._read_table(path) for path in paths]
            if any(table != tables[0] for table in tables):
                raise IccldError(f"{paths[0]} and {paths[1]} name different labels", "remove one of them")
            if tables:
                return tables[0]
        raise IccldError(
            f"{self.tree.describe()} has no config_v{version}.json", "it comes with the data set and names its labels"
        )

    def _read_table(self, path: str) -> dict[int, str | None]:
        try:
            labels: list[dict[str, Any]] = json.loads(self.tree.read(path))["labels"]
            if self.options["classes"] == "field":
                names = [field_class_of(str(label.get("readable", label["name"]))) for label in labels]
            else:
                names = [class_of(label["name"]) for label in labels]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IccldError(f"{path} cannot be read ({error!r})", "download it again") from None
        return dict(enumerate(names))


def class_of(category: str) -> str | None:
    """The class of a Mapillary category name, None where it is ignored."""
    parts = category.split("--")
    for end in range(len(parts), 0, -1):
        start = "--".join(parts[:end])
        if start in MAPILLARY_CLASSES:
            return MAPILLARY_CLASSES[start]
    return None


def field_class_of(readable: str) -> str | None:
    """The class of a category by its readable name, as published scores have it; None where it is ignored."""
    name = readable.lower().replace(" ", "").replace("-", "")
    for known in CITYSCAPES.names:
        if name == known.replace(" ", ""):
            return known
    return next((known for parts, known in FIELD_RULES if any(part in name for part in parts)), None)
