"""Dark Zurich and ACDC: real frames by night, in fog, rain and snow, in one layout family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from iccld_cli.prepare.adapters.base import Choice
from iccld_cli.prepare.adapters.cityscapes import Cityscapes
from iccld_cli.prepare.adapters.official import Part
from iccld_cli.prepare.layouts import Layout
from iccld_cli.prepare.tree import Tree


class Adverse(Cityscapes):
    """What the two have in common: one of several conditions, or all.

    Attributes:
        frames: Frames of each split and condition.
        archives: Download of each split.
    """

    frames: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    archives: ClassVar[Mapping[str, str]] = {}
    expected = "rgb_anon/"
    known_bad: Mapping[str, str] = {}
    label_splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Bind the adapter to its files, see `Adapter`."""
        super().__init__(tree, options, labelled)
        wanted = self.options["condition"]
        self.official = {
            split: Part(count, self.archives[split])
            for split, frames in self.frames.items()
            if (count := sum(frames.values()) if wanted == "all" else frames.get(wanted, 0))
        }

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name, where it is of the chosen condition."""
        if self.options["condition"] not in ("all", groups["condition"]):
            return None
        return groups["split"], f"{groups['condition']}/{groups['name']}"

    def group(self, split: str, name: str) -> str:
        """Labels come by split and condition."""
        return f"{split}/{name.split('/')[0]}"


class DarkZurich(Adverse):
    """`rgb_anon/<split>/<condition>/<sequence>/*_rgb_anon.png`, `gt/val/night/<sequence>/*_gt_labelIds.png`.

    The reference frames by day (`val_ref`, `test_ref`) are left out.
    """

    name = "dark-zurich"
    help = "Dark Zurich."
    choices: ClassVar[Mapping[str, Choice]] = {
        "condition": Choice("night", ("night", "twilight", "day", "all"), "which frames")
    }
    layouts = (
        Layout(
            r"rgb_anon/(?P<split>train|val|test)/(?P<condition>night|twilight|day)/(?P<name>[^/]+/[^/]+)_rgb_anon\.png",
            tuple(
                r"gt/(?P<split>val)/(?P<condition>night|twilight|day)/(?P<name>[^/]+/[^/]+)_gt_label" + kind
                for kind in (r"Ids\.png", r"TrainIds\.png")
            ),
            "gt/{split}/{condition}/{name}_gt_labelIds.png",
            r"rgb_anon/(?:train|val|test)/(?:night|twilight|day)/",
        ),
    )
    # dataset-ninja/dark-zurich, SUMMARY.md: 8,377 + 100 + 302 frames, 2,617 of them by night, 2,920 at twilight, 3,242
    # by day; half of the 100 and of the 302 are reference frames by day.
    frames: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"night": 2416, "twilight": 2920, "day": 3041},
        "val": {"night": 50},
        "test": {"night": 151},
    }
    archives: ClassVar[Mapping[str, str]] = {
        split: f"Dark_Zurich_{split}_anon.zip" for split in ("train", "val", "test")
    }
    label_splits: ClassVar[tuple[str, ...]] = ("val",)
    label_archive = "Dark_Zurich_val_anon.zip"


class Acdc(Adverse):
    """`rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png`, `gt/<condition>/<split>/<sequence>/*_gt_labelIds.png`.

    The reference frames in normal weather (`*_ref`) are left out.
    """

    name = "acdc"
    help = "ACDC."
    choices: ClassVar[Mapping[str, Choice]] = {
        "condition": Choice("all", ("fog", "night", "rain", "snow", "all"), "which frames")
    }
    layouts = (
        Layout(
            r"rgb_anon/(?P<condition>fog|night|rain|snow)/(?P<split>train|val|test)/(?P<name>[^/]+/[^/]+)_rgb_anon\.png",
            tuple(
                r"gt/(?P<condition>fog|night|rain|snow)/(?P<split>train|val)/(?P<name>[^/]+/[^/]+)_gt_label" + kind
                for kind in (r"Ids\.png", r"TrainIds\.png")
            ),
            "gt/{condition}/{split}/{name}_gt_labelIds.png",
            r"rgb_anon/(?:fog|night|rain|snow)/(?:train|val|test)/",
        ),
    )
    # The paper, arXiv 2104.13395: 4,006 frames, of each condition 400, 100 and 500, by night 106 for validation.
    frames: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"fog": 400, "night": 400, "rain": 400, "snow": 400},
        "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
        "test": {"fog": 500, "night": 500, "rain": 500, "snow": 500},
    }
    archives: ClassVar[Mapping[str, str]] = dict.fromkeys(("train", "val", "test"), "rgb_anon_trainvaltest.zip")
    label_archive = "gt_trainval.zip"
