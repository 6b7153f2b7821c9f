"""What a run of predictions has finished, on disk: a killed run goes on, and no part is ever taken for the whole.

    OUT/.predict/lock             held while a run lives; the system lets go of it when the run dies
    OUT/.predict/journal.jsonl    settings, then a line before and a line after an input's results take their names
    OUT/.predict/work/            results under work; emptied by the next run
    OUT/.predict/parts/           a file an input, its share of what is written about all of them

Results are built in `work` and renamed when the whole input is done, a video's folder of labels in one step. An input
with a first line and no second was caught in between: whatever lies under its names is this run's own, and it is
predicted again. When every input is done the folder goes away.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error, write_text
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.remote import UNKNOWN

FORMAT = 1


@dataclass
class _Entry:
    """What is known of one input.

    Attributes:
        stamp: Size and time of change of the input when it was predicted.
        results: Paths below the output folder, with their size in bytes, of a folder the number of its files.
        done: Whether all of them have taken their names.
        problem: What was wrong with the input, as message and hint.
        partial: What an interrupt left of it, under other names.
    """

    stamp: list[int] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)
    done: bool = False
    problem: tuple[str, str | None] | None = None
    partial: list[str] = field(default_factory=list)


_SETTLED = _Entry(done=True)


@dataclass(frozen=True)
class Result:
    """One result of an input.

    Attributes:
        staged: Where it was built, a file or a folder, see `Journal.stage`.
        final: Where it belongs.
    """

    staged: Path
    final: Path


class Journal:
    """The journal of one output folder; a context that holds its lock."""

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        name: str = "predict",
        lines: Callable[[Input], Path] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            out: Output folder.
            settings: What results depend on, JSON-ready: options, model, version.
            name: Of the hidden folder; runs under other names may share the output folder.
            lines: Where the shares of inputs are kept, below `out`, instead of in the hidden folder; there they stay.
        """
        self.out, self.settings = out, json.loads(json.dumps(settings))
        self._folder = out / f".{name}"
        self._file, self._work = self._folder / "journal.jsonl", self._folder / "work"
        self._parts, self._lines = self._folder / "parts", lines
        self._lock = FileLock(self._folder / "lock", timeout=0)
        self._entries: dict[str, _Entry] = {}
        self._mine: set[str] = set()
        self._numbers = itertools.count(1)  # results are built in several threads
        self._made: list[Path] = []

    def __enter__(self) -> Journal:
        """Lock the folder, read what an earlier run left and remove what it had under work.

        Raises:
            IccldError: Another run is working there, an unfinished one had other settings, or nothing can be written.
        """
        try:
            self._made = [path for path in (self.out, *self.out.parents) if not path.exists()]
            self._folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._read()
                self._clear()
                self._work.mkdir(exist_ok=True)
                self._write()
            except BaseException:
                self._release(remove=False)
                raise
        except OSError as error:
            raise explain_os_error(error, self.out) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self._work, ignore_errors=True)
            if kind is None:
                for key in self._mine:
                    _remove(self._part(key))
                self._entries = {key: entry for key, entry in self._entries.items() if key not in self._mine}
                if self._entries:
                    self._write()
        self._release(remove=not self._entries)

    def finished(self, item: Input) -> bool:
        """Whether an earlier run predicted this input, unchanged, and all its results are still there."""
        entry = self._entry(item)
        return (
            entry is not None
            and entry.done
            and item.stamp != UNKNOWN  # a server that says nothing of its file may have another one now
            and entry.stamp == _stamp(item)
            and all(_measure(self.out / path) == size for path, size in entry.results.items())
        )

    def owns(self, item: Input) -> bool:
        """Whether results under this input's names are an unfinished run's own, to be replaced without a question."""
        return self._entry(item) is not None

    def problem(self, item: Input) -> IccldError | None:
        """What was wrong with a finished input."""
        entry = self._entry(item)
        return None if entry is None or entry.problem is None else IccldError(*entry.problem)

    def stage(self, suffix: str = "") -> Path:
        """A path to build a result at, on the same disk as its final one, with a name that always fits."""
        return self._work / f"{next(self._numbers)}{suffix}"

    def part(self, item: Input) -> Path:
        """Where the lines that an input adds to the files about all inputs are kept until all are done."""
        return self._part(_key(item)) if self._lines is None else self._lines(item)

    def publish(self, done: Sequence[tuple[Input, Sequence[Result], IccldError | None]]) -> None:
        """Give results their names; inputs that shared a pass go together, so that they share it again after a crash.

        Args:
            done: Inputs, each with all its results and what was wrong with it.

        Raises:
            IccldError: The disk is full or the folder cannot be written.
        """
        for item, results, problem in done:
            entry = self._entries.setdefault(_key(item), _Entry())
            entry.stamp, entry.done = _stamp(item), False
            entry.results = {_below(r.final, self.out): _measure(r.staged) or 0 for r in results}
            entry.problem = None if problem is None else (problem.message, problem.hint)
            self._mine.add(_key(item))
        self._append(item for item, _, _ in done)
        for _, results, _ in done:
            for result in results:
                self._replace(result.staged, result.final)
        leftovers: list[str] = []
        for item, _, _ in done:
            entry = self._entries[_key(item)]
            leftovers += entry.partial
            entry.done, entry.partial = True, []
        self._append(item for item, _, _ in done)
        for item, _, _ in done:
            self._entries[_key(item)] = _SETTLED  # the file has it; memory shall not grow with the results
        for path in leftovers:
            _remove(self.out / path)

    def publish_partial(self, item: Input, results: Sequence[Result]) -> list[Path]:
        """Leave what is done of an interrupted input under names that say so; they go when it is finished.

        Args:
            item: The input.
            results: `final` is the name that says so.

        Returns:
            The names that were given; one that somebody else's file has is not.
        """
        entry = self._entries.setdefault(_key(item), _Entry())
        self._mine.add(_key(item))
        given = [r for r in results if not os.path.lexists(r.final) or _below(r.final, self.out) in entry.partial]
        entry.partial = sorted({*entry.partial, *(_below(r.final, self.out) for r in given)})
        self._append([item])
        for result in given:
            self._replace(result.staged, result.final)
        return [result.final for result in given]

    def claim(self, items: Sequence[Input]) -> None:
        """Say which inputs this run is responsible for: their entries go when it ends well."""
        self._mine.update(_key(item) for item in items)

    def _part(self, key: str) -> Path:
        return self._parts / f"{hashlib.sha256(os.fsencode(key)).hexdigest()}.jsonl"

    def _entry(self, item: Input) -> _Entry | None:
        return self._entries.get(_key(item))

    def _replace(self, staged: Path, final: Path) -> None:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_dir() and not final.is_symlink():
                os.replace(final, self.stage())  # a folder cannot be replaced in one step
            os.replace(staged, final)
        except OSError as error:
            raise explain_os_error(error, final) from error

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise IccldError(
                f"another run is writing to {self.out}", "wait for it, end it, or choose another --out"
            ) from None

    def _clear(self) -> None:
        """Remove what a killed run had under work; nobody else has anything here while the lock is held."""
        keep = {self._file.name, Path(self._lock.lock_file).name, self._parts.name}
        for path in self._folder.iterdir():
            if path.name not in keep:
                _remove(path)

    def _release(self, remove: bool) -> None:
        if remove:
            _remove(self._file)
            _remove(self._parts)
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink()
        if remove:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                for path in self._made:  # only what this run made and left empty
                    path.rmdir()
        self._lock.release()

    def _read(self) -> None:
        """Take in an earlier run's lines; a last one that was cut off does not count."""
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        except UnicodeDecodeError:
            lines = []
        head, *rest = [*_objects(lines)] or [{}]
        self._compare(head)
        for line in rest:
            try:
                entry = _Entry(
                    [int(n) for n in line["stamp"]],
                    {str(path): int(size) for path, size in line["results"].items()},
                    line["done"] is True,
                    None if line["problem"] is None else (str(line["problem"][0]), line["problem"][1]),
                    [str(path) for path in line["partial"]],
                )
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                continue
            if all(_inside(path) for path in (*entry.results, *entry.partial)):
                self._entries[str(line.get("input"))] = entry

    def _compare(self, head: dict[str, Any]) -> None:
        before = head.get("settings")
        if head.get("format") != FORMAT or not isinstance(before, dict):
            raise IccldError(f"the journal {self._file} cannot be read", f"remove {self._folder} and run again")
        names = [*self.settings, *(name for name in before if name not in self.settings)]
        differs = [
            f"{name} was {_brief(before.get(name))}, now {_brief(self.settings.get(name))}"
            for name in names
            if before.get(name) != self.settings.get(name)
        ]
        if differs:
            raise IccldError(
                f"{self.out} holds an unfinished run with other settings ({'; '.join(differs)})",
                f"give the same ones to finish it, or another --out, or remove {self._folder} to give it up",
            )

    def _write(self) -> None:
        lines = [json.dumps({"format": FORMAT, "settings": self.settings})]
        lines += [self._line(key) for key in self._entries]
        write_text(self._file, "\n".join(lines) + "\n")

    def _append(self, items: Sequence[Input] | Iterator[Input]) -> None:
        try:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write("".join(self._line(_key(item)) + "\n" for item in items))
        except OSError as error:
            raise explain_os_error(error, self._file) from error

    def _line(self, key: str) -> str:
        entry = self._entries[key]
        return json.dumps({"input": key, **entry.__dict__})


def staged_file(journal: Journal, final: Path, write: Callable[[Path], object]) -> Result:
    """Build a result file and see it to the disk.

    Args:
        journal: Where.
        final: The name it will have.
        write: Called with the path to write to.

    Raises:
        IccldError: The disk is full or the folder cannot be written.
    """
    path = journal.stage(final.suffix)
    try:
        write(path)
        sync(path)
    except OSError as error:
        raise explain_os_error(error, final) from error
    return Result(path, final)


def sync(path: Path) -> None:
    """See a file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _key(item: Input) -> str:
    where = os.path.abspath(item.path) if item.source is None else f"{item.where} {item.identity[:16]}"
    return f"{where} -> {item.name.as_posix()}"


def _stamp(item: Input) -> list[int]:
    if item.source is not None:
        return [*item.stamp]
    try:
        stat = item.path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _measure(path: Path) -> int | None:
    """Size of a file in bytes, number of files in a folder, None for nothing."""
    try:
        return len(os.listdir(path)) if path.is_dir() else path.stat().st_size
    except OSError:
        return None


def _below(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()


def _inside(path: str) -> bool:
    """Whether a path of the journal stays in the output folder: a journal can be handed on like any file."""
    parts = Path(path).parts
    return bool(parts) and not Path(path).is_absolute() and ".." not in parts


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _objects(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
