"""CARLA recordings: the Lyft perception challenge, and recordings of one's own with old or current tags."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.labels import IGNORE
from iccld_cli.prepare.adapters.base import Adapter, Choice, RawFrame, blame
from iccld_cli.prepare.tree import Tree, join, stem, suffix

if TYPE_CHECKING:
    import numpy as np

_TAGS_BEFORE_14: dict[int, str | None] = {
    1: "building",
    2: "fence",
    3: None,
    4: "person",
    5: "pole",
    6: "road",  # road lines
    7: "road",
    8: "sidewalk",
    9: "vegetation",
    10: "car",  # every vehicle
    11: "wall",
    12: "traffic sign",
}

CARLA_IDS: dict[str, dict[int, str | None]] = {
    "lyft": {0: "sky", **_TAGS_BEFORE_14},  # 0 is "none", in these files the sky; 12 is signs and lights
    "0.9.10": {
        0: None,
        **_TAGS_BEFORE_14,
        13: "sky",
        14: None,  # ground
        15: None,  # bridge
        16: None,  # rail track
        17: None,  # guard rail
        18: "traffic light",
        19: None,  # static
        20: None,  # dynamic
        21: None,  # water
        22: "terrain",
    },
    "0.9.14": {
        0: None,
        1: "road",
        2: "sidewalk",
        3: "building",
        4: "wall",
        5: "fence",
        6: "pole",
        7: "traffic light",
        8: "traffic sign",
        9: "vegetation",
        10: "terrain",
        11: "sky",
        12: "person",
        13: "rider",
        14: "car",
        15: "truck",
        16: "bus",
        17: "train",
        18: "motorcycle",
        19: "bicycle",
        20: None,  # static
        21: None,  # dynamic
        22: None,  # other
        23: None,  # water
        24: "road",  # road lines
        25: None,  # ground
        26: None,  # bridge
        27: None,  # rail track
        28: None,  # guard rail
        29: None,  # rock, since 0.10 (Unreal 5)
    },
}
"""Tags by the release that brought them (CARLA documentation, `ref_sensors.md`, semantic segmentation camera; for 29
`CityObjectLabel::Rock` in the Unreal 5 branch). Recordings of 0.8 and 0.9.0 to 0.9.9 leave the sky 0; they are read by
"0.9.10", where 0 is ignored."""

_PAIRS = (
    ("CameraRGB", "CameraSeg"),
    ("CameraRGB", "CameraSemSeg"),
    ("rgb", "semantic"),
    ("rgb", "semantic_segmentation"),
    ("rgb", "seg"),
    ("rgb", "instance"),
    ("images", "labels"),
)
_BONNET_TOP = 498 / 600
"""Where the recording car's own bonnet begins in the Lyft frames, as a share of the height."""
_LOOKED_AT = 6
_LARGEST_TAG = 29
_PAIRS_LOOKED_AT = 40


class Carla(Adapter):
    """Pairs of folders (`CameraRGB/ CameraSeg/`, `rgb/ semantic/`, ...), tag in the red channel of an 8-bit RGB PNG.

    A recording may hold several such pairs (drives, cameras). The raw tags are needed, not the picture in Cityscapes
    colours. The table is recognised from the tags themselves; `--set carla.ids=` decides when that fails.
    """

    name = "carla"
    label_channel = 0
    help = "CARLA recordings: Lyft challenge, or own ones with raw tags."
    choices: ClassVar[Mapping[str, Choice]] = {
        "ids": Choice("auto", ("auto", *CARLA_IDS), "table of tags, by the first release that used it")
    }

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Find the pairs of folders and the table of tags."""
        super().__init__(tree, options, labelled)
        self._pairs = list(_find_pairs(tree, labelled))
        if not self._pairs:
            hint = "expected CameraRGB/ and CameraSeg/, or rgb/ and semantic/ there"
            raise IccldError(f"no CARLA recording in {tree.describe()}", hint)
        if labelled:
            if self.options["ids"] == "auto":
                self.options["ids"] = self._tell_table()
            self.ids = CARLA_IDS[self.options["ids"]]

    def scan(self) -> Iterator[RawFrame]:
        """List the frames; all of them are training frames."""
        shared = Counter(base for base, _, _ in self._pairs)
        for base, images, labels in self._pairs:
            prefix = join(base, images) if shared[base] > 1 else base
            for image in self.tree.walk(join(base, images)):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    label = join(base, labels, f"{name}.png") if self.labelled else None
                    key = join(prefix, name) if len(self._pairs) > 1 else name
                    yield RawFrame("train", key, image, label)

    def _tell_table(self) -> str:
        """The table that all recordings follow.

        Raises:
            IccldError: No reading gives a road, or two recordings follow different tables.
        """
        found: dict[str, str] = {}
        for base, _, labels in self._pairs[:: max(1, len(self._pairs) // _PAIRS_LOOKED_AT)]:
            if table := self._table_of(join(base, labels)):
                found.setdefault(table, join(base, labels))
        if len(found) > 1:
            (one, here), (other, there), *_ = found.items()
            raise IccldError(
                f"{here} in {self.tree.describe()} has the tags of {one}, {there} those of {other}",
                "prepare them one by one, each with a --name of its own",
            )
        if not found:
            raise IccldError(
                f"cannot tell which table the tags in {self.tree.describe()} follow",
                "choose with --set carla.ids=lyft, 0.9.10 or 0.9.14; the raw tags are needed, not colours",
            )
        return next(iter(found))

    def _table_of(self, folder: str) -> str | None:
        """Look at a few labels: what fills the lower middle of a frame is the road. None where no table gives one."""
        import numpy as np

        from iccld_cli.data.labelfiles import decode_ids

        counts = np.zeros(256, np.int64)
        largest = 0
        for path in heapq.nsmallest(_LOOKED_AT, self.tree.walk(folder)):
            if suffix(path) != ".png":
                continue
            try:
                with blame(path):
                    ids = decode_ids(self.tree.read(path)).astype(np.uint8)
            except IccldError:
                continue  # a damaged label is reported with all the others, not here
            height, width = ids.shape
            largest = max(largest, int(ids.max()))
            part = ids[height // 2 : round(_BONNET_TOP * height), width // 4 : 3 * width // 4]
            counts += np.bincount(part.ravel(), minlength=256)
        old, new = counts[[6, 7]].sum(), counts[[1, 24]].sum()
        if largest > _LARGEST_TAG or old == new:
            return None
        if new > old:
            return "0.9.14"
        return "lyft" if folder.endswith("CameraSeg") and largest <= 12 else "0.9.10"

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label; the Lyft car's bonnet is ignored, because it is labelled vehicle in every frame."""
        label = super().read_label(frame)
        if self.options["ids"] == "lyft":
            bonnet = label[round(_BONNET_TOP * label.shape[0]) :]
            bonnet[bonnet == self.label_space.id_of("car")] = IGNORE
        return label


def _find_pairs(tree: Tree, labelled: bool, depth: int = 5) -> Iterator[tuple[str, str, str]]:
    level = [""]
    for _ in range(depth + 1):
        below = []
        for folder in level:
            children = tree.folders(folder)
            names = {child.rsplit("/", 1)[-1] for child in children}
            fits = [pair for pair in _PAIRS if pair[0] in names and (pair[1] in names or not labelled)]
            taken: set[str] = set()
            for images, labels in fits:
                if images not in taken:
                    taken |= {images, labels}
                    yield folder, images, labels
            below += [child for child in children if child.rsplit("/", 1)[-1] not in taken]
        level = below
