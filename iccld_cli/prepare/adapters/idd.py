"""IDD: real frames of Indian roads; the full set with polygons, and IDD-Lite with seven coarse classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, train_ids
from iccld_cli.prepare.tree import Tree, join, locate

if TYPE_CHECKING:
    import numpy as np

IDD_CLASSES: tuple[tuple[str, int, str | None], ...] = (
    # name, level 3 id, Cityscapes class
    ("road", 0, "road"),
    ("parking", 1, None),
    ("drivable fallback", 1, None),
    ("sidewalk", 2, "sidewalk"),
    ("rail track", 3, None),
    ("non-drivable fallback", 3, "terrain"),
    ("person", 4, "person"),
    ("animal", 4, None),
    ("rider", 5, "rider"),
    ("motorcycle", 6, "motorcycle"),
    ("bicycle", 7, "bicycle"),
    ("autorickshaw", 8, None),
    ("car", 9, "car"),
    ("truck", 10, "truck"),
    ("bus", 11, "bus"),
    ("caravan", 12, None),
    ("trailer", 12, None),
    ("train", 12, "train"),
    ("vehicle fallback", 12, None),
    ("curb", 13, None),
    ("wall", 14, "wall"),
    ("fence", 15, "fence"),
    ("guard rail", 16, None),
    ("billboard", 17, None),
    ("traffic sign", 18, "traffic sign"),
    ("traffic light", 19, "traffic light"),
    ("pole", 20, "pole"),
    ("polegroup", 20, None),
    ("obs-str-bar-fallback", 21, None),
    ("building", 22, "building"),
    ("bridge", 23, None),
    ("tunnel", 23, None),
    ("vegetation", 24, "vegetation"),
    ("sky", 25, "sky"),
    ("fallback background", 25, None),
    ("unlabeled", 255, None),
    ("ego vehicle", 255, None),
    ("rectification border", 255, None),
    ("out of roi", 255, None),
    ("license plate", 255, None),
)
"""Names in the order of their ids, with level 3 id and Cityscapes class (AutoNUE/public-code, anue_labels.py)."""

IDD_IDS: dict[int, str | None] = {**{i: c for i, (_, _, c) in enumerate(IDD_CLASSES)}, 255: None}
IDD_NAMES: dict[str, str | None] = {name: c for name, _, c in IDD_CLASSES}
IDD_LEVEL3: dict[int, str | None] = {
    # Level 3 merges a rare ignored class with a common one in four places; the common one counts. In 12 (caravan,
    # trailer, train, other vehicles) none is common, so it is ignored.
    **{level: c for _, level, c in reversed(IDD_CLASSES) if level not in (3, 12)},
    3: "terrain",
    12: None,
}

IDD_LITE = LabelSpace(
    "idd-lite7",
    ("drivable", "non-drivable", "living things", "vehicles", "roadside objects", "far objects", "sky"),
    ((128, 64, 128), (244, 35, 232), (220, 20, 60), (0, 0, 142), (190, 153, 153), (70, 70, 70), (70, 130, 180)),
)
"""The seven level 1 classes of IDD-Lite (AutoNUE/public-code, column `level1Id`)."""

_KINDS = ("labelids.png", "labellevel3Ids.png", "labelcsTrainIds.png", "polygons.json")
_LOOKED_AT = 50


class Idd(Adapter):
    """`leftImg8bit/<split>/<drive>/*_leftImg8bit.png` with `gtFine/<split>/<drive>/*_gtFine_polygons.json`.

    Label images made from the polygons by the data set's own tools are read where they lie beside them.
    IDD-Lite (`*_image.jpg`, `*_label.png`) keeps its seven coarse classes in a label space of its own.
    """

    name = "idd"
    help = "IDD, the full set or IDD-Lite."
    ids = IDD_IDS

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Tell IDD-Lite from the full set."""
        super().__init__(tree, options, labelled)
        self._base = locate(tree, ("leftImg8bit",))
        self.lite = self._base is not None and any(
            path.endswith("_image.jpg")
            for path in itertools.islice(tree.walk(join(self._base, "leftImg8bit")), _LOOKED_AT)
        )
        if self.lite:
            self.label_space = IDD_LITE
            self.ids = train_ids(IDD_LITE)

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of train, val and test."""
        if self._base is None:
            raise IccldError(f"no IDD in {self.tree.describe()}", "expected leftImg8bit/ and gtFine/ there")
        for split in ("train", "val", "test"):
            labels = locate(self.tree, (f"gtFine/{split}",)) if self.labelled and split != "test" else None
            start = join(self._base, "leftImg8bit", split)
            for image in self.tree.walk(start):
                frame, ending = image[len(start) + 1 :].rsplit("_", 1)
                if ending in ("leftImg8bit.png", "leftImg8bit.jpg", "image.jpg"):
                    label = None
                    if labels is not None:
                        label = self._label(join(labels, "gtFine", split, frame))
                    yield RawFrame(split, frame, image, label)

    def _label(self, start: str) -> str:
        if self.lite:
            return f"{start}_label.png"
        for kind in _KINDS:
            if self.tree.stamp(f"{start}_gtFine_{kind}"):
                break
        return f"{start}_gtFine_{kind}"

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, by the kind of its file."""
        assert frame.label is not None
        kind = frame.label.rsplit("_", 1)[1]
        if kind == "polygons.json":
            from iccld_cli.prepare.polygons import draw

            return draw(self.tree.read(frame.label), IDD_NAMES, CITYSCAPES)
        tables = {"labellevel3Ids.png": IDD_LEVEL3, "labelcsTrainIds.png": train_ids(self.label_space)}
        return self.map_with(frame, tables.get(kind, self.ids))
