"""What `iccld compare` is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class CompareOptions:
    """A comparison and how it is run.

    Attributes:
        file: The TOML file.
        out: Folder for everything.
        data: Name of a set -> folder, in place of the file's.
        rows: Names of the rows that are wanted, with those that they need; empty for all.
        evaluations: Names of the evaluations that are wanted; empty for all.
        seeds: Seeds of the rows that name none themselves; empty for the file's.
        preset: Preset of every stage 1 that starts from no file.
        encoder: Encoder of every such stage 1.
        seg_iterations: Steps of every stage 1; a row's `longer` still counts.
        adv_iterations: Steps of every stage 2.
        settings: `key=value` for every training.
        precision: Of every training.
        devices: Where trainings run; several jobs share them in turn.
        jobs: Trainings and evaluations side by side.
        redo: Rows that are done anew, with those that need them.
        measure: Whether a few steps are taken to tell how long a training takes.
        dry_run: Tell the plan, and stop.
    """

    file: Path
    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    rows: Sequence[str] = ()
    evaluations: Sequence[str] = ()
    seeds: Sequence[int] = ()
    preset: str | None = None
    encoder: str | None = None
    seg_iterations: int | None = None
    adv_iterations: int | None = None
    settings: Sequence[str] = ()
    precision: str | None = None
    devices: Sequence[str] = ("auto",)
    jobs: int = 1
    redo: Sequence[str] = ()
    measure: bool = True
    dry_run: bool = False
