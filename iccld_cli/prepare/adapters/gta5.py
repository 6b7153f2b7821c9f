"""GTA5 ("Playing for Data"): frames of a computer game, 1914x1052 or 1914x1046."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from iccld_cli.prepare.adapters.base import RawFrame
from iccld_cli.prepare.adapters.cityscapes import CITYSCAPES_IDS
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout, ranges

GTA5_IDS: dict[int, str | None] = {**CITYSCAPES_IDS, 34: None}
"""Those of Cityscapes and the licence plate, the 35th class of the official `mapping.mat`."""

GTA5_KNOWN_BAD: dict[str, str] = {"15188": "is white", "17705": "is black"}
GTA5_BAD_LABELS: dict[str, str] = {
    f"{number:05d}": "has a label of another size than its image" for number in range(20801, 20861)
}
"""Found by a scan of all 24,966 frames: m-birke/automotive-segmentation-datasets, playing_for_data.md."""

_FRAMES = 24966
_PART = 2500
"""Frames of one numbered archive; ten archives hold 24,966. Not seen on a real download."""

_SPLIT_FIELDS = {"trainIds": "train", "valIds": "val", "testIds": "test"}


class Gta5(OfficialSet):
    """`images/NNNNN.png` and `labels/NNNNN.png`, or the numbered parts `01_images.zip`, `01_labels.zip`, ...

    Labels are palette PNGs whose index is the Cityscapes label id. Where the official `split.mat` (1-based frame
    numbers in `trainIds`, `valIds`, `testIds`) lies beside them, the frames are split by it; otherwise all are
    training frames.
    """

    name = "gta5"
    help = "GTA5 (Playing for Data), unpacked or as numbered zip files."
    ids = GTA5_IDS
    layouts = (
        Layout(
            r"(?:\d+_)?images/(?P<name>\d{5})\.(?:png|jpe?g)",
            (r"(?:\d+_)?labels/(?P<name>\d{5})\.png",),
            "labels/{name}.png",
            r"(?:\d+_)?images/[^/]+$",
        ),
    )
    expected = "images/ and labels/, or 01_images.zip, 01_labels.zip and so on"
    label_splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_labels = True
    label_archive = "one of the NN_labels.zip"
    extras = r"split\.mat"
    official: Mapping[str, Part] = {"train": Part(_FRAMES)}
    known_bad = GTA5_KNOWN_BAD
    bad_labels = GTA5_BAD_LABELS

    def scan(self) -> Iterator[RawFrame]:
        """List the frames."""
        splits = self._splits()
        for frame in super().scan():
            yield replace(frame, split=splits.get(int(frame.key), "train"))

    def difference(self, counts: Mapping[str, int]) -> str:
        """How many frames are missing, and which of the numbered archives would hold them."""
        numbers = {int(name) for _, name in self.find().images}
        if len(numbers) == _FRAMES:
            return ""
        missing = []
        for part in range(1, _FRAMES // _PART + 2):
            held = range((part - 1) * _PART + 1, min(part * _PART, _FRAMES) + 1)
            if 10 * sum(number in numbers for number in held) < len(held):
                missing.append(part)
        verb = "is" if len(missing) == 1 else "are"
        lost = f": {verb} {ranges(missing, '{:02d}_images.zip')} missing?" if missing else ""
        return f"{len(numbers):,} of {_FRAMES:,} frames{lost}"

    def _splits(self) -> dict[int, str]:
        from iccld_cli.prepare.matfile import read_integers

        for path in self.find().extras:
            fields = read_integers(self.tree.read(path), path)
            return {number: split for field, split in _SPLIT_FIELDS.items() for number in fields.get(field, ())}
        return {}
