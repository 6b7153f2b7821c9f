"""Whether answers stay with what they name while the car drives: `inference.along_flow` on frames of the footage.

The frames to train on are too far apart for that, so that pairs of neighbouring frames are kept beside them:

    OUT/pairs/NAME    pairs of neighbouring frames of a video or a folder, `00_0` and `00_1`, `01_0` and `01_1`...

A prepared data set is asked for its own neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.inference.along_flow import FlowConsistency, flow_consistency, neighbours
from iccld_cli.prepare.adapters.base import RawFrame
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.adapters.video import Video
from iccld_cli.prepare.prepare import PrepareOptions
from iccld_cli.prepare.tree import FolderTree
from iccld_cli.prepare.with_bar import prepare_shown

if TYPE_CHECKING:
    from iccld_cli.inference.model import Model

PAIRS = 30
"""Pairs of neighbouring frames that are compared at most: as many frames as the candidates are judged on."""

FOLDER = "pairs"
_FEW = "the video has too few frames a second"
_NEXT = "_next"


class WatchedVideo(Video):
    """Frames of a video at a chosen rate, and behind some of them the frame that follows.

    Those that follow have a key that ends in `_next`.
    """

    def scan(self) -> Iterator[RawFrame]:
        """List the frames, see `Video.scan`."""
        frames = list(super().scan())
        begin = {frame.key for frame in evenly(frames[:-1], PAIRS)}
        for i, frame in enumerate(frames):
            yield frame
            after = f"frame {int(frame.image.removeprefix('frame ')) + 1}"
            if frame.key in begin and frames[i + 1].image != after:
                yield RawFrame(frame.split, frame.key + _NEXT, after, None)


def follows(image: str) -> bool:
    """Whether a frame of a `WatchedVideo`, by its path in the data set, is there for the one before alone."""
    return Path(image).stem.endswith(_NEXT)


class _Pairs(Images):
    """Pairs of frames of a prepared data set, each named like a video of two frames."""

    def __init__(self, dataset: PreparedDataset, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__(FolderTree(dataset.root), "images/train")
        self.pairs = pairs

    def scan(self) -> Iterator[RawFrame]:
        """List the frames of the pairs."""
        for number, pair in enumerate(self.pairs):
            for place, image in enumerate(pair):
                yield RawFrame("train", f"{number:02d}_{place}", image, None)


def keep_pairs(
    looked_at: PreparedDataset, video: bool, name: str, out: Path, region: Path | None, console: Console
) -> dict[str, str]:
    """Keep pairs of neighbouring frames of a piece of footage.

    Args:
        looked_at: All its frames; of a video, from `WatchedVideo`.
        video: Whether it is a video.
        name: Of the data set to make.
        out: The folder of the run.
        region: A picture of what is not the scene; None for nothing.
        console: Where messages go.

    Returns:
        `root`, the data set of the pairs; or `why` there is none.
    """
    if video:
        images = {frame.image for frame in looked_at.iter_frames("train")}
        second = sorted(image for image in images if follows(image))
        pairs = [(first, image) for image in second if (first := _before(image)) in images]
        if not pairs:
            return {"why": _FEW}
    else:
        found = neighbours(looked_at, "train")
        if isinstance(found, str):
            return {"why": found}
        pairs = [(one.image, other.image) for one, other in evenly(found, PAIRS)]
    dataset, _ = prepare_shown(_Pairs(looked_at, pairs), out / FOLDER, name, PrepareOptions(ignore=region), console)
    return {"root": str(dataset.root.absolute())}


def _before(image: str) -> str:
    stem, dot, suffix = image.rpartition(".")
    return stem.removesuffix(_NEXT) + dot + suffix


def measure(model: Model, kept: Sequence[Mapping[str, Any]]) -> FlowConsistency:
    """How far the answers of a model for neighbouring frames agree, over all of the footage.

    Args:
        model: The model.
        kept: What `keep_pairs` returned for each piece of footage; of a prepared data set, itself as `root`.

    Returns:
        Means over the pieces, weighted by their pairs.

    Raises:
        IccldError: A frame cannot be read.
    """
    roots = evenly([Path(one["root"]) for one in kept if "root" in one], PAIRS)
    whys = [str(one["why"]) for one in kept if "why" in one]
    found = []
    for i, root in enumerate(roots):
        most = (i + 1) * PAIRS // len(roots) - i * PAIRS // len(roots)
        flow = flow_consistency(model, PreparedDataset(root), "train", most=most)
        if flow.why is None:
            found.append(flow)
        else:
            whys.append(flow.why)
    if not found:
        return FlowConsistency(why="; ".join(dict.fromkeys(whys)) or "there is no footage")
    weights = [flow.pairs for flow in found]

    def mean(name: str) -> float:
        return float(np.average([getattr(flow, name) for flow in found], weights=weights))

    return FlowConsistency(mean("agreement"), mean("iou"), mean("visible"), sum(weights))
