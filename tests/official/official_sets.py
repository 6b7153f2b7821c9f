"""What the tests of the official sets share: archives, the ways they lie on a disk, the command, the comparison."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import typer
from official_files import ANYTHING

from iccld_cli.cli import app as command_line

LAYOUTS = ("packed", "apart", "merged", "mixed")
"""As downloaded; each archive in a folder of its own; all in one folder; some of each."""

SINGLE = LAYOUTS[:3]
"""The layouts of a set that is one archive."""


@dataclass(frozen=True)
class Archive:
    """A download.

    Attributes:
        name: Its official name, ending in .zip or .tar.gz.
        files: Path inside -> content.
    """

    name: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Truth:
    """What a frame's label has to become.

    Attributes:
        ids: int32 (H, W), what the raw label says.
        train_ids: int32 (H, W) of trainIds; `ANYTHING` is not compared.
    """

    ids: np.ndarray
    train_ids: np.ndarray


@dataclass(frozen=True)
class Official:
    """A small copy of an official data set.

    Attributes:
        option: Name of its option.
        archives: As downloaded.
        frames: (split, name without folders and suffix) -> truth, None for a frame without a label.
        left_out: Names of the frames that are known to be bad.
        totals: Official numbers of frames; one of them has to be told, because the copy holds fewer.
        settings: Further arguments.
        same_names: Whether the frames' names do not depend on the layout.
    """

    option: str
    archives: Sequence[Archive]
    frames: dict[tuple[str, str], Truth | None]
    left_out: tuple[str, ...] = ()
    totals: tuple[int, ...] = ()
    settings: tuple[str, ...] = ()
    same_names: bool = True


def packed(archive: Archive) -> bytes:
    """The archive's content as it is downloaded."""
    stream = io.BytesIO()
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as writer:
            for path, content in archive.files.items():
                writer.writestr(path, content)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as writer:
            for path, content in archive.files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                writer.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def unpack(archive: Archive, folder: Path) -> Path:
    """Write the archive's files below a folder."""
    for path, content in archive.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def lay_out(archives: Sequence[Archive], root: Path, layout: str) -> Path:
    """Put archives on the disk in one of `LAYOUTS`."""
    root.mkdir(parents=True, exist_ok=True)
    for number, archive in enumerate(archives):
        how = LAYOUTS[number % 3] if layout == "mixed" else layout
        if how == "packed":
            (root / archive.name).write_bytes(packed(archive))
        elif how == "apart":
            unpack(archive, root / re.sub(r"\.(zip|tar\.gz)$", "", archive.name))
        else:
            unpack(archive, root)
    return root


@dataclass(frozen=True)
class Outcome:
    """What the command did.

    Attributes:
        code: Exit status.
        text: All that it printed, in one line.
        error: Its last line on the error stream.
        root: The folder that it was to write.
        info: `dataset.json`, empty when there is none.
    """

    code: int
    text: str
    error: str
    root: Path
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def index(self) -> list[dict[str, Any]]:
        """The lines of `index.jsonl`."""
        return [json.loads(line) for line in (self.root / "index.jsonl").read_text(encoding="utf-8").splitlines()]


@functools.lru_cache
def _assembled() -> Any:
    """The command line, put together once; typer does it at every call, which takes as long as some frames."""
    return typer.main.get_command(command_line.app)


def prepare(option: str, source: Path, out: Path, *arguments: str) -> Outcome:
    """Run `iccld prepare` in this process, with one worker."""
    stdout, stderr = io.StringIO(), io.StringIO()
    before = sys.argv, command_line.app
    command_line.app = _assembled()
    sys.argv = ["iccld", "prepare", f"--{option}", str(source), "--out", str(out), "--workers", "1", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            command_line.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    finally:
        sys.argv, command_line.app = before
    info = out / option / "dataset.json"
    return Outcome(
        code,
        " ".join((stdout.getvalue() + " " + stderr.getvalue()).split()),
        (stderr.getvalue().strip().splitlines() or [""])[-1],
        out / option,
        json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {},
    )


def name_of(frame: dict[str, Any]) -> tuple[str, str]:
    """Split and name of a line of the index."""
    return frame["split"], Path(frame["image"]).stem


def compare(outcome: Outcome, expected: dict[tuple[str, str], Truth | None]) -> None:
    """Frames, splits and every pixel of every label against the truth."""
    assert outcome.code == 0, outcome.error
    index = outcome.index
    found = sorted(map(name_of, index))
    assert found == sorted(expected), (
        f"lost {sorted({*expected} - {*found})}, not expected {sorted({*found} - {*expected})}"
    )
    wrong: set[str] = set()
    for frame in index:
        truth = expected[name_of(frame)]
        if truth is None:
            assert frame["label"] is None, f"{frame['image']} has got a label"
            continue
        assert frame["label"] is not None, f"{frame['image']} has lost its label"
        label = cv2.imread(str(outcome.root / frame["label"]), cv2.IMREAD_UNCHANGED)
        assert label.shape == truth.train_ids.shape
        differs = (label != truth.train_ids) & (truth.train_ids != ANYTHING)
        triples = zip(truth.ids[differs], truth.train_ids[differs], label[differs], strict=True)
        wrong |= {f"id {raw}: {got} in place of {right}" for raw, right, got in triples}
    assert not wrong, f"{len(wrong)} ids come out wrongly: {sorted(wrong)}"
    splits: dict[str, int] = {}
    for split, _ in expected:
        splits[split] = splits.get(split, 0) + 1
    assert outcome.info["splits"] == splits


_references: dict[str, list[dict[str, Any]]] = {}


def check(key: str, official: Official, layout: str, folder: Path) -> Outcome:
    """Prepare a set in one layout with the plain command, and compare it with the truth and with the merged layout."""
    root = lay_out(official.archives, folder / "raw", layout)
    outcome = prepare(official.option, root, folder / "out", *official.settings)
    compare(outcome, official.frames)
    told = json.dumps(outcome.info)
    assert [name for name in official.left_out if name not in told] == [], "left out without a word in dataset.json"
    if official.same_names:
        if key not in _references:
            merged = folder / "reference"
            lay_out(official.archives, merged / "raw", "merged")
            _references[key] = prepare(official.option, merged / "raw", merged / "out", *official.settings).index
        assert outcome.index == _references[key]
    if official.totals:
        digits = re.sub(r"(?<=\d)[,_ ](?=\d{3}\b)", "", outcome.text)
        assert any(re.search(rf"\b{total}\b", digits) for total in official.totals), (
            f"no word on the frames that are missing, expected one of {official.totals} in: {outcome.text}"
        )
    return outcome


def check_refused(outcome: Outcome, *words: str) -> None:
    """Exit status 1 and one clear line that holds all of some words (each a pattern), without a traceback."""
    assert outcome.code == 1, f"exit {outcome.code}: {outcome.text}"
    assert outcome.text.count("error: ") == 1
    assert outcome.error.startswith("error: "), outcome.error
    assert "internal error" not in outcome.error
    assert "Traceback" not in outcome.text
    for word in words:
        assert re.search(word, outcome.error, re.IGNORECASE), f"{word!r} is not in: {outcome.error}"
    assert not outcome.info
