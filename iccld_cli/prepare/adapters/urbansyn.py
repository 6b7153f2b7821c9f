"""UrbanSyn: rendered frames, 2048x1024."""

from __future__ import annotations

from collections.abc import Iterator

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, train_ids
from iccld_cli.prepare.tree import join, locate, stem, suffix


class UrbanSyn(Adapter):
    """`rgb/rgb_NNNN.png` and `ss/ss_NNNN.png`: 8-bit trainIds, 19 = unlabelled."""

    name = "urbansyn"
    help = "UrbanSyn."
    ids = train_ids(CITYSCAPES) | {19: None}

    def scan(self) -> Iterator[RawFrame]:
        """List the frames; all of them are training frames."""
        base = locate(self.tree, ("rgb", "ss") if self.labelled else ("rgb",))
        if base is None:
            raise IccldError(f"no UrbanSyn in {self.tree.describe()}", "expected rgb/ and ss/ there")
        for image in self.tree.walk(join(base, "rgb")):
            if suffix(image) in IMAGE_SUFFIXES:
                number = stem(image).removeprefix("rgb_")
                label = join(base, "ss", f"ss_{number}.png") if self.labelled else None
                yield RawFrame("train", stem(image), image, label)
