"""`prepare --check`: what a run would do, reported in under a minute and without writing anything.

Every name is listed, the headers of some hundred files are read, and some twenty frames go through the code of a
run, spread over the whole set. Only a run reads all files.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iccld_cli.data.checks import check_header
from iccld_cli.data.fixed import read_region
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE
from iccld_cli.prepare.adapters.base import Adapter, FileProblem, RawFrame, blame
from iccld_cli.prepare.adapters.video import Video
from iccld_cli.prepare.peek import cut_short, peeks
from iccld_cli.prepare.prepare import PrepareOptions, Source, check_output, origin_of
from iccld_cli.prepare.processes import default_workers
from iccld_cli.prepare.tree import Tree, read_start
from iccld_cli.prepare.worker import FrameJob, render

HEADERS = 400
"""Frames whose headers are read."""

FRAMES = 24
"""Frames that are read in full."""

_FRAMES_OF_A_VIDEO = 4
_SECONDS = 15.0
"""How long headers may take, and frames after them; at least a few are read however slow the disk is."""

_FEWEST = 4
_START = 64 * 1024
_KEPT_NAMES = 2_000_000


@dataclass
class Rehearsal:
    """What the check of one data set found.

    Attributes:
        name: Name of the prepared data set.
        path: Where its files lie.
        splits: Frames that would be taken.
        labelled: How many of them have a label.
        sizes: (width, height) of the frames whose headers were read, with their number.
        headers: How many headers were read.
        values: What the sampled labels hold (ids, names, colours), with the class of each.
        unknown_values: Those of `values` that are in no table.
        pixels: Share of each class in the sampled labels, "ignore" among them.
        sampled: How many frames were read in full.
        known_bad: Frames left out because the set is known to be bad there, by reason.
        notices: What the scan came upon.
        problems: What would stop the run, each a sentence.
        bad: Sampled files that cannot be used, each with `file` and `reason`.
        bytes: About how much would be written.
        free: Bytes free at the place of the output.
        seconds: About how long it would take.
    """

    name: str
    path: str
    splits: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    headers: int = 0
    values: dict[str, str | None] = field(default_factory=dict)
    pixels: dict[str, float] = field(default_factory=dict)
    sampled: int = 0
    known_bad: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    bytes: int = 0
    free: int = 0
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Frames that would be taken."""
        return sum(self.splits.values())

    @property
    def unknown_values(self) -> list[str]:
        """What the sampled labels hold and no table knows."""
        return [value for value, name in self.values.items() if name == "unknown"]


def rehearse(source: Source, out: Path, name: str, options: PrepareOptions) -> Rehearsal:
    """Check one data set.

    Args:
        source: What would be read; its compressed archives opened with `peek`.
        out: Folder that would receive the folder `name`.
        name: Name of the prepared data set.
        options: How it would be prepared.

    Returns:
        What was found.

    Raises:
        IccldError: What a run would raise before it reads a frame.
    """
    origin = origin_of(source, options)
    look = Rehearsal(name, origin["path"])
    _look_at_output(look, source, out / name, options)
    tree = getattr(source, "tree", None)
    cut = cut_short(tree)
    try:
        headers, frames = _list(look, source, tree, options)
    except IccldError as error:
        if not cut:
            raise
        look.notices.append(f"{cut}, where {error}")
        return look
    if not look.frames and not cut:
        raise IccldError(f"no images found in {look.path}", "check the path and the data set's layout")
    _take_findings(look, source, tree)
    if tree is not None:
        _read_headers(look, tree, headers)
    _read_frames(look, source, frames, options)
    if look.bad and not options.skip_bad:
        first = "; ".join(f"{entry['file']} {entry['reason']}" for entry in look.bad[:3])
        look.problems.append(f"{len(look.bad)} of the files looked at cannot be used ({first})")
    if look.bytes > look.free:
        look.problems.append(f"about {human(look.bytes)} would be written, {human(look.free)} are free")
    return look


def human(count: float) -> str:
    """A number of bytes for people: "3.1 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _look_at_output(look: Rehearsal, source: Source, final: Path, options: PrepareOptions) -> None:
    place = final
    while not place.exists():
        place = place.parent
    look.free = shutil.disk_usage(place).free
    try:
        check_output(source, final.parent, final.name, options)
    except IccldError as error:
        look.problems.append(str(error))


class _Spread:
    """An even sample of a stream of unknown length, in its order."""

    def __init__(self, most: int) -> None:
        self.most, self.step, self.seen = most, 1, 0
        self.items: list[RawFrame] = []

    def add(self, frame: RawFrame) -> None:
        if self.seen % self.step == 0:
            if len(self.items) == 2 * self.most:
                self.items = self.items[::2]
                self.step *= 2
            if self.seen % self.step == 0:
                self.items.append(frame)
        self.seen += 1

    def take(self) -> list[RawFrame]:
        return evenly(self.items, self.most)


def _list(
    look: Rehearsal, source: Source, tree: Tree | None, options: PrepareOptions
) -> tuple[list[RawFrame], list[RawFrame]]:
    """Count all frames and choose some."""
    splits: Counter[str] = Counter()
    headers, frames = _Spread(HEADERS), _Spread(FRAMES)
    names: dict[tuple[str, str], str] = {}
    for frame in source.scan():
        splits[frame.split] += 1
        look.labelled += frame.label is not None
        other = names.get((frame.split, frame.key))
        if other is not None and not any("would both become" in text for text in look.problems):
            look.problems.append(f"{other} and {frame.image} would both become {frame.split}/{frame.key}")
        if len(names) < _KEPT_NAMES:
            names[frame.split, frame.key] = frame.image
        if tree is None or _readable(tree, frame):
            headers.add(frame)
            frames.add(frame)
    if options.hold_out and "val" not in splits and splits["train"] > 1:
        held = max(1, round(options.hold_out * splits["train"]))
        splits["train"], splits["val"] = splits["train"] - held, held
    look.splits = dict(sorted(splits.items()))
    return headers.take(), frames.take()


def _readable(tree: Tree, frame: RawFrame) -> bool:
    """Whether a frame's files were kept, where they lie in a compressed archive that was only looked into."""
    looked_into = peeks(tree)
    if looked_into and cut_short(tree) and frame.label is not None and not tree.stamp(frame.label):
        return False  # it may lie in the part that was not read
    for path in (frame.image, frame.label):
        for peek in looked_into:
            if path is not None and peek.stamp(path) and not peek.can_read(path):
                return False
    return True


def _take_findings(look: Rehearsal, source: Source, tree: Tree | None) -> None:
    found = source.findings()
    look.known_bad = dict(Counter(entry["reason"] for entry in found.get("known_bad", [])))
    look.notices = list(found.get("notices", []))
    if cut := cut_short(tree):
        look.notices = [f"{cut}, so counts are those of a part; unpack it or run to know all"]


def _read_headers(look: Rehearsal, tree: Tree, frames: Iterable[RawFrame]) -> None:
    end = time.monotonic() + _SECONDS
    for frame in frames:
        if look.headers >= _FEWEST and time.monotonic() > end:
            return
        try:
            with blame(frame.image):
                size, turned = _size(tree, frame.image)
            look.sizes[size] += 1
            look.headers += 1
            if frame.label is not None and frame.label.lower().endswith(".png") and not turned:
                with blame(frame.label):
                    other, _ = _size(tree, frame.label)
                if other != size:
                    reason = f"is {other[0]}x{other[1]}, its image is {size[0]}x{size[1]}"
                    look.bad.append({"file": frame.label, "reason": reason})
        except FileProblem as problem:
            look.bad.append({"file": problem.file, "reason": problem.reason})


def _size(tree: Tree, path: str) -> tuple[tuple[int, int], bool]:
    """Size by a file's header, and whether its EXIF data turn it."""
    try:
        _, width, height, orientation = check_header(read_start(tree, path, _START))
    except IccldError:  # a JPEG may carry a long preview before its header
        _, width, height, orientation = check_header(tree.read(path))
    return (width, height), orientation != 1


def _read_frames(look: Rehearsal, source: Source, frames: list[RawFrame], options: PrepareOptions) -> None:
    """Send some frames through the code of a run, and estimate from them what all need."""
    if isinstance(source, Video):
        frames = list(itertools.islice(source.scan(), _FRAMES_OF_A_VIDEO))  # to reach later ones all must be decoded
    given = None if options.ignore in (None, "auto") else read_region(Path(str(options.ignore)))
    job = FrameJob(source, Path(), options.size, given)
    pixels: Counter[int] = Counter()
    written, start = 0, time.monotonic()
    named = {entry["file"] for entry in look.bad}
    for frame, ready in _until(source.stream(iter(frames)), start + _SECONDS):
        record, files = render(job, frame, ready)
        look.sampled += 1
        written += sum(map(len, files.values()))
        pixels.update({int(i): count for i, count in record.get("pixels", {}).items()})
        if "reason" in record and record["file"] not in named:
            look.bad.append({"file": record["file"], "reason": record["reason"]})
    used = time.monotonic() - start
    for frame in frames[: look.sampled]:
        _read_values(look, source, frame)
    total = sum(pixels.values())
    space = source.label_space
    look.pixels = {
        "ignore" if i == IGNORE else space.names[i]: count / total for i, count in sorted(pixels.items()) if total
    }
    if look.sampled:
        look.bytes = round(written / look.sampled * look.frames)
        look.seconds = used / look.sampled * look.frames / (options.workers or default_workers())


def _until(items: Iterator[tuple[RawFrame, Any]], end: float) -> Iterator[tuple[RawFrame, Any]]:
    for number, item in enumerate(items):
        if number >= _FEWEST and time.monotonic() > end:
            return
        yield item


def _read_values(look: Rehearsal, source: Source, frame: RawFrame) -> None:
    if frame.label is None or not isinstance(source, Adapter):
        return
    try:
        look.values.update(source.label_values(frame))
    except IccldError:
        return  # reported by `_read_frames`
