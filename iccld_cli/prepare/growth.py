"""Extending a prepared set: its frames are reused, and only the further ones are made."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from iccld_cli.data import checks
from iccld_cli.data.prepared import INDEX_NAME, INFO_NAME, DatasetInfo, Frame
from iccld_cli.prepare.journal import Journal


def is_larger(source: object, info: DatasetInfo, origin: Mapping[str, Any]) -> bool:
    """Whether a run makes the finished set with more frames and nothing else changed.

    Args:
        source: What is prepared; its attribute `grows` names the option that only adds frames when it is raised.
        info: The finished set.
        origin: `source` of the `dataset.json` that the run would write.
    """
    old = info.source
    name = growing_option(source, old)
    if name is None or not isinstance(old.get("options"), dict):
        return False
    before, now = dict(old["options"]), dict(origin["options"])
    raised = is_raised(before.pop(name, None), now.pop(name))
    same = all(old.get(key) == origin.get(key) for key in ("adapter", "path", "prepared_with"))
    return same and before == now and raised and not info.skipped


def growing_option(source: object, old: Mapping[str, Any]) -> str | None:
    """The option that only adds frames to a set when it is raised, or None.

    Args:
        source: What is prepared; see `is_larger`.
        old: `source` of the `dataset.json` of the set.
    """
    # A held-out share of more frames would hold out others, and train on those of today.
    prepared_with = old.get("prepared_with")
    held_out = isinstance(prepared_with, dict) and prepared_with.get("hold_out")
    return None if held_out else getattr(source, "grows", None)


def is_raised(before: object, now: object) -> bool:
    """Whether a number of frames becomes larger."""
    return isinstance(before, int) and isinstance(now, int) and before < now


def adopt(final: Path, journal: Journal, root: Path) -> None:
    """Reuse the frames of a finished set that a run has not made yet; damaged ones are made again.

    Args:
        final: The finished set's folder; nothing in it is changed.
        journal: The run's frames.
        root: Folder that the run writes to.
    """
    with open(final / INDEX_NAME, encoding="utf-8") as file:
        for line in file:
            frame = Frame.from_json(line)
            key = Path(frame.image).stem
            if journal.is_todo(frame.split, key) and (record := _record(final, frame)) is not None:
                for path in record["files"]:
                    _link(final / path, root / path)
                journal.finish(frame.split, key, record)


def copy_further_files(final: Path, root: Path) -> None:
    """Copy further files of the old set, such as a drive, that the new one lacks."""
    for path in final.iterdir():
        if path.is_file() and path.name != INFO_NAME and not (root / path.name).exists():
            _link(path, root / path.name)


def _record(final: Path, frame: Frame) -> dict[str, Any] | None:
    """What a worker would have noted of a frame; None when a file is not what the index says."""
    paths = [frame.image, *([frame.label] if frame.label else [])]
    wanted = [frame.image_sha256, *([frame.label_sha256] if frame.label else [])]
    try:
        contents = [(final / path).read_bytes() for path in paths]
    except OSError:
        return None
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    if digests != wanted:
        return None
    image = checks.decode_image(contents[0]).pixels
    mean, std = (values.ravel() for values in cv2.meanStdDev(image))
    return {
        "hash": f"{checks.perceptual_hash(image):016x}",
        "pixels": {str(k): v for k, v in (frame.pixels or {}).items()},
        "files": {path: len(content) for path, content in zip(paths, contents, strict=True)},
        "sha256": digests,
        "width": frame.width,
        "height": frame.height,
        "mean": [round(float(m), 4) for m in mean],
        "std": [round(float(s), 4) for s in std],
    }


def _link(old: Path, new: Path) -> None:
    """A second name for a file, or a copy where the file system has no such names."""
    new.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)
