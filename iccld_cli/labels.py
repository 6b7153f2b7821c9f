"""Label spaces: the names, ids and colours of the classes a model predicts.

A trainId is the index of a class in its label space; `IGNORE` (255) marks pixels that take no part in
losses and scores. Class names and colours of the 19 evaluated classes are those of the Cityscapes
benchmark (cityscapesScripts, `helpers/labels.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from iccld_cli.errors import IccldError, did_you_mean

IGNORE = 255
"""The trainId of pixels without a class."""


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of classes.

    Attributes:
        name: Short identifier, compared when data sets and models meet.
        names: Class names; the position is the trainId. At most 255.
        colors: One (R, G, B) in [0, 255] per class.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors) or len(set(self.names)) != len(self.names):
            raise IccldError(f"label space {self.name!r} needs one colour and one unique name per class")
        if not 1 <= len(self.names) <= IGNORE:
            raise IccldError(f"label space {self.name!r} has {len(self.names)} classes, expected 1 to {IGNORE}")

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int:
        """The trainId of a class name.

        Raises:
            IccldError: The name is not in this space.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise IccldError(f"unknown class {name!r} in {self.name!r}", did_you_mean(name, self.names)) from None

    def ids_of(self, names: Iterable[str]) -> tuple[int, ...]:
        """Sorted trainIds of several class names."""
        return tuple(sorted({self.id_of(name) for name in names}))

    def names_of(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Class names of several trainIds, in the order of the ids."""
        return tuple(self.names[i] for i in ids)

    def to_json(self) -> dict:
        """A JSON-ready description, read back by `from_json`."""
        return {
            "name": self.name,
            "classes": [{"name": n, "color": list(c)} for n, c in zip(self.names, self.colors, strict=True)],
        }

    @classmethod
    def from_json(cls, raw: dict) -> LabelSpace:
        """Rebuild a space written by `to_json`.

        Raises:
            IccldError: The description lacks a field, or has one of another kind or out of range.
        """
        try:
            name, names, colors = raw["name"], [], []
            for entry in raw["classes"]:
                red, green, blue = entry["color"]
                names.append(entry["name"])
                colors.append((red, green, blue))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IccldError(f"unreadable label space description ({type(error).__name__}: {error})") from None
        if not all(isinstance(text, str) and text for text in (name, *names)):
            raise IccldError("label space: the names of the space and of its classes must be texts")
        for text, color in zip(names, colors, strict=True):
            if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in color):
                raise IccldError(f"label space: the colour of {text!r} must be three whole numbers from 0 to 255")
        return cls(name, tuple(names), tuple(colors))


CITYSCAPES = LabelSpace(
    "cityscapes19",
    (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
"""The 19 classes of the Cityscapes benchmark."""

CITYSCAPES_LABEL_IDS: dict[str, int] = {
    name: number
    for number, name in enumerate(
        (
            *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
            *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
            *("pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider"),
            *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
        )
    )
}
"""Class name -> number in the benchmark's label files and submissions (cityscapesScripts, `helpers/labels.py`)."""

THINGS = (
    "traffic light",
    "traffic sign",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""Countable classes, on which ImageNet features are informative (DAFormer, section 3.3)."""


def shared_classes(known: Sequence[Iterable[int] | None], total: int) -> tuple[int, ...]:
    """The classes on which a set of data sets can be compared: those that all of them know.

    Args:
        known: TrainIds each data set knows; None where a data set has no labels and so restricts nothing.
        total: Number of classes of the label space.

    Returns:
        Sorted trainIds.

    Raises:
        IccldError: No class is known to all.
    """
    common = set(range(total))
    for ids in known:
        if ids is not None:
            common &= set(ids)
    if not common:
        raise IccldError("the data sets have no class in common", "check their label maps with `iccld inspect`")
    return tuple(sorted(common))
