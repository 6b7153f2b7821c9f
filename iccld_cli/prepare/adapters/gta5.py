"""GTA5 ("Playing for Data"): frames of a computer game, about 1914x1052."""

from __future__ import annotations

import re
from collections.abc import Iterator

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame
from iccld_cli.prepare.adapters.cityscapes import CITYSCAPES_IDS
from iccld_cli.prepare.tree import stem, suffix

_IMAGES = re.compile(r"(^|/)(\d+_)?images(?=/)")
_SPLIT_FILE = "split.mat"
_SPLIT_FIELDS = {"trainIds": "train", "valIds": "val", "testIds": "test"}


class Gta5(Adapter):
    """`images/NNNNN.png` and `labels/NNNNN.png`, or the numbered parts `01_images.zip`, `01_labels.zip`, ...

    Labels are palette PNGs whose index is the Cityscapes label id. Where the official `split.mat` (1-based frame
    numbers in `trainIds`, `valIds`, `testIds`) lies beside them, the frames are split by it; otherwise all are
    training frames.
    """

    name = "gta5"
    help = "GTA5 (Playing for Data), unpacked or as numbered zip files."
    ids = CITYSCAPES_IDS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames."""
        splits = self._splits()
        found = False
        for image in self.tree.walk():
            if suffix(image) not in IMAGE_SUFFIXES or not _IMAGES.search(image):
                continue
            found = True
            name = stem(image)
            label = None
            if self.labelled:
                label = _IMAGES.sub(r"\1\2labels", image).rsplit(".", 1)[0] + ".png"
            split = splits.get(int(name), "train") if name.isdigit() else "train"
            yield RawFrame(split, name, image, label)
        if not found:
            raise IccldError(
                f"no GTA5 images in {self.tree.describe()}", "expected images/ and labels/, or 01_images.zip and so on"
            )

    def _splits(self) -> dict[int, str]:
        from iccld_cli.prepare.matfile import read_integers

        for path in (_SPLIT_FILE, f"read_mapping/{_SPLIT_FILE}", f"mapping/{_SPLIT_FILE}"):
            if self.tree.stamp(path):
                fields = read_integers(self.tree.read(path), path)
                return {number: split for field, split in _SPLIT_FIELDS.items() for number in fields.get(field, ())}
        return {}
