"""Scores in parts: `iccld evaluate --part I/N`.

    SCORES.json.parts/I-of-N.jsonl    a line about what is scored, then a line for each piece of frames and run

A piece is `PIECE` frames of the split, in order; its line holds counts, which are added up, and the counts of each
frame, of which intervals and groups are made. A single run adds the same pieces up in the same order, so that joined
numbers equal its own to the last digit, where its batches are theirs: frames have one size and the batch size divides
`PIECE`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error, write_text
from iccld_cli.parts import Part, differences, shares, what_lacks

FORMAT = 1
PIECE = 16
"""Frames of a piece. Batches of parts end with it."""

State = dict[str, Any]
"""What a piece adds to the scores, see `pack`."""


def pieces(frames: int) -> range:
    """Numbers of the pieces of a split."""
    return range(-(-frames // PIECE))


def share_of(part: Part, frames: int) -> range:
    """Numbers of the pieces that a part scores."""
    return shares([1] * len(pieces(frames)), part.of)[part.number - 1]


def folder_of(scores: Path) -> Path:
    """Where the parts of a file of scores lie."""
    return scores.with_name(scores.name + ".parts")


def pack(values: np.ndarray) -> list[Any]:
    """An array of whole numbers as JSON: shape, and its bytes compressed."""
    data = zlib.compress(np.ascontiguousarray(values, "<i8").tobytes())
    return [list(values.shape), base64.b64encode(data).decode("ascii")]


def unpack(raw: Any) -> np.ndarray:
    """The int64 array of `pack`.

    Raises:
        ValueError: It is none.
    """
    shape, data = raw
    size = int(np.prod([int(side) for side in shape], dtype=np.int64))
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(base64.b64decode(data, validate=True), 8 * size + 1)
    except zlib.error:
        raise ValueError("no compressed array") from None
    return np.frombuffer(found, "<i8").reshape([int(side) for side in shape]).astype(np.int64)


class PartFile:
    """The file of one part, for a run that fills it; a context that keeps others from it."""

    def __init__(self, scores: Path, part: Part, head: Mapping[str, Any]) -> None:
        """Nothing is opened yet.

        Args:
            scores: File of the joined scores.
            part: Which part.
            head: What is scored, and how, JSON-ready; equal for all parts.
        """
        self.path = folder_of(scores) / f"{part.name}.jsonl"
        self.part, self._scores = part, scores
        self._head = {"format": FORMAT, "parts": part.of, **json.loads(json.dumps(head))}
        self._lock = FileLock(self.path.with_name(f".{part.name}.lock"), timeout=0)
        self._done: set[tuple[int, int]] = set()

    def __enter__(self) -> PartFile:
        """Read what an earlier run left.

        Raises:
            IccldError: Parts of other scores lie there, the part is being made, or nothing can be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise IccldError(f"another run is making {self.path}", "wait for it or end it") from None
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        try:
            for path in part_files(self._scores):
                compare(read_head(path), self._head, path)
            lines = [json.dumps(self._head)]
            if self.path.exists():
                for line in _whole_lines(self.path):
                    lines.append(json.dumps(line))
                    self._done.add((line["run"], line["piece"]))
            write_text(self.path, "\n".join(lines) + "\n")
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def has(self, run: int, piece: int) -> bool:
        """Whether a piece is done."""
        return (run, piece) in self._done

    def add(self, run: int, piece: int, state: State) -> None:
        """Keep what a piece gave.

        Raises:
            IccldError: The disk is full or the file cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"run": run, "piece": piece, **state}) + "\n")
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self._done.add((run, piece))

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()


class JoinedParts:
    """All parts of a file of scores."""

    def __init__(self, scores: Path, head: Mapping[str, Any], runs: int, frames: int) -> None:
        """Read what there is, and check it.

        Args:
            scores: File of the joined scores.
            head: As of `PartFile`.
            runs: Number of models and samplings.
            frames: Number of frames.

        Raises:
            IccldError: Parts are missing or not finished, or of other scores.
        """
        self.folder = folder_of(scores)
        files = part_files(scores)
        if not files:
            raise IccldError(f"no part lies in {self.folder}", "make parts with --part 1/N to --part N/N")
        count = int(read_head(files[0])["parts"])
        mine = {"format": FORMAT, "parts": count, **json.loads(json.dumps(head))}
        for path in files:
            compare(read_head(path), mine, path)
        self.count = count
        self._files = {number: path for path in files if (number := _number(path)) is not None}
        self._lack(runs, frames)

    def states(self, run: int) -> Iterator[tuple[int, State]]:
        """What the pieces of a run gave, in order.

        Raises:
            IccldError: A file is damaged.
        """
        for number in sorted(self._files):
            found = {line["piece"]: line for line in _whole_lines(self._files[number]) if line["run"] == run}
            yield from sorted(found.items())

    def remove(self) -> None:
        """Remove the parts."""
        for path in self._files.values():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _lack(self, runs: int, frames: int) -> None:
        missing: list[int] = []
        unfinished: list[int] = []
        lost = 0
        for number in range(1, self.count + 1):
            wanted = {(run, piece) for run in range(runs) for piece in share_of(Part(number, self.count), frames)}
            path = self._files.get(number)
            found = set() if path is None else {(line["run"], line["piece"]) for line in _whole_lines(path)}
            left = {piece for _, piece in wanted - found}
            if left:
                (missing if path is None else unfinished).append(number)
                lost += sum(min(frames, (piece + 1) * PIECE) - piece * PIECE for piece in left)
        if not missing and not unfinished:
            return
        words, hint = what_lacks(missing, unfinished, self.count)
        raise IccldError(f"{words}, {lost} of {frames} frames", hint)


def part_files(scores: Path) -> list[Path]:
    """Files of the parts that have begun."""
    try:
        return sorted(path for path in folder_of(scores).iterdir() if _number(path) is not None)
    except OSError:
        return []


def read_head(path: Path) -> dict[str, Any]:
    """The first line of a part.

    Raises:
        IccldError: It cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.loads(file.readline())
        part = Part.named(path)
        if raw["format"] != FORMAT or part is None or raw["parts"] != part.of:
            raise ValueError
        return raw
    except (OSError, ValueError, KeyError, TypeError):
        raise IccldError(f"{path} is damaged or of another version", "remove it and run that part again") from None


def compare(one: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> None:
    """Refuse parts of other scores.

    Raises:
        IccldError: They are.
    """
    differs = differences(one, other)
    if differs:
        raise IccldError(
            f"{path} is a part of other scores ({'; '.join(differs)})",
            "give the same options, data, models and version for all parts, another --json, or remove that file",
        )


def _number(path: Path) -> int | None:
    part = Part.named(path) if path.suffix == ".jsonl" else None
    return None if part is None else part.number


def _whole_lines(path: Path) -> Iterator[State]:
    """Lines about pieces; a last one that was cut off does not count."""
    with open(path, encoding="utf-8", errors="replace") as file:
        next(file, None)
        for line in file:
            try:
                raw = json.loads(line)
                if type(raw["run"]) is int and type(raw["piece"]) is int:
                    yield raw
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
