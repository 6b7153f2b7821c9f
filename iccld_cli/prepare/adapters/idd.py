"""IDD: real frames of Indian roads; the full set with polygons, and IDD-Lite with seven coarse classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import RawFrame, train_ids
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout
from iccld_cli.prepare.tree import Tree

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

_NAME = r"(?P<name>[^/]+/(?![^/]*_\d{6}_\d{6}_left)[^/]+)"
"""A drive and a frame, which is not named as those of Cityscapes are."""


class Idd(OfficialSet):
    """`leftImg8bit/<split>/<drive>/*_leftImg8bit.png` with `gtFine/<split>/<drive>/*_gtFine_polygons.json`.

    Label images made from the polygons by the data set's own tools are read where they lie beside them.
    IDD-Lite (`*_image.jpg`, `*_label.png`) keeps its seven coarse classes in a label space of its own.
    """

    name = "idd"
    help = "IDD, the full set or IDD-Lite."
    ids = IDD_IDS
    layouts = (
        Layout(
            rf"leftImg8bit/(?P<split>train|val|test)/{_NAME}_leftImg8bit\.(?:png|jpg)",
            tuple(
                rf"gtFine/(?P<split>train|val)/{_NAME}_gtFine_{kind}"
                for kind in (
                    r"labelids\.png",
                    r"labellevel3Ids\.png",
                    r"labelcsTrainIds\.png",
                    r"polygons\.json",
                )
            ),
            "gtFine/{split}/{name}_gtFine_polygons.json",
            r"leftImg8bit/(?:train|val|test)/",
        ),
        Layout(
            rf"leftImg8bit/(?P<split>train|val|test)/{_NAME}_image\.jpg",
            (rf"gtFine/(?P<split>train|val)/{_NAME}_label\.png",),
            "gtFine/{split}/{name}_label.png",
        ),
    )
    expected = "leftImg8bit/ and gtFine/"
    label_archive = "gtFine/"
    # Both parts together: dataset-ninja/idd, SUMMARY.md.
    official: Mapping[str, Part] = {"train": Part(14027), "val": Part(2036), "test": Part(4038)}

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Recognise IDD-Lite or the full set.

        Raises:
            IccldError: Neither is there, or both are.
        """
        super().__init__(tree, options, labelled)
        lite = {paths[0].endswith("_image.jpg") for paths in self.find().images.values()}
        if len(lite) > 1:
            raise IccldError(f"{tree.describe()} holds both IDD and IDD-Lite", "give the folder of one of them")
        self.lite = lite == {True}
        if self.lite:
            self.label_space = IDD_LITE
            self.ids = train_ids(IDD_LITE)
            self.official = {}

    def difference(self, counts: Mapping[str, int]) -> str:
        """The counts, and which of the two parts is missing: the images of part I are PNG, those of part II JPEG."""
        line = super().difference(counts)
        if line and not self.lite:
            kinds = {path.rsplit(".", 1)[1] for paths in self.find().images.values() for path in paths}
            for kind, part in (("png", "part I (idd-segmentation.tar.gz)"), ("jpg", "part II (idd-20k-II.tar.gz)")):
                if kind not in kinds:
                    line += f": is {part} missing?"
        return line

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, by the kind of its file."""
        assert frame.label is not None
        kind = frame.label.rsplit("_", 1)[1]
        if kind == "polygons.json":
            from iccld_cli.prepare.polygons import draw

            return draw(self.tree.read(frame.label), IDD_NAMES, CITYSCAPES, self.passed_over)
        tables = {"labellevel3Ids.png": IDD_LEVEL3, "labelcsTrainIds.png": train_ids(self.label_space)}
        return self.map_with(frame, tables.get(kind, self.ids))

    def label_values(self, frame: RawFrame) -> dict[str, str | None]:
        """Names of polygons, or ids."""
        assert frame.label is not None
        if not frame.label.endswith("polygons.json"):
            return super().label_values(frame)
        from iccld_cli.prepare.polygons import names_in

        known = IDD_NAMES | {f"{name}group": found for name, found in IDD_NAMES.items()}
        return {name: known.get(name, "unknown") for name in names_in(self.tree.read(frame.label))}
