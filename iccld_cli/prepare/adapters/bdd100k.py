"""BDD100K, the 10k images with semantic segmentation, 1280x720."""

from __future__ import annotations

from collections.abc import Iterator

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, train_ids
from iccld_cli.prepare.tree import join, locate, stem, suffix

_LAYOUTS = (
    ("images/10k", "labels/sem_seg/masks", "{name}.png"),
    ("seg/images", "seg/labels", "{name}_train_id.png"),  # the release of 2018
)


class Bdd100k(Adapter):
    """`images/10k/<split>/*.jpg` and `labels/sem_seg/masks/<split>/*.png`, or the older `seg/images`, `seg/labels`.

    Labels are 8-bit trainIds, 255 = ignore.
    """

    name = "bdd100k"
    help = "BDD100K, the 10k images of semantic segmentation."
    ids = train_ids(CITYSCAPES)

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of train, val and test."""
        for images, labels, pattern in _LAYOUTS:
            base = locate(self.tree, (images,))
            if base is not None:
                yield from self._scan(join(base, images), labels, pattern)
                return
        raise IccldError(f"no BDD100K in {self.tree.describe()}", "expected images/10k/ or seg/images/ there")

    def _scan(self, images: str, labels: str, pattern: str) -> Iterator[RawFrame]:
        for split in ("train", "val", "test"):
            where = locate(self.tree, (join(labels, split),)) if self.labelled else None
            for image in self.tree.walk(join(images, split)):
                if suffix(image) in IMAGE_SUFFIXES:
                    name = stem(image)
                    label = None if where is None else join(where, labels, split, pattern.format(name=name))
                    yield RawFrame(split, name, image, label)
