"""KITTI semantics: 200 labelled and 200 unlabelled real frames, about 1242x375."""

from __future__ import annotations

from collections.abc import Iterator

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame
from iccld_cli.prepare.adapters.cityscapes import CITYSCAPES_IDS
from iccld_cli.prepare.tree import join, locate, stem, suffix


class Kitti(Adapter):
    """`training/image_2/*.png` and `training/semantic/*.png` (Cityscapes ids), `testing/image_2/*.png`."""

    name = "kitti"
    help = "KITTI semantics."
    ids = CITYSCAPES_IDS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of training and testing."""
        base = locate(self.tree, ("training/image_2",))
        if base is None:
            raise IccldError(f"no KITTI semantics in {self.tree.describe()}", "expected training/image_2/ there")
        labels = join(base, "training/semantic")
        labelled = self.labelled and self.tree.is_folder(labels)
        for folder, split in (("training", "train"), ("testing", "test")):
            for image in self.tree.walk(join(base, folder, "image_2")):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    label = join(labels, f"{name}.png") if labelled and split == "train" else None
                    yield RawFrame(split, name, image, label)
