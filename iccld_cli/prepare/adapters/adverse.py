"""Dark Zurich and ACDC: real frames by night, in fog, rain and snow, in one layout family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import Choice, RawFrame
from iccld_cli.prepare.adapters.cityscapes import Cityscapes
from iccld_cli.prepare.tree import Tree, join, locate

_SPLITS = ("train", "val", "test")
_IMAGE_END = "_rgb_anon.png"


class DarkZurich(Cityscapes):
    """`rgb_anon/<split>/<condition>/<sequence>/*_rgb_anon.png`, `gt/val/night/<sequence>/*_gt_labelIds.png`.

    The reference frames by day (`val_ref`, `test_ref`) are left out.
    """

    name = "dark-zurich"
    help = "Dark Zurich."
    choices: ClassVar[Mapping[str, Choice]] = {
        "condition": Choice("night", ("night", "twilight", "day", "all"), "which frames")
    }

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of the chosen condition."""
        return _scan(self, ("night", "twilight", "day"), "{split}/{condition}")


class Acdc(Cityscapes):
    """`rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png`, `gt/<condition>/<split>/<sequence>/*_gt_labelIds.png`.

    The reference frames in normal weather (`*_ref`) are left out.
    """

    name = "acdc"
    help = "ACDC."
    choices: ClassVar[Mapping[str, Choice]] = {
        "condition": Choice("all", ("fog", "night", "rain", "snow", "all"), "which frames")
    }

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of the chosen condition."""
        return _scan(self, ("fog", "night", "rain", "snow"), "{condition}/{split}")


def _scan(adapter: DarkZurich | Acdc, conditions: tuple[str, ...], order: str) -> Iterator[RawFrame]:
    tree: Tree = adapter.tree
    base = locate(tree, ("rgb_anon",))
    if base is None:
        raise IccldError(f"no {adapter.name} in {tree.describe()}", "expected rgb_anon/ there")
    wanted = adapter.options["condition"]
    for split in _SPLITS:
        for condition in conditions if wanted == "all" else (wanted,):
            folder = order.format(split=split, condition=condition)
            labels = locate(tree, (f"gt/{folder}",)) if adapter.labelled and split != "test" else None
            start = join(base, "rgb_anon", folder)
            for image in tree.walk(start):
                if image.endswith(_IMAGE_END):
                    frame = image[len(start) + 1 : -len(_IMAGE_END)]
                    label = None
                    if labels is not None:
                        label = adapter._label(join(labels, "gt", folder, f"{frame}_gt_label"))
                    yield RawFrame(split, f"{condition}/{frame}", image, label)
