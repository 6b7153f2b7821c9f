"""The list of frames of a run and their state, on disk.

With it, memory does not grow with the number of frames, and a killed run continues where it stopped: a frame is done
only when its row says so and its files have the recorded sizes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.names import shown
from iccld_cli.prepare.adapters.base import RawFrame

PENDING, DONE, BAD, ELSEWHERE = 0, 1, 2, 3
"""States of a frame; the last one is that of frames which another part has to do."""

_COMMIT_SECONDS = 1.0
_PAGE = 1000
_UNUSABLE = "unusable name"


def _as_text(frame: RawFrame) -> tuple[RawFrame, str | None]:
    """The frame with names that the journal and the data set can hold, and a record of what is wrong with them."""
    names = [frame.split, frame.key, frame.image, frame.label]
    try:
        for name in names:
            (name or "").encode("utf-8")
    except UnicodeEncodeError:
        split, key, image, label = (name if name is None else shown(name) for name in names)
        record = {"file": image, "reason": "has a name that is not UTF-8; rename it"}
        return RawFrame(str(split), str(key), str(image), label), json.dumps(record, ensure_ascii=False)
    return frame, None


class Journal:
    """The frames of one run, in an SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS frame (split TEXT, key TEXT, image TEXT, label TEXT, sizes TEXT,"
            " stamp TEXT, scan INTEGER, state INTEGER, record TEXT, PRIMARY KEY (split, key)) WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS by_state ON frame (state, split, key)")
        self._scan = self._one("SELECT COALESCE(MAX(scan), 0) + 1 FROM frame")
        self._committed = time.monotonic()

    def close(self) -> None:
        """Write everything and close."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()[0]

    def add(self, frames: Iterable[tuple[RawFrame, str, str]]) -> int:
        """Add the frames of a scan; what was done of unchanged files stays done, what is gone is dropped.

        Args:
            frames: Frame, sizes and stamp (see `Adapter.stamp`).

        Returns:
            How many there are.

        Raises:
            IccldError: Two files would get the same name.
        """
        self._db.execute("BEGIN")
        count = 0
        for given, sizes, stamp in frames:
            frame, unusable = _as_text(given)
            row = self._db.execute(
                "SELECT image, stamp, scan FROM frame WHERE split = ? AND key = ?", (frame.split, frame.key)
            ).fetchone()
            if row is None and frame.split == "train":
                row = self._held_out(frame, stamp)
            if row is not None and row[2] == self._scan:
                raise IccldError(
                    f"{frame.image} and {row[0]} would both become {frame.split}/{frame.key}",
                    "narrow the pattern or rename one of them",
                )
            if unusable is None and row is not None and row[:2] == (frame.image, stamp):
                self._db.execute(
                    "UPDATE frame SET scan = ?, label = ? WHERE split = ? AND key = ?",
                    (self._scan, frame.label, frame.split, frame.key),
                )
            else:
                values = (
                    frame.split,
                    frame.key,
                    frame.image,
                    frame.label,
                    sizes,
                    stamp if unusable is None else _UNUSABLE,
                    self._scan,
                    PENDING if unusable is None else BAD,
                    unusable,
                )
                self._db.execute("REPLACE INTO frame VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            count += 1
        if not count:  # a disk that is not mounted, most likely: what was done stays done
            self._db.execute("ROLLBACK")
            return 0
        self._db.execute("DELETE FROM frame WHERE scan <> ?", (self._scan,))
        self._db.execute("COMMIT")
        return count

    def _held_out(self, frame: RawFrame, stamp: str) -> tuple[str, str, int] | None:
        """Take a frame that an earlier run held out back to where the scan has it, so that it stays done."""
        row = self._db.execute(
            "SELECT image, stamp, scan FROM frame WHERE split = 'val' AND key = ?", (frame.key,)
        ).fetchone()
        if row is None or row[:2] != (frame.image, stamp) or row[2] == self._scan:
            return None
        self._db.execute("UPDATE frame SET split = 'train' WHERE split = 'val' AND key = ?", (frame.key,))
        return row

    def hold_out(self, share: float) -> None:
        """Make the last part of the sorted training frames the `val` split, unless there is one already.

        The last part and not a random one, because neighbouring frames of a drive are nearly equal.

        Args:
            share: Share of the training frames, in (0, 1).
        """
        if self._one("SELECT COUNT(*) FROM frame WHERE split = 'val'"):
            return
        train = self._one("SELECT COUNT(*) FROM frame WHERE split = 'train'")
        keep = train - max(1, round(share * train)) if train > 1 else train
        border = self._db.execute(
            "SELECT key FROM frame WHERE split = 'train' ORDER BY key LIMIT 1 OFFSET ?", (keep,)
        ).fetchone()
        if border is not None:
            self._db.execute("UPDATE frame SET split = 'val' WHERE split = 'train' AND key >= ?", border)
        for split, key, record in self._pages(DONE, "record"):  # the source may have got other frames since
            if any(path.split("/")[1] != split for path in json.loads(record)["files"]):
                self._set(split, key, PENDING, None)

    def digest(self) -> str:
        """sha256 over all frames: names, files and sizes."""
        total = hashlib.sha256()
        for row in self._db.execute("SELECT split, key, image, label, sizes FROM frame ORDER BY split, key"):
            total.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return total.hexdigest()

    def forget_incomplete(self, root: Path, bad: bool = True) -> None:
        """Mark as not done what lacks a file of its recorded size.

        Args:
            root: Folder of the files.
            bad: Mark bad frames too: they may be mended by now.
        """
        for split, key, record in self._pages(DONE, "record"):
            for path, size in json.loads(record)["files"].items():
                try:
                    whole = (root / path).stat().st_size == size
                except OSError:
                    whole = False
                if not whole:
                    self._set(split, key, PENDING, None)
                    break
        if bad:
            self._db.execute(
                "UPDATE frame SET state = ?, record = NULL WHERE state = ? AND stamp <> ?", (PENDING, BAD, _UNUSABLE)
            )

    def restrict(self, first: int, last: int) -> None:
        """Leave all frames but those at positions first <= i < last, sorted by split and key, to other parts."""
        total = self._one("SELECT COUNT(*) FROM frame")

        def at(position: int) -> tuple[str, str] | None:
            if position >= total:
                return None
            query = "SELECT split, key FROM frame ORDER BY split, key LIMIT 1 OFFSET ?"
            return self._db.execute(query, (position,)).fetchone()

        begin, end = at(first), at(last)
        if begin is None or first >= last:
            self._db.execute("UPDATE frame SET state = ?", (ELSEWHERE,))
            return
        mine, borders = "(split, key) >= (?, ?)", [*begin]
        if end is not None:
            mine, borders = f"{mine} AND (split, key) < (?, ?)", [*begin, *end]
        self._db.execute(f"UPDATE frame SET state = ? WHERE NOT ({mine})", (ELSEWHERE, *borders))
        self._db.execute(f"UPDATE frame SET state = ? WHERE state = ? AND {mine}", (PENDING, ELSEWHERE, *borders))

    def finished(self) -> Iterator[tuple[str, str, dict]]:
        """Split, key and record of every frame that is done or bad."""
        for state in (DONE, BAD):
            for split, key, record in self._pages(state, "record"):
                yield split, key, json.loads(record)

    def is_todo(self, split: str, key: str) -> bool:
        """Whether the run wants a frame and has not made it."""
        row = self._db.execute("SELECT state FROM frame WHERE split = ? AND key = ?", (split, key)).fetchone()
        return row is not None and row[0] == PENDING

    def _pages(self, state: int, columns: str) -> Iterator[tuple]:
        # Read in pages that start after the last key, so that rows may change state while they are listed.
        last = ("", "")
        while True:
            rows = self._db.execute(
                f"SELECT split, key, {columns} FROM frame WHERE state = ? AND (split, key) > (?, ?)"
                " ORDER BY split, key LIMIT ?",
                (state, *last, _PAGE),
            ).fetchall()
            if not rows:
                return
            yield from rows
            last = rows[-1][:2]

    def pending(self) -> Iterator[RawFrame]:
        """Frames that are not done, sorted by split and key."""
        for split, key, image, label in self._pages(PENDING, "image, label"):
            yield RawFrame(split, key, image, label)

    def records(self) -> Iterator[tuple[str, str, dict]]:
        """Split, key and record of every finished frame, sorted."""
        for split, key, record in self._pages(DONE, "record"):
            yield split, key, json.loads(record)

    def bad(self) -> Iterator[dict[str, str]]:
        """`file` and `reason` of every frame that cannot be used, sorted by split and key."""
        for _, _, record in self._pages(BAD, "record"):
            yield json.loads(record)

    def count(self, state: int | None = None) -> int:
        """Number of frames in a state, or of all that are not elsewhere."""
        if state is None:
            return self._one("SELECT COUNT(*) FROM frame WHERE state <> ?", ELSEWHERE)
        return self._one("SELECT COUNT(*) FROM frame WHERE state = ?", state)

    def finish(self, split: str, key: str, record: dict) -> None:
        """Note that a frame is done, or bad when the record has a `reason`."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        state = BAD if "reason" in record else DONE
        self._set(split, key, state, json.dumps(record, ensure_ascii=False))
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self._db.execute("COMMIT")
            self._committed = time.monotonic()

    def _set(self, split: str, key: str, state: int, record: str | None) -> None:
        self._db.execute(
            "UPDATE frame SET state = ?, record = ? WHERE split = ? AND key = ?", (state, record, split, key)
        )
