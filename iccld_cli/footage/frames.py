"""Which frames of the footage are trained on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from rich.console import Console

from iccld_cli.data.prepared import IGNORED_NAME, INFO_NAME, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.footage import flow
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.record import Record
from iccld_cli.names import shown
from iccld_cli.prepare.adapters.base import RawFrame
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.own import own_images, set_name
from iccld_cli.prepare.prepare import PrepareOptions
from iccld_cli.prepare.tree import FolderTree
from iccld_cli.prepare.with_bar import prepare_shown

if TYPE_CHECKING:
    from iccld_cli.prepare.prepare import Source

MOST_FRAMES = 400
"""Frames that are trained on at most; more of one camera tell little that is new."""

VIDEO_FPS = 2.0
"""Frames that are looked at in a second of video."""

DARK = 14.0
"""Mean brightness, of 255, below which a frame shows nothing to learn from."""

FLAT = 7.0
"""Standard deviation of the brightness below which a frame is fog, a covered lens or a blank picture."""

STILL = 2.5
"""Mean difference of small grey pictures, of 255, up to which a frame is the one before: the car stands."""

_LOOKED_AT = "looked-at"
_LONGEST_NAME = 60  # letters, which may be four bytes each
_THUMB = (64, 36)


def targets_of(options: FootageOptions, record: Record, console: Console) -> list[PreparedDataset]:
    """The frames to train on, chosen once."""
    if "targets" not in record.tree:
        found, pairs = _footage(options, console)
        record.tree["pairs"] = pairs
        record.keep("targets", [str(target.root.absolute()) for target in found])
    shutil.rmtree(options.out / _LOOKED_AT, ignore_errors=True)  # as large as all of the footage
    return [PreparedDataset(Path(root)) for root in record.tree["targets"]]


def _footage(options: FootageOptions, console: Console) -> tuple[list[PreparedDataset], list[dict[str, str]]]:
    """The frames to train on, as prepared data sets, and of each its neighbouring frames, see `flow.measure`."""
    found, pairs, names = [], [], Counter[str]()
    if not options.footage:
        raise IccldError("no footage", "name videos, folders of images or prepared data sets")
    for path in options.footage:
        if (path / INFO_NAME).is_file():
            if options.ignore is not None:
                raise IccldError(f"{path} is prepared, and has its own region to ignore or none", "prepare it with it")
            dataset = PreparedDataset(path)
            if not dataset.frames("train"):
                raise IccldError(f"{path} has no frames in its split `train`")
            console.print(shown(f"{path}: {len(dataset.frames('train'))} frames"), soft_wrap=True)
            found.append(dataset)
            pairs.append({"root": str(dataset.root.absolute())})
            continue
        name, source = _opened(path, options.out)
        names[name] += 1
        name = name if names[name] == 1 else f"{name}-{names[name]}"
        looked_at = prepare_shown(
            source, options.out / _LOOKED_AT, name, PrepareOptions(skip_bad=True, ignore=options.ignore), console
        )[0]
        video = isinstance(source, flow.WatchedVideo)
        kept, left_out = choose_frames(looked_at, MOST_FRAMES, video)
        if not kept:
            raise IccldError(
                f"no frame of {path} can be learnt from ({_listed(left_out)})", "give footage of a road by day or dusk"
            )
        region = looked_at.root / IGNORED_NAME
        kept_region = region if region.is_file() else None
        dataset = prepare_shown(
            _Chosen(looked_at, kept), options.out / "data", name, PrepareOptions(ignore=kept_region), console
        )[0]
        console.print(shown(f"{path}: {len(kept)} frames, left out: {_listed(left_out)}"), soft_wrap=True)
        found.append(dataset)
        pairs.append(flow.keep_pairs(looked_at, video, name, options.out, kept_region, console))
    if sum(len(dataset.frames("train")) for dataset in found) == 1:
        console.print("warning: a single frame is little to adapt to", style="yellow")
    return found, pairs


def _opened(path: Path, out: Path) -> tuple[str, Source]:
    if path.is_file() and path.suffix.lower() not in (".zip", ".tar", ".gz", ".tgz"):
        name, source = path.stem, flow.WatchedVideo(path, VIDEO_FPS)
        return set_name(name)[:_LONGEST_NAME], source
    if not path.exists():
        raise IccldError(f"no footage at {path}", "give videos, folders of images or prepared data sets")
    name, images = own_images(str(path), None, None, out)
    return set_name(name)[:_LONGEST_NAME], images


class _Chosen(Images):
    """Some frames of a prepared data set, as a source of another."""

    def __init__(self, dataset: PreparedDataset, kept: Sequence[int]) -> None:
        super().__init__(FolderTree(dataset.root), "images/train")
        frames = dataset.frames("train")
        self.kept = [frames[i].image for i in kept]

    def scan(self) -> Iterator[RawFrame]:
        """List the frames that were chosen."""
        from iccld_cli.prepare.adapters.base import RawFrame

        for image in self.kept:
            yield RawFrame("train", image.removeprefix("images/train/").rpartition(".")[0], image, None)


def choose_frames(dataset: PreparedDataset, most: int, video: bool = False) -> tuple[list[int], Counter[str]]:
    """Choose frames for variety.

    Dark and blank frames are left out, and those that show what the frame before showed. Of the others at most `most`
    are taken, each the one least like those taken before (Gonzalez 1985), by small grey pictures.

    Args:
        dataset: Prepared, its split `train` in the order of time.
        most: Largest number to take.
        video: Whether it is of a `flow.WatchedVideo`, whose frames that only follow others are not taken.

    Returns:
        Positions in `train`, ascending, and how many frames were left out for which reason; with the frames that could
        not be read as `broken`.
    """
    left_out = Counter({"broken": len(dataset.info.skipped)} if dataset.info.skipped else {})
    places, thumbs = [], []
    last: np.ndarray | None = None
    for place, frame in enumerate(dataset.frames("train")):
        if video and flow.follows(frame.image):
            continue
        grey = cv2.cvtColor(dataset.read_image(frame), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        if small.mean() < DARK:
            left_out["dark"] += 1
        elif grey.std() < FLAT:
            left_out["blank"] += 1
        elif last is not None and float(np.abs(small - last).mean()) <= STILL:
            left_out["as the one before"] += 1
        else:
            places.append(place)
            thumbs.append(small.ravel())
            last = small
    if len(places) <= most:
        return places, left_out
    left_out["like others"] = len(places) - most
    pictures = np.stack(thumbs)
    nearest = np.full(len(pictures), np.inf, np.float32)
    taken = [0]
    while len(taken) < most:
        nearest = np.minimum(nearest, np.abs(pictures - pictures[taken[-1]]).mean(axis=1))
        taken.append(int(nearest.argmax()))
    return sorted(places[i] for i in taken), left_out


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
