"""From raw files to a prepared data set: list, process on all cores, write the index, rename into place.

    scan -> journal (on disk) -> workers: read, check, map, resize, write -> journal
         -> index.jsonl, dataset.json -> DATA/<name>

Work happens in `DATA/.<name>.partial`. A killed run goes on from its journal, and ends with the same bytes as
one that was never interrupted, because everything in the result is a function of the source, the options and
the sorted list of frames.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from filelock import FileLock, Timeout

from iccld_cli import __version__
from iccld_cli.data import checks
from iccld_cli.data.fixed import SAMPLED, find_region, read_region
from iccld_cli.data.prepared import IGNORED_NAME, INDEX_NAME, INFO_NAME, DatasetInfo, Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, explain_failure, remove_leftovers, write_json
from iccld_cli.labels import LabelSpace
from iccld_cli.prepare import duplicates, existing, growth, preview, processes
from iccld_cli.prepare.adapters.base import FileProblem, RawFrame
from iccld_cli.prepare.existing import OtherWork, same_set
from iccld_cli.prepare.inspect import own_warnings
from iccld_cli.prepare.journal import BAD, DONE, PENDING, Journal
from iccld_cli.prepare.statistics import Totals, write_index
from iccld_cli.prepare.worker import FrameJob, Loader

GIVE_UP_AFTER = 100
"""Bad files after which a run stops when most of what it saw was bad: the layout is wrong, not a file."""


class Source(Loader, Protocol):
    """What is prepared: an adapter, the virtual town or a video."""

    label_space: LabelSpace
    covers: Mapping[str, str]

    def scan(self) -> Iterator[RawFrame]:
        """List the frames."""

    def stamp(self, frame: RawFrame) -> tuple[str, str]:
        """Sizes and version of a frame's files, see `Adapter.stamp`."""

    def stream(self, pending: Iterator[RawFrame]) -> Iterator[tuple[RawFrame, Any]]:
        """Frames with what is ready of them, see `Adapter.stream`."""

    def classes_known(self) -> tuple[str, ...] | None:
        """Classes that the labels distinguish."""

    def describe(self) -> dict[str, Any]:
        """Adapter, path and options."""

    def findings(self) -> dict[str, Any]:
        """What the scan found, see `Adapter.findings`."""


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is prepared.

    Attributes:
        size: (width, height) to resize every frame to, or None.
        hold_out: Share of the training frames that becomes `val` where the source has none; 0 for none.
        skip_bad: Leave bad files out and record them, instead of stopping.
        force: Replace what was prepared with other options.
        workers: Processes; None for all cores.
        ignore: A picture of what is not the scene (`data.fixed`), or `auto` to find it; None for nothing.
    """

    size: tuple[int, int] | None = None
    hold_out: float = 0.0
    skip_bad: bool = False
    force: bool = False
    workers: int | None = None
    ignore: Path | str | None = None


class BadFilesError(IccldError):
    """Raw files that cannot be used, found while `--skip-bad` was not given.

    Attributes:
        files: Each with `file` and `reason`; at most 1,000.
        notices: What the scan came upon and may be the cause.
    """

    def __init__(self, message: str, hint: str, files: list[dict[str, str]], notices: list[str]) -> None:
        super().__init__(message, hint)
        self.files, self.notices = files, notices

    def __reduce__(self) -> tuple[Any, ...]:
        return BadFilesError, (self.message, self.hint, self.files, self.notices)


Progress = Callable[[int, int], None]
"""Called with the number of frames done and the number of all."""


def prepare(
    source: Source,
    out: Path,
    name: str,
    options: PrepareOptions,
    progress: Progress = lambda done, total: None,
    tell: Callable[[str], None] | None = None,
) -> tuple[PreparedDataset, bool]:
    """Prepare one data set.

    Args:
        source: What to read.
        out: Folder that receives the folder `name`.
        name: Name of the prepared data set.
        options: How.
        progress: Called after every frame.
        tell: Called with a line when what another version of the program left unfinished is begun anew; None
            refuses that, as what has other options is refused.

    Returns:
        The prepared data set, and whether anything had to be done.

    Raises:
        BadFilesError: Some files cannot be used.
        IccldError: No frame is found, another run works on this output, or what lies there, finished or not, has
            other options.
    """
    made = not out.exists()
    try:
        with explained(out / name):
            out.mkdir(parents=True, exist_ok=True)
            with locked(out / f".{name}.lock"):
                return _prepare(source, out / name, options, progress, tell)
    finally:
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # only when nothing was kept in it


def check_output(source: Source, out: Path, name: str, options: PrepareOptions, parts: bool = False) -> None:
    """See by the options alone whether a run would refuse what lies where it writes; nothing is listed or written.

    For several sets, so that the first is not prepared before the second is refused.

    Args:
        source: What would be prepared.
        out: Folder that would receive the folder `name`.
        name: Name of the prepared data set.
        options: How.
        parts: Whether it is made in parts, which have a folder of their own.

    Raises:
        IccldError: It would.
    """
    final, origin = out / name, origin_of(source, options)
    with explained(final):
        refuse_other_folder(final)
        if options.force:
            return
        if final.exists():
            info = PreparedDataset(final).info
            if differs := existing.differences_of_set(info, source, origin):
                raise existing.other_set(final, differs)
            if not growth.is_larger(source, info, origin):
                return  # what is unfinished beside it is another set's
            if parts:
                raise existing.cannot_grow(final)
        if not parts and (work := _work_of(final)).exists():
            with locked(out / f".{name}.lock"):
                other = existing.other_work(work, source, origin)
            if other is not None and other.frames:
                raise other.refusal()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the disk and of the journal as sentences about what is prepared."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        known = explain_failure(error, path)
        if known is error:
            raise
        raise known from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file.

    Raises:
        IccldError: Another run has it.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        name = path.name.removeprefix(".").removesuffix(".lock")
        raise IccldError(
            f"another run is preparing {path.parent / name}", "wait for it or choose another --out"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _prepare(
    source: Source, final: Path, options: PrepareOptions, progress: Progress, tell: Callable[[str], None] | None
) -> tuple[PreparedDataset, bool]:
    refuse_other_folder(final)
    work, origin = _work_of(final), origin_of(source, options)
    other = existing.other_work(work, source, origin)
    if other is not None:
        if other.frames and final.exists() and _is_made(source, final, origin, options):
            return PreparedDataset(final), False  # what is unfinished is another set's
        _give_up(other, options, tell)
    existing.mark(work, origin)
    journal = Journal(work / existing.JOURNAL_NAME)
    keep_work = journal.count(DONE) > 0
    try:
        list_frames(source, journal, origin, options)
        larger = final.exists() and growth.is_larger(source, PreparedDataset(final).info, origin)
        if final.exists() and not larger and same_set(final, source, origin, options):
            keep_work = False
            return PreparedDataset(final), False
        keep_work = True
        if larger:
            growth.adopt(final, journal, work / "data")
        region = region_of(source, journal, work, final, options)
        process_frames(source, journal, work / "data", options, region, progress)
        refuse_bad(source, journal, final.name, options)
        write_set(source, journal, work / "data", final.name, origin, options, region)
        if larger:
            growth.copy_further_files(final, work / "data")
        keep_work = False
        move_into_place(work / "data", final)
    finally:
        close_journal(journal)
        if not keep_work:
            shutil.rmtree(work, ignore_errors=True)
    return PreparedDataset(final), True


def _work_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def refuse_other_folder(final: Path) -> None:
    """Refuse a name under which something else than a data set lies.

    Raises:
        IccldError: It does.
    """
    if final.exists() and not (final / INFO_NAME).is_file():
        raise IccldError(f"{final} exists and is no prepared data set", "move it away or choose another --out")


def list_frames(source: Source, journal: Journal, origin: dict[str, Any], options: PrepareOptions) -> int:
    """Take in all frames: how many there are; their digest goes into `origin`.

    Raises:
        IccldError: There is none, or two would get one name.
    """
    total = journal.add((frame, *source.stamp(frame)) for frame in source.scan())
    if total == 0:
        raise IccldError(f"no images found in {origin['path']}", "check the path and the data set's layout")
    if options.hold_out:
        journal.hold_out(options.hold_out)
    origin["digest"] = journal.digest()
    return total


def list_apart(source: Source, origin: dict[str, Any], options: PrepareOptions) -> int:
    """`list_frames` where nothing is kept but the digest."""
    with tempfile.TemporaryDirectory(prefix="iccld-") as place:
        journal = Journal(Path(place) / existing.JOURNAL_NAME)
        try:
            return list_frames(source, journal, origin, options)
        finally:
            close_journal(journal)


def _is_made(source: Source, final: Path, origin: Mapping[str, Any], options: PrepareOptions) -> bool:
    """Whether a finished set is what the run would make; one that it would neither continue nor replace is refused."""
    if growth.is_larger(source, PreparedDataset(final).info, origin):
        return False
    listed = dict(origin)
    list_apart(source, listed, options)
    return same_set(final, source, listed, options)


def _give_up(other: OtherWork, options: PrepareOptions, tell: Callable[[str], None] | None) -> None:
    """Remove unfinished work that a run cannot go on with; where frames are done, only as they are asked to be.

    Raises:
        IccldError: They are not.
    """
    if other.frames and not options.force:
        if tell is None or not other.other_version:
            raise other.refusal()
        tell(f"{other}, which is begun anew")
    shutil.rmtree(other.folder)


def close_journal(journal: Journal) -> None:
    """Close the journal; an error inside the block is raised, not one of closing that follows from it."""
    if sys.exc_info()[0] is None:
        journal.close()
    else:
        with contextlib.suppress(sqlite3.Error):
            journal.close()


def origin_of(source: Source, options: PrepareOptions) -> dict[str, Any]:
    """What `dataset.json` records as `source`: where the frames come from and how they are prepared."""
    origin = source.describe()
    origin["prepared_with"] = {"size": options.size and list(options.size), "hold_out": options.hold_out}
    if options.ignore is not None:
        told = (
            "auto"
            if options.ignore == "auto"
            else hashlib.sha256(read_region(Path(options.ignore)).tobytes()).hexdigest()
        )
        origin["prepared_with"]["ignore_mask"] = told
    return origin


def region_of(source: Source, journal: Journal, work: Path, final: Path, options: PrepareOptions) -> np.ndarray | None:
    """Where frames are not the scene: bool (h, w), or None.

    What was found once stays, for a run that goes on and for a set that grows.
    """
    if options.ignore is None:
        return None
    if options.ignore != "auto":
        return read_region(Path(options.ignore))
    kept = work / IGNORED_NAME
    if not kept.is_file() and not options.force and _found_before(final):
        if not (final / IGNORED_NAME).is_file():
            return None
        shutil.copyfile(final / IGNORED_NAME, kept)
    if not kept.is_file():
        found = find_region(_sampled(source, journal))
        with atomic_path(kept) as path:
            path.write_bytes(_picture(found))
    found = cv2.imdecode(np.frombuffer(kept.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE) > 127
    return found if found.any() else None


def _found_before(final: Path) -> bool:
    """Whether a finished set was searched for what does not move, with or without a find."""
    if not (final / INFO_NAME).is_file():
        return False
    prepared_with = PreparedDataset(final).info.source.get("prepared_with")
    return isinstance(prepared_with, dict) and prepared_with.get("ignore_mask") == "auto"


def _sampled(source: Source, journal: Journal) -> list[np.ndarray]:
    """Frames of equal size, evenly spread over those that are listed: the first size that occurs."""
    total = journal.count()
    wanted = {number * total // SAMPLED for number in range(SAMPLED)} if total > SAMPLED else set(range(total))
    chosen = [frame for number, frame in enumerate(journal.pending()) if number in wanted]
    found: list[np.ndarray] = []
    for frame, ready in source.stream(iter(chosen)):
        if isinstance(ready, str):
            continue
        try:
            raw = ready if ready is not None else source.load(frame)[0]
            image = checks.decode_image(raw).pixels if isinstance(raw, bytes) else raw
        except (FileProblem, IccldError):  # told when its turn comes
            continue
        if not found or image.shape == found[0].shape:
            found.append(image)
    return found


def _picture(region: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", region.astype(np.uint8) * 255)
    assert done
    return data.tobytes()


def process_frames(
    source: Source,
    journal: Journal,
    root: Path,
    options: PrepareOptions,
    region: np.ndarray | None,
    progress: Progress,
) -> None:
    """Process the frames that are not done; stops early where most of them are bad."""
    root.mkdir(exist_ok=True)
    journal.forget_incomplete(root)
    total, todo = journal.count(), journal.count(PENDING)
    done, bad = total - todo, 0
    progress(done, total)
    workers = options.workers or processes.default_workers()
    job = FrameJob(source, root, options.size, region)
    for frame, record in processes.run(job, source.stream(journal.pending()), todo, workers):
        journal.finish(frame.split, frame.key, record)
        done, bad = done + 1, bad + ("reason" in record)
        progress(done, total)
        if bad >= GIVE_UP_AFTER and 2 * bad > done and not options.skip_bad:
            return


def refuse_bad(source: Source, journal: Journal, name: str, options: PrepareOptions, some: bool = False) -> None:
    """Refuse bad files, and a set of nothing else.

    Args:
        source: What is prepared.
        journal: Its frames.
        name: Of the set.
        options: How it is prepared.
        some: Whether these are a part of its frames, which may all be bad.

    Raises:
        BadFilesError: There are some, and they are not to be skipped.
        IccldError: There is nothing else.
    """
    count, total = journal.count(BAD), journal.count()
    if count and not options.skip_bad:
        files = list(itertools.islice(journal.bad(), 1000))
        first = "; ".join(f"{entry['file']} {entry['reason']}" for entry in files[:3])
        raise BadFilesError(
            f"{count} of {total} frames of {name} cannot be used ({first}{' ...' if count > 3 else ''})",
            "mend them or leave them out with --skip-bad; what is done is kept",
            files,
            source.findings().get("notices", []),
        )
    if count == total and not some:
        first_bad = next(journal.bad())
        raise IccldError(f"no frame of {name} can be used ({first_bad['file']} {first_bad['reason']})")


def write_set(
    source: Source,
    journal: Journal,
    root: Path,
    name: str,
    origin: dict[str, Any],
    options: PrepareOptions,
    region: np.ndarray | None,
) -> None:
    """Write everything but the frames: the index, `dataset.json`, the preview and the page."""
    for written in (INDEX_NAME, preview.PREVIEW_NAME, preview.PAGE_NAME, INFO_NAME):
        remove_leftovers(root / written)  # of a run that was killed while it wrote them
    totals = Totals()
    write_index(root / INDEX_NAME, journal.records(), totals)
    twins, pairs = duplicates.find((split, int(record["hash"], 16)) for split, _, record in journal.records())
    shown = preview.choose(sum(totals.splits.values()))
    frames = _frames_at(root / INDEX_NAME, {*shown, *(number for pair in pairs for number in pair)})
    examples = [[frames[one].image, frames[other].image] for one, other in pairs]
    info = DatasetInfo(
        name=name,
        label_space=source.label_space,
        classes_known=source.classes_known() if totals.labelled else None,
        splits=totals.splits,
        size=options.size,
        source=origin,
        tool_version=__version__,
        skipped=(*journal.bad(), *_left_out(source)),
        covers=dict(source.covers) if totals.labelled else {},
        extra={
            **totals.to_json(source.label_space),
            "duplicates": {"frames": twins, "examples": examples},
            **source.findings(),
            **({} if region is None else _ignored(root, region, options.size)),
        },
    )
    threads = options.workers or processes.default_workers()
    preview.write_preview(root, [frames[number] for number in shown], source.label_space, threads)
    preview.write_page(root, info, own_warnings(info))
    write_json(root / INFO_NAME, info.to_json())


def _ignored(root: Path, region: np.ndarray, size: tuple[int, int] | None) -> dict[str, Any]:
    """Write the picture of what is not the scene, stretched as the frames are; what `dataset.json` says of it."""
    if size is not None:
        region = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    data = _picture(region)
    (root / IGNORED_NAME).write_bytes(data)
    return {"ignored": hashlib.sha256(data).hexdigest(), "ignored_share": round(float(region.mean()), 4)}


def _left_out(source: Source) -> list[dict[str, str]]:
    """What lies among the files and must not be opened (pipes, devices): `file` and `reason`."""
    found: dict[str, str] = getattr(getattr(source, "tree", None), "left_out", {})
    return [{"file": path, "reason": found[path]} for path in sorted(found)]


def _frames_at(index: Path, positions: set[int]) -> dict[int, Frame]:
    with open(index, encoding="utf-8") as file:
        return {number: Frame.from_json(line) for number, line in enumerate(file) if number in positions}


def move_into_place(new: Path, final: Path) -> None:
    """Give a finished set its name; one that has it goes."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    shutil.rmtree(old, ignore_errors=True)
