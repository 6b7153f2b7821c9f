"""CARLA recordings: the layout of the Lyft perception challenge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from iccld_cli.data.adapters.base import IMAGE_SUFFIXES, Adapter, RawFrame
from iccld_cli.data.tree import join, locate, stem, suffix
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE

if TYPE_CHECKING:
    import numpy as np

LYFT_IDS: dict[int, str | None] = {
    0: "sky",  # "none" in the simulator's table; in these files it is the sky
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
    12: "traffic sign",  # signs and lights together
}
"""Tags of CARLA 0.8 (CARLA documentation, semantic segmentation camera)."""

_BONNET_TOP = 498 / 600
"""Where the recording car's own bonnet begins, as a share of the height."""


class Carla(Adapter):
    """`CameraRGB/ CameraSeg/`, class id in the red channel of an 8-bit RGB PNG."""

    name = "carla"
    help = "CARLA recordings."
    ids = LYFT_IDS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames; all of them are training frames."""
        base = locate(self.tree, ("CameraRGB", "CameraSeg") if self.labelled else ("CameraRGB",))
        if base is None:
            raise IccldError(
                f"no CARLA recording in {self.tree.describe()}", "expected CameraRGB/ and CameraSeg/ there"
            )
        for image in self.tree.walk(join(base, "CameraRGB")):
            if suffix(image) in IMAGE_SUFFIXES:
                name = stem(image)
                label = join(base, "CameraSeg", f"{name}.png") if self.labelled else None
                yield RawFrame("train", name, image, label)

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, the recording car's bonnet ignored: it is labelled vehicle in every frame."""
        label = super().read_label(frame)
        bonnet = label[round(_BONNET_TOP * label.shape[0]) :]
        bonnet[bonnet == self.label_space.id_of("car")] = IGNORE
        return label
