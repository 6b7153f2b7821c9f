"""The last line of a command: a command that goes on from what was made, with its paths, to be copied as it is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iccld_cli.cli.terminal import say
from iccld_cli.cli.training import is_shipped

if TYPE_CHECKING:
    from iccld_cli.data.prepared import DatasetInfo, PreparedDataset

Words = Sequence[str | Path]


def say_next(words: Words) -> None:
    """Print it; nothing where there are no words."""
    if words:
        say(f"next: iccld {shlex.join(str(word) for word in words)}")


def after_prepare(folders: Sequence[Path], sets: Sequence[DatasetInfo]) -> Words:
    """A pair of a labelled set and one that can be its target is looked at, else the first set."""
    labelled = [number for number, info in enumerate(sets) if info.extra.get("labelled")]
    if labelled and len(sets) > 1:
        first = labelled[0]
        rest = [number for number in range(len(sets)) if number != first]
        target = next((number for number in rest if number not in labelled), rest[0])
        return ["inspect", folders[first], folders[target]]
    return ["inspect", folders[0]] if folders else []


def after_inspect(data: PreparedDataset, target: PreparedDataset | None) -> Words:
    """A pair is trained on, a labelled set scored, and footage adapted to."""
    if target is not None:
        run = Path("runs") / f"{data.info.name}-{target.info.name}"
        return ["adapt-seg", "--source", data.root, "--target", target.root, "--out", run]
    for split in sorted(data.info.splits, key="val".__ne__):
        if any(frame.label is not None for frame in data.frames(split)):
            return ["evaluate", "--data", data.root, "--split", split]
    return ["adapt", data.root, "--out", f"{data.info.name}-model"]


def after_training(model: Path, scored: PreparedDataset | None, targets: Sequence[PreparedDataset]) -> Words:
    """A model is scored where there are labels to score it on, else used on the target."""
    if scored is not None:
        return ["evaluate", "--ckpt", model, "--data", scored.root]
    return ["predict", targets[0].root / "images", "--ckpt", model] if targets else []


def after_predict(inputs: Sequence[str], ckpt: Path | None, file: Path) -> Words:
    """Videos and folders that a shipped model answered are adapted to; another model is exported.

    Args:
        inputs: As they were given.
        ckpt: As it was given.
        file: The model file.
    """
    from iccld_cli.inference.video import VIDEO_SUFFIXES

    if ckpt is None or is_shipped(ckpt):
        paths = [Path(given) for given in inputs]
        footage = all(path.is_dir() or (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES) for path in paths)
        return ["adapt", *inputs, "--out", "my-road", *(() if ckpt is None else ("--ckpt", ckpt))] if footage else []
    if file.suffix != ".safetensors":
        return []
    return ["export", "--ckpt", ckpt, "--format", "openvino", "--out", f"{file.stem}.xml"]
