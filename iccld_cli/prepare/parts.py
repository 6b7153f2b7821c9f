"""A data set prepared in parts: `iccld prepare --part I/N`.

    DATA/NAME.parts/I-of-N/part.json         what the part is made of, and whether it is done
    DATA/NAME.parts/I-of-N/journal.sqlite    its frames, see `prepare.journal`
    DATA/NAME.parts/I-of-N/data/             their files

Every part lists all frames, in the order of the index, and makes its share of them. Joining lists them once more, takes
in the records of the parts and writes the rest as a single run does, so that the result has the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iccld_cli import __version__
from iccld_cli.data.prepared import IGNORED_NAME, INFO_NAME, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import link_or_copy, write_json
from iccld_cli.parts import Part, begun, what_lacks
from iccld_cli.plainjson import parse_json
from iccld_cli.prepare import growth
from iccld_cli.prepare.existing import JOURNAL_NAME, cannot_grow, differences, same_set
from iccld_cli.prepare.journal import DONE, PENDING, Journal
from iccld_cli.prepare.prepare import (
    PrepareOptions,
    Progress,
    Source,
    close_journal,
    explained,
    list_apart,
    list_frames,
    locked,
    move_into_place,
    origin_of,
    process_frames,
    refuse_bad,
    refuse_other_folder,
    region_of,
    write_set,
)

FORMAT = 1
HEAD, _JOURNAL, _DATA = "part.json", JOURNAL_NAME, "data"


def prepare_part(
    source: Source,
    out: Path,
    name: str,
    options: PrepareOptions,
    part: Part,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, int, bool]:
    """Make one part of a data set.

    Args:
        source: What to read.
        out: Folder that receives the folder `name` when the parts are joined.
        name: Name of the prepared data set.
        options: How.
        part: Which part.
        progress: Called after every frame.

    Returns:
        The part's folder, how many frames it has, and whether anything had to be done.

    Raises:
        BadFilesError: Some files cannot be used.
        IccldError: No frame is found, the part is being made, or parts with other options lie there.
    """
    folder = folder_of(out, name) / part.name
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{part.name}.lock"):
            return _part(source, folder, out / name, options, part, progress)


def _part(
    source: Source, folder: Path, final: Path, options: PrepareOptions, part: Part, progress: Progress
) -> tuple[Path, int, bool]:
    origin = origin_of(source, options)
    _refuse_others(final, origin, part)
    journal = Journal(folder / _JOURNAL)
    try:
        total = list_frames(source, journal, origin, options)
        if _exists(source, final, origin, options):
            return final, total, False
        head = _refuse_others(final, origin, part)
        found = _read_head(folder) if (folder / HEAD).exists() else None
        region = region_of(source, journal, folder, final, options)  # of all frames, while all are listed
        journal.restrict(total * (part.number - 1) // part.of, total * part.number // part.of)
        journal.forget_incomplete(folder / _DATA, bad=False)  # a part that is done may have lost files since
        if found is not None and found["done"] and not journal.count(PENDING):
            return folder, journal.count(), False
        write_json(folder / HEAD, {**head, "done": False})
        process_frames(source, journal, folder / _DATA, options, region, progress)
        refuse_bad(source, journal, final.name, options, some=True)
        write_json(folder / HEAD, {**head, "done": True})
        return folder, journal.count(), True
    finally:
        close_journal(journal)
        if not (folder / HEAD).exists():  # nothing was begun
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def _refuse_others(final: Path, origin: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """Refuse a part beside those of another set; what it says of itself."""
    head = {"format": FORMAT, "version": __version__, "part": [part.number, part.of], "origin": origin}
    head = json.loads(json.dumps(head))
    for other in part_folders(final.parent, final.name):
        _compare(_read_head(other), head, other)
    return head


def check_part(source: Source, out: Path, name: str, options: PrepareOptions, part: Part) -> None:
    """See by the options alone whether a part would be refused beside others; for several sets, as `check_output` is.

    Raises:
        IccldError: It would.
    """
    with explained(folder_of(out, name)):
        _refuse_others(out / name, origin_of(source, options), part)


def same_part(source: Source, folder: Path, options: PrepareOptions, part: Part) -> int | None:
    """Whether a part that lies elsewhere is this one and done.

    Args:
        source: What it is made of.
        folder: Where what it says of itself (`part.json`) lies.
        options: How it is made.
        part: Which it is.

    Returns:
        How many frames it has; None where it is not done.

    Raises:
        IccldError: It is a part of another set.
    """
    origin = origin_of(source, options)
    total = list_apart(source, origin, options)
    head = {"format": FORMAT, "version": __version__, "part": [part.number, part.of], "origin": origin}
    found = _read_head(folder)
    _compare(found, json.loads(json.dumps(head)), folder)
    return total * part.number // part.of - total * (part.number - 1) // part.of if found["done"] else None


def existing_set(source: Source, out: Path, name: str, options: PrepareOptions) -> bool:
    """Whether the set is prepared already.

    Raises:
        IccldError: It was prepared otherwise, and is not to be replaced; or it would grow, which parts cannot do.
    """
    if not (out / name / INFO_NAME).is_file():
        return False
    origin = origin_of(source, options)
    list_apart(source, origin, options)
    return _exists(source, out / name, origin, options)


def merge_parts(
    source: Source, out: Path, name: str, options: PrepareOptions, progress: Progress = lambda done, total: None
) -> tuple[PreparedDataset, int]:
    """Join the parts of a data set.

    Args:
        source: What they were made of; it is listed, its files are not read.
        out: Folder that receives the folder `name`.
        name: Name of the prepared data set.
        options: How they were made.
        progress: Called after every frame.

    Returns:
        The prepared data set, and the number of parts.

    Raises:
        IccldError: Parts are missing, not finished, damaged, or made with other options; nothing is left then.
    """
    with explained(out / name), contextlib.ExitStack() as held:
        if out.is_dir():
            held.enter_context(locked(out / f".{name}.lock"))
        return _merge(source, out, name, options, progress)


def _merge(
    source: Source, out: Path, name: str, options: PrepareOptions, progress: Progress
) -> tuple[PreparedDataset, int]:
    final = out / name
    refuse_other_folder(final)
    folders = part_folders(out, name)
    if not folders:
        raise IccldError(f"no part lies in {folder_of(out, name)}", "make parts with --part 1/N to --part N/N")
    heads = {folder: _read_head(folder) for folder in folders}
    count = int(heads[folders[0]]["part"][1])
    work = out / f".{name}.joining"
    shutil.rmtree(work, ignore_errors=True)
    origin = origin_of(source, options)
    journal = Journal(work / _JOURNAL)
    try:
        total = list_frames(source, journal, origin, options)
        wanted = {
            "format": FORMAT,
            "version": __version__,
            "part": [0, count],
            "origin": json.loads(json.dumps(origin)),
        }
        for folder, head in heads.items():
            _compare(head, wanted, folder)
        if _exists(source, final, origin, options):  # killed while it removed the parts
            shutil.rmtree(folder_of(out, name), ignore_errors=True)
            return PreparedDataset(final), count
        _refuse_missing(heads, count, total)
        (work / _DATA).mkdir()
        if (folders[0] / IGNORED_NAME).is_file():
            shutil.copyfile(folders[0] / IGNORED_NAME, work / IGNORED_NAME)
        region = region_of(source, journal, work, final, options)
        done = 0
        for folder in folders:
            for split, key, record in _records(folder):
                for path in record.get("files", {}):
                    taken = work / _DATA / path
                    taken.parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(FileNotFoundError):  # `_refuse_lost` says so
                        link_or_copy(folder / _DATA / path, taken)
                journal.finish(split, key, record)
                done += 1
                progress(done, total)
        _refuse_lost(journal, work / _DATA, folder_of(out, name))
        refuse_bad(source, journal, name, options)
        write_set(source, journal, work / _DATA, name, origin, options, region)
        move_into_place(work / _DATA, final)
    finally:
        close_journal(journal)
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder_of(out, name), ignore_errors=True)
    return PreparedDataset(final), count


def folder_of(out: Path, name: str) -> Path:
    """Where the parts of a data set lie."""
    return out / f"{name}.parts"


def part_folders(out: Path, name: str) -> list[Path]:
    """Folders of the parts that have begun, by number."""
    return begun(folder_of(out, name), HEAD)


def _exists(source: Source, final: Path, origin: dict[str, Any], options: PrepareOptions) -> bool:
    """Whether the set is prepared already; one that was prepared otherwise is refused, unless it is to be replaced."""
    if not (final / INFO_NAME).is_file():
        return False
    if growth.is_larger(source, PreparedDataset(final).info, origin):
        raise cannot_grow(final)
    return same_set(final, source, origin, options)


def _records(folder: Path) -> Iterator[tuple[str, str, dict]]:
    journal = Journal(folder / _JOURNAL)
    try:
        yield from journal.finished()
    finally:
        close_journal(journal)


def _refuse_missing(heads: Mapping[Path, Mapping[str, Any]], count: int, total: int) -> None:
    done = {int(head["part"][0]) for head in heads.values() if head["done"]}
    there = {int(head["part"][0]) for head in heads.values()}
    wanted = [n for n in range(1, count + 1) if total * (n - 1) // count < total * n // count and n not in done]
    if not wanted:
        return
    words, hint = what_lacks([n for n in wanted if n not in there], [n for n in wanted if n in there], count)
    frames = sum(total * n // count - total * (n - 1) // count for n in wanted)
    raise IccldError(f"{words}, {frames} of {total} frames", f"{hint}; nothing was joined")


def _refuse_lost(journal: Journal, root: Path, folder: Path) -> None:
    """Refuse parts that lack files or frames."""
    bad = {(split, key) for split, key, record in journal.finished() if "reason" in record}
    for split, key, record in journal.finished():
        if (split, key) in bad:
            continue
        for path, size in record["files"].items():
            if not (root / path).is_file() or (root / path).stat().st_size != size:
                raise IccldError(f"a part in {folder} lacks {path}, or has a damaged one", "run the parts again")
    lost = next(journal.pending(), None)
    if lost is not None:
        raise IccldError(
            f"no part in {folder} has {lost.image} and {journal.count(PENDING) - 1} more", "run the parts again"
        )
    assert journal.count(DONE) or bad


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / HEAD
    try:
        raw = parse_json(path.read_bytes())
        number, of = raw["part"]
        if raw["format"] != FORMAT or Part(number, of) != Part.named(folder):
            raise ValueError
        if not isinstance(raw["origin"], dict) or not isinstance(raw["done"], bool):
            raise ValueError
        return raw
    except (OSError, ValueError, KeyError, TypeError):
        raise IccldError(f"{path} is damaged or of another version", f"remove {folder} and run it again") from None


def _compare(one: Mapping[str, Any], other: Mapping[str, Any], folder: Path) -> None:
    """Refuse parts that do not belong together; a digest counts where both have one."""
    differs = []
    if one["version"] != other["version"]:
        differs.append(f"version {one['version']}, not {other['version']}")
    if one["part"][1] != other["part"][1]:
        differs.append(f"one of {one['part'][1]} parts, not of {other['part'][1]}")
    differs += differences(one["origin"], other["origin"])
    digests = [side["origin"].get("digest") for side in (one, other)]
    if not differs and None not in digests and digests[0] != digests[1]:
        differs.append("the source's files are others")
    if differs:
        raise IccldError(
            f"{folder} is a part of another set ({'; '.join(differs)})",
            "give the same options and version for all parts, another --out, or remove that folder",
        )
