"""Joining the parts that `iccld predict --part I/N` made into what a single run writes.

Nothing is predicted and no model is opened. Everything is checked first: which parts are there, whether they are done
and belong together, and whether a result would replace another. Results then take their names through a journal, as
those of a run do: a join that was killed goes on with the same command, and no name ever holds a piece. Files are
linked where parts and results share a disk, else copied; videos are joined by `joining.join_videos`, without encoding.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from iccld_cli import __version__
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error, link_or_copy, write_json
from iccld_cli.header import ModelHeader
from iccld_cli.inference import collected
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.joining import Stretch, join_videos
from iccld_cli.inference.journal import Journal, Result, sync
from iccld_cli.inference.outputs import FRAME_FILES, KINDS, output_path
from iccld_cli.inference.parts import (
    INPUTS,
    VideoFacts,
    again,
    compare,
    facts_path,
    lines_path,
    part_folders,
    read_head,
    read_problems,
)
from iccld_cli.inference.predict import without_existing, write_collected
from iccld_cli.inference.predict_options import DEFAULT_THRESHOLD, PredictOptions, Summary
from iccld_cli.names import shown
from iccld_cli.parts import FOLDER, Part, what_lacks
from iccld_cli.plainjson import parse_json

_MERGED = "merged.json"
_REMOVED = ".parts.joined"
"""What the folder of the parts is called while it is removed."""

_SHOWN = 3


@dataclass(frozen=True)
class _Row:
    """A line of `inputs.jsonl`: an input, what to call it, and the parts that have to do with it."""

    item: Input
    where: str
    parts: range


class Parts:
    """The parts of one work.

    Attributes:
        folders: Number of the part -> its folder, of those that are done.
        of: How many there are to be.
        rows: All inputs.
        head: What the parts say about themselves.
    """

    def __init__(self, given: Sequence[Path]) -> None:
        """Find them.

        Args:
            given: Output folders of the parts.

        Raises:
            IccldError: There are none, they do not belong together, or one cannot be read.
        """
        self.folders: dict[int, Path] = {}
        unfinished: dict[int, Path] = {}
        first: dict[str, Any] | None = None
        for folder in (found for out in given for found in part_folders(out)):
            head = read_head(folder)
            if first is not None:
                compare(head, first, folder)
            first = first or head
            number = head["part"][0]
            if head["done"]:
                self.folders.setdefault(number, folder)
            else:
                unfinished.setdefault(number, folder)
        if first is None:
            places = " and ".join(str(path) for path in given[:_SHOWN])
            raise IccldError(f"no part lies in {places}", "make parts with --part 1/N to --part N/N")
        self.head, self.of = first, int(first["part"][1])
        self.unfinished = [number for number in unfinished if number not in self.folders]
        lists = [out / FOLDER / INPUTS for out in given if part_folders(out)]
        inputs = str(first["inputs"])
        self.rows = _read_rows(next((path for path in lists if _list_of(path, inputs)), lists[0]), self.of, inputs)

    def refuse_missing(self) -> None:
        """Say which parts are missing.

        Raises:
            IccldError: Some are, or are not done.
        """
        wanted = {number for row in self.rows for number in row.parts}
        missing = [n for n in range(1, self.of + 1) if n not in self.folders and n not in self.unfinished]
        if not wanted - self.folders.keys():
            return  # parts that have nothing to do need not have run
        missing = [number for number in missing if number in wanted]
        unfinished = [number for number in sorted(self.unfinished) if number in wanted]
        words, hint = what_lacks(missing, unfinished, self.of)
        rows = [row for row in self.rows if {*missing, *unfinished} & {*row.parts}]
        names = ", ".join(row.where for row in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN} more inputs" if len(rows) > _SHOWN else ""
        raise IccldError(f"{words} ({names}{more})", f"{hint}; nothing was joined")

    def refuse_others(self, expected: Collection[str]) -> None:
        """Say which inputs the parts do not know, and the other way round.

        Raises:
            IccldError: There are some.
        """
        known = {row.item.name.as_posix() for row in self.rows}
        for names, words in ((set(expected) - known, "in no part"), (known - set(expected), "in the parts alone")):
            if names:
                first = ", ".join(sorted(names)[:_SHOWN])
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                raise IccldError(
                    f"{first}{more} {'is' if len(names) == 1 else 'are'} {words}",
                    "name the inputs that the parts were made of, or none; nothing was joined",
                )


def merge(
    out: Path,
    folders: Sequence[Path],
    *,
    expected: Collection[str] | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Summary, int]:
    """Join parts.

    Args:
        out: Folder for the results. Parts that lie in it are removed when they are joined, others stay.
        folders: Output folders of the parts; `out` where there are none.
        expected: Names of the inputs that the parts should have had; None where that is not known.
        overwrite: Replace results that exist.
        skip_existing: Leave out inputs whose results exist.
        progress: Called with (inputs done, inputs in all).

    Returns:
        What a single run would have returned, and the number of parts.

    Raises:
        IccldError: Parts are missing, unfinished, damaged, or do not belong together; or a result exists already or
            cannot be written.
    """
    given = list(folders) or [out]
    mine = out in given
    told = out / FOLDER / _MERGED
    removed = out / _REMOVED
    if mine and not part_folders(out) and (before := _read_summary(removed / _MERGED)) is not None:
        _remove(removed)  # a join was killed while it removed its parts
        return before[1:]
    parts = Parts(given)
    _remove(removed)
    if mine and (before := _read_summary(told)) is not None and before[0] == _work(parts):
        with Journal(out, _settings(parts)) as journal:
            journal.claim([row.item for row in parts.rows])
        _remove(out / FOLDER, removed)
        return before[1:]
    if mine:
        told.unlink(missing_ok=True)
    parts.refuse_missing()
    if expected is not None:
        parts.refuse_others(expected)
    try:
        header = ModelHeader.from_json(parts.head["header"])
        options = _options(parts.head["settings"], out, overwrite, skip_existing)
    except (KeyError, TypeError, ValueError) as error:
        folder = parts.folders[min(parts.folders)]
        raise IccldError(f"{folder} is damaged", again(folder)) from error
    source = collected.dataset_source(header, str(parts.head["settings"]["model"]), options.threshold)
    if "dataset" in options.save:
        collected.refuse_other_dataset(out, source)
    with Journal(out, _settings(parts)) as journal:
        summary = _Join(parts, options, header, journal).run(progress, source)
        if mine:
            _write_summary(told, parts, summary)
    if mine:
        _remove(out / FOLDER, removed)
    return summary, parts.of


def holds_parts(out: Path) -> bool:
    """Whether an output folder has parts, or what a join that was killed while it removed them left."""
    return bool(part_folders(out)) or (out / _REMOVED / _MERGED).is_file()


def _work(parts: Parts) -> dict[str, Any]:
    """What tells a joined work from another one."""
    return {"parts": parts.of, "inputs": parts.head["inputs"], "settings": parts.head["settings"]}


def _write_summary(path: Path, parts: Parts, summary: Summary) -> None:
    """Say what joining found, for a join that finishes a killed one."""
    found = {
        "images": summary.images,
        "frames": summary.frames,
        "skipped": summary.skipped,
        "problems": [[shown(where), shown(p.message), p.hint and shown(p.hint)] for where, p in summary.problems],
        "to label": list(summary.to_label),
    }
    write_json(path, {**_work(parts), "found": found})


def _read_summary(path: Path) -> tuple[dict[str, Any], Summary, int] | None:
    """What was joined, what that found and the number of parts; None where there is no such file or it is damaged."""
    try:
        raw = parse_json(path.read_bytes())
        found, work = raw["found"], {name: raw[name] for name in ("parts", "inputs", "settings")}
        problems = [
            (str(where), IccldError(str(message), None if hint is None else str(hint)))
            for where, message, hint in found["problems"]
        ]
        counts = [int(found[name]) for name in ("images", "frames", "skipped")]
        listed = tuple(str(line) for line in found["to label"])
        return work, Summary(counts[0], counts[1], counts[2], tuple(problems), 0, listed), int(work["parts"])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _settings(parts: Parts) -> dict[str, Any]:
    """Of the journal: a join and a run are not taken for each other."""
    return {"version": __version__, "joined parts": parts.of, "inputs": parts.head["inputs"], **parts.head["settings"]}


class _Join:
    def __init__(self, parts: Parts, options: PredictOptions, header: ModelHeader, journal: Journal) -> None:
        self.parts, self.options, self.header, self.journal = parts, options, header, journal
        self.problems: dict[int, list[tuple[int, IccldError]]] = {}
        for number, folder in parts.folders.items():
            for position, _, problem in read_problems(folder):
                self.problems.setdefault(position, []).append((number, problem))

    def run(self, progress: Callable[[int, int], None], source: dict[str, Any]) -> Summary:
        rows = self.parts.rows
        chosen = [row.item for row in rows]
        left = [item for item in chosen if not self.journal.finished(item)]
        todo = set(without_existing(left, chosen, self.options, self.journal))
        self.journal.claim(chosen)
        images = frames = 0
        problems: list[tuple[str, IccldError]] = []
        progress(0, len(rows))
        for position, row in enumerate(rows):
            found, problem = self._input(position, row, row.item in todo)
            images += found if not row.item.is_video else 0
            frames += found if row.item.is_video else 0
            if problem is not None:
                problems.append((row.where, problem))
            progress(position + 1, len(rows))
        listed, dataset = write_collected(self.options, chosen, self.journal, self.header, source)
        return Summary(images, frames, len(left) - len(todo), tuple(problems), 0, tuple(listed), dataset)

    def _input(self, position: int, row: _Row, wanted: bool) -> tuple[int, IccldError | None]:
        """Join one input's results: how many images or frames there are, and what was wrong with it."""
        folders = [self.parts.folders[number] for number in row.parts]
        name = row.item.name.as_posix()
        broken = self.problems.get(position, [])
        if not row.item.is_video:
            if broken:
                return 0, broken[0][1]
            if wanted:
                self._publish(row, [(folder, 0, 1) for folder in folders], None)
            return 1, None
        known = [path for folder in folders if (path := facts_path(folder, name)).exists()]
        if len(known) < len(folders):
            if broken:
                return 0, broken[0][1]
            if not wanted:  # the parts left it out as well
                return 0, None
            lacking = next(folder for folder in folders if facts_path(folder, name) not in known)
            raise IccldError(f"{lacking} lacks what it had of {row.where}", again(lacking))
        facts = [VideoFacts.read(path, folder) for path, folder in zip(known, folders, strict=True)]
        whole = VideoFacts.joined(facts)
        kinds = self.options.kinds()
        described = output_path(row.item, kinds[0], self.options.out) if kinds else self.options.out
        problem = whole.problem(row.where, str(described), self.options.narrowed())
        if wanted and whole.found:
            found = zip(folders, facts, strict=True)
            stretches = [(folder, one.ticks, one.found) for folder, one in found if one.found]
            self._publish(row, stretches, problem)
        return whole.found, problem

    def _publish(self, row: _Row, stretches: list[tuple[Path, int, int]], problem: IccldError | None) -> None:
        """Give an input's results, of which each folder has a stretch from a time on of so many frames, their names."""
        results = []
        try:
            for kind in self.options.kinds():
                final = output_path(row.item, kind, self.options.out)
                pieces = [(output_path(row.item, kind, folder), ticks) for folder, ticks, _ in stretches]
                staged = self.journal.stage(final.suffix if final.suffix in (".mp4", ".png", ".jpg") else "")
                if row.item.is_video and kind in FRAME_FILES:
                    staged.mkdir()
                    for (piece, _), (folder, _, count) in zip(pieces, stretches, strict=True):
                        files = sorted(os.listdir(piece))
                        if len(files) != count:
                            raise IccldError(f"{piece} has {len(files)} of {count} files", again(folder))
                        for file in files:
                            link_or_copy(piece / file, staged / file)
                elif len(pieces) == 1:
                    link_or_copy(pieces[0][0], staged)
                else:
                    join_videos([Stretch(path, ticks) for path, ticks in pieces], staged, _unlike)
                    sync(staged)
                results.append(Result(staged, final))
            if self.options.collects():
                staged = self.journal.stage(".jsonl")
                with open(staged, "wb") as whole:
                    for folder, _, _ in stretches:
                        whole.write(lines_path(folder, row.item.name.as_posix()).read_bytes())
                sync(staged)
                results.append(Result(staged, self.journal.part(row.item)))
        except FileNotFoundError as error:
            missing = Path(str(error.filename))
            lacking = next((folder for folder, _, _ in stretches if folder in missing.parents), missing.parent)
            raise IccldError(f"{missing} is missing", again(lacking)) from None
        except OSError as error:
            raise explain_os_error(error, self.options.out) from error
        self.journal.publish([(row.item, results, problem)])


def _unlike(reason: str) -> IccldError:
    return IccldError(f"the parts do not fit together: {reason}", "make all parts on machines of one kind")


def _remove(folder: Path, under: Path | None = None) -> None:
    """Remove the parts, the mark that they are joined last.

    Args:
        folder: Where they lie.
        under: A name that the folder gets first, in one step: later parts then begin in a folder of their own.
    """
    if not folder.is_dir():
        return
    at = folder
    if under is not None:
        try:
            os.replace(folder, under)
            at = under
        except OSError:
            pass  # something else has that name
    for path in at.iterdir():
        if Part.named(path) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for name in (INPUTS, _MERGED):
        (at / name).unlink(missing_ok=True)
    try:
        at.rmdir()
    except OSError:  # something else lies there
        if not (at / _MERGED).exists() and not (at.with_name(FOLDER)).exists():
            os.replace(at, at.with_name(FOLDER))


def _options(settings: dict[str, Any], out: Path, overwrite: bool, skip_existing: bool) -> PredictOptions:
    save = tuple(str(kind) for kind in settings["save"])
    if not set(save) <= set(KINDS):
        raise ValueError("kinds")
    start, end = (None if settings[name] is None else Fraction(settings[name]) for name in ("start", "end"))
    threshold = DEFAULT_THRESHOLD if settings["threshold"] is None else float(settings["threshold"])
    return PredictOptions(
        out,
        save,
        every=int(settings["every"]),
        start=start,
        end=end,
        threshold=threshold,
        to_label=int(settings["to label"]),
        overwrite=overwrite,
        skip_existing=skip_existing,
    )


def _list_of(path: Path, inputs: str) -> bool:
    """Whether a file lists the inputs of this digest."""
    try:
        with open(path, encoding="utf-8") as file:
            return bool(json.loads(file.readline())["inputs"] == inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_rows(path: Path, of: int, inputs: str) -> list[_Row]:
    """Read `inputs.jsonl`; it must be the list that the parts were made of, whose digest is `inputs`."""
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            first = json.loads(file.readline())
            if first["inputs"] != inputs:
                raise IccldError(f"{path} lists other inputs than those of the parts", "run one of the parts again")
            for line in file:
                raw = json.loads(line)
                name = PurePosixPath(raw["name"])
                begin, end = raw["parts"]
                if name.is_absolute() or ".." in name.parts or not 1 <= begin <= end <= of:
                    raise ValueError
                item = Input(Path(raw["path"]), name, raw["video"] is True)
                rows.append(_Row(item, shown(raw["where"]), range(begin, end + 1)))
        if len(rows) != first["count"]:
            raise ValueError
    except FileNotFoundError:
        raise IccldError(f"{path} is missing", "run one of the parts again") from None
    except (OSError, KeyError, TypeError, ValueError):
        raise IccldError(f"{path} is damaged", "remove it and run one of the parts again") from None
    return rows
