"""How long and how much: from cells that are done, else from a few steps that are taken to find out."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iccld_cli.compare.cells import Cell, Plan, Task
from iccld_cli.compare.jobs import launch
from iccld_cli.compare.scorefiles import read_score, score_path
from iccld_cli.compare.spec import EvaluationSpec
from iccld_cli.config import Config
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.header import FILE_NAMES
from iccld_cli.reading import ReadError, read_json

OWN = ".compare"
"""Folder below OUT for what is measured; it may be removed."""

PROBE_STEPS, PROBE_FRAMES = 8, 6
START_SECONDS = 10.0
"""What starting a process and opening data and model takes, where it was not measured."""

_QUIET = ("run.log_every=1", "run.validate_every=0", "run.validate_frames=1", "run.overlay_every=0", "run.save_every=0")


@dataclass(frozen=True)
class Rate:
    """What a command takes.

    Attributes:
        seconds: A step, or an image.
        memory: Most memory, GiB; None where it is not known.
        how: `done` where it is the rate of cells that are done, `begun` where it is that of one that was stopped, else
            `measured`.
    """

    seconds: float
    memory: float | None
    how: str


@dataclass(frozen=True)
class Estimate:
    """What is still to be done.

    Attributes:
        seconds: One after the other; None where some of it is not known.
        longest: Of the longest chain of cells that need each other, so that more jobs do not shorten it.
        memory: Most memory of one command, GiB; None where it is not known.
        unknown: Rows whose training has no known rate.
        unscored: Rows whose scores have none, which `seconds` leaves out.
        trainings: Number of trainings.
        scores: Number of scores.
        steps: Steps of training.
    """

    seconds: float | None
    longest: float
    memory: float | None
    unknown: tuple[str, ...]
    unscored: tuple[str, ...]
    trainings: int
    scores: int
    steps: int


class Rates:
    """Rates of a comparison's commands, kept in OUT."""

    def __init__(self, plan: Plan, devices: Sequence[str]) -> None:
        """Read what is known.

        Args:
            plan: The cells.
            devices: The first one is where is measured.
        """
        self.plan, self.device = plan, devices[0]
        self.path = plan.options.out / OWN / "rates.json"
        try:
            found = read_json(self.path)
        except ReadError:
            found = None
        self._known: dict[str, Any] = found if isinstance(found, dict) else {}
        self.failed: dict[str, str] = {}
        self._keys: dict[tuple[str, str], str] = {}

    def key(self, cell: Cell, stage: str) -> str:
        """What trainings of one rate have in common; the same for all seeds of a row."""
        if (cell.row.name, stage) in self._keys:
            return self._keys[cell.row.name, stage]
        facts = self.plan.facts(cell)[stage]
        tree = {name: {k: v for k, v in part.items() if k not in _NO_MATTER} if isinstance(part, dict) else part
                for name, part in facts["config"].items()}  # fmt: skip
        found = json.dumps([stage, self.device, facts["source_only"], tree], sort_keys=True)
        self._keys[cell.row.name, stage] = found
        return found

    def training(self, cell: Cell, stage: str) -> Rate | None:
        """The rate of a training, None where it is not known."""
        key, name = self.key(cell, stage), {"seg": "stage1", "adv": "stage2"}[stage]
        seconds, steps, memory = 0.0, 0, None
        begun: Rate | None = None
        for other in self.plan.cells:
            if stage not in self.plan.comparison.stages(other.row) or self.key(other, stage) != key:
                continue
            if not (other.folder / FILE_NAMES[name]).is_file():
                begun = _of_log(other.folder, stage) or begun
                continue
            for part in other.parts:
                if part.get("stage") == stage and part.get("status") == 0:
                    seconds, steps = seconds + part["seconds"], steps + part["steps"]
            memory = _most(memory, peak_memory(other.folder))
        if steps:
            return Rate(seconds / steps, memory, "done")
        return self._stored(key) or begun

    def scoring(self, cell: Cell, evaluation: EvaluationSpec) -> Rate | None:
        """Seconds an image of an evaluation, None where it is not known."""
        key = self._scoring_key(cell, evaluation)
        for other in self.plan.cells:
            if self._scoring_key(other, evaluation) == key:
                found = read_score(score_path(other.folder, evaluation))
                if found is not None and isinstance(found[0].get("wall"), int | float):
                    return Rate(float(found[0]["wall"]), None, "done")
        return self._stored(key)

    def _scoring_key(self, cell: Cell, evaluation: EvaluationSpec) -> str:
        if (cell.row.name, f"score {evaluation.name}") in self._keys:
            return self._keys[cell.row.name, f"score {evaluation.name}"]
        trained = cell
        while trained.row.model_of is not None and trained.needs is not None:
            trained = trained.needs
        kind = [trained.row.model]
        if trained.row.trained:
            stages = self.plan.comparison.stages(trained.row)
            config = self.plan.config(trained.row, "adv" if "adv" in stages else "seg")
            kind = [*stages, json.dumps(config.model.model_dump(mode="json"))]
        sampling = cell.row.sampling.model_dump(mode="json")
        found = json.dumps(["score", self.device, evaluation.set, evaluation.split, kind, sampling], sort_keys=True)
        self._keys[cell.row.name, f"score {evaluation.name}"] = found
        return found

    def _stored(self, key: str) -> Rate | None:
        try:
            row = self._known[key]
            return Rate(float(row["seconds"]), None if row["memory"] is None else float(row["memory"]), "measured")
        except (KeyError, TypeError, ValueError):
            return None

    def _store(self, key: str, seconds: float, memory: float | None) -> None:
        self._known[key] = {"seconds": round(seconds, 5), "memory": memory}
        write_json(self.path, self._known)

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell of each kind whose rate is not known, with those that they need before them."""
        found: dict[int, Cell] = {}
        seen: set[str] = set()

        def add(cell: Cell) -> None:
            if cell.needs is not None and not self.plan.trained(cell.needs):
                add(cell.needs)
            found.setdefault(id(cell), cell)

        for cell in cells:
            keys = {self.key(cell, s): self.training(cell, s) for s in self.plan.comparison.stages(cell.row)}
            keys |= {self._scoring_key(cell, e): self.scoring(cell, e) for e in self.plan.unscored(cell)}
            unknown = {key for key, rate in keys.items() if rate is None} - seen
            if unknown:
                seen |= unknown
                add(cell)
        return list(found.values())

    def measure(self, cells: Sequence[Cell], tell: Callable[[str], None]) -> None:
        """Take a few steps of each kind of training, and score a few frames.

        Args:
            cells: See `missing`.
            tell: Called with what is measured.
        """
        root = self.plan.options.out / OWN / "probe"
        shutil.rmtree(root, ignore_errors=True)
        models: dict[int, Path] = {}
        try:
            for cell in cells:
                tell(cell.row.name)
                try:
                    self._probe(cell, root, models)
                except IccldError as error:
                    self.failed[cell.row.name] = str(error)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _probe(self, cell: Cell, root: Path, models: dict[int, Path]) -> None:
        folder, plan = root / cell.row.name, self.plan
        stages = plan.comparison.stages(cell.row)
        start = plan.start(cell)
        if start is not None and not start.is_file():
            if id(cell.needs) not in models:
                raise IccldError(f"{cell.needs.name if cell.needs else 'its parent'} could not be measured")
            parent = models[id(cell.needs)].parent
            start = parent / start.name
        model = plan.model(cell)
        if not model.is_file() and cell.row.model_of is not None:
            if id(cell.needs) not in models:
                raise IccldError("the row that it scores could not be measured")
            model = models[id(cell.needs)]
        for stage in stages:
            command = plan.training(cell, stage)
            command[command.index("--out") + 1] = str(folder)
            command[command.index("--iterations") + 1] = str(PROBE_STEPS)
            if "--ckpt" in command:
                own = stage == "adv" and cell.row.seg is not None
                command[command.index("--ckpt") + 1] = str(folder / FILE_NAMES["stage1"] if own else start)
            command += [part for text in _QUIET for part in ("--set", text)]
            began = time.perf_counter()
            self._run(cell, Task(stage, ("-m", "iccld_cli", *command), folder / "probe.log"))
            wall = time.perf_counter() - began
            model = folder / FILE_NAMES[{"seg": "stage1", "adv": "stage2"}[stage]]
            rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
            rows = [row for row in rows if (row["stage"] == "stage2") == (stage == "adv")]
            memory = max(row["memory_gib"] for row in rows)
            seconds = _seconds_a_step([row["step_seconds"] for row in rows], plan.config(cell.row, stage), stage)
            self._store(self.key(cell, stage), seconds, memory)
            self._store("start", max(0.0, wall - sum(row["step_seconds"] for row in rows)), None)
        models[id(cell)] = model
        evaluations = plan.unscored(cell)
        jobs = [plan.scoring_job(cell, e, PROBE_FRAMES) for e in evaluations]
        if jobs:
            log = folder / "score.log"
            self._run(cell, Task("score", plan.scoring(cell, jobs, model)[1:], log))
            told = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
            for evaluation, found in zip(evaluations, told[-len(jobs) :], strict=True):
                self._store(self._scoring_key(cell, evaluation), found["wall"], None)

    def _run(self, cell: Cell, task: Task) -> None:
        task = Task(task.kind, (sys.executable, *task.command), task.log)
        one = launch(cell, task, 0, self.device, self.plan.options.jobs)
        try:
            one.process.wait()
        except BaseException:
            one.process.terminate()
            try:
                one.process.wait(10)
            except subprocess.TimeoutExpired:
                one.process.kill()
            raise
        finally:
            one.file.close()
        if one.process.returncode:
            said = task.log.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            raise IccldError(errors[-1] if errors else f"its first steps ended with {one.process.returncode}")

    def estimate(self) -> Estimate:
        """What is still to be done, as far as it is known."""
        plan, total, unknown = self.plan, 0.0, dict[str, None]()
        unscored: dict[str, None] = {}
        memory: float | None = None
        trainings = scores = steps = 0
        until: dict[int, float] = {}
        measured = self._stored("start")
        start = START_SECONDS if measured is None else measured.seconds
        for cell in plan.cells:
            own = 0.0
            for stage in plan.comparison.stages(cell.row):
                left = plan.steps_left(cell, stage)
                if not left:
                    continue
                trainings, steps = trainings + 1, steps + left
                rate = self.training(cell, stage)
                if rate is None:
                    unknown[cell.row.name] = None
                    continue
                own += left * rate.seconds
                memory = _most(memory, rate.memory)
                if rate.how != "done":  # the seconds of cells that are done hold both
                    own += start + self._validations(cell, stage, left)
            missing = plan.unscored(cell)
            own += start if missing else 0.0
            for evaluation in missing:
                scores += 1
                rate = self.scoring(cell, evaluation)
                if rate is None:
                    unscored[cell.row.name] = None
                else:
                    own += rate.seconds * plan.images(evaluation)
            total += own
            until[id(cell)] = own + (until.get(id(cell.needs), 0.0) if cell.needs is not None else 0.0)
        seconds = None if unknown else total
        return Estimate(
            seconds, max(until.values(), default=0.0), memory, tuple(unknown), tuple(unscored), trainings, scores, steps
        )

    def _validations(self, cell: Cell, stage: str, steps: int) -> float:
        """Seconds of the validations of a training, from the rate of the first evaluation."""
        config = self.plan.config(cell.row, stage)
        evaluation = self.plan.comparison.evaluation[0]
        rate = self.scoring(cell, evaluation)
        if rate is None:
            return 0.0
        every = config.run.validate_every
        frames = self.plan.images(evaluation)
        return (1 + (steps // every if every else 0)) * rate.seconds * min(config.run.validate_frames or frames, frames)


_NO_MATTER = ("iterations", "preset", "seed")


def _seconds_a_step(seconds: Sequence[float], config: Config, stage: str) -> float:
    """Mean over a whole training of the medians of its two parts; the first step of each is a warm-up."""
    burn_in = config.seg.burn_in if stage == "seg" else 0.0
    steps = len(seconds)
    first = round(burn_in * steps)
    parts = [(burn_in, list(seconds[:first])), (1 - burn_in, list(seconds[first:]))]
    found, weight = 0.0, 0.0
    for share, part in parts:
        later = part[1:] or part
        if share and later:
            found, weight = found + share * statistics.median(later), weight + share
    return found / weight if weight else statistics.median(seconds)


def peak_memory(folder: Path) -> float | None:
    """Most memory that a training's log tells, GiB; None without a log."""
    return max((row["memory_gib"] for row in _log(folder)), default=None)


def _of_log(folder: Path, stage: str) -> Rate | None:
    """The rate of a training that was stopped, from the second half of its log; None where that is too short."""
    rows = [row for row in _log(folder) if (row["stage"] == "stage2") == (stage == "adv")]
    if len(rows) < 2:
        return None
    seconds = statistics.median(row["step_seconds"] for row in rows[len(rows) // 2 :])
    return Rate(seconds, max(row["memory_gib"] for row in rows), "begun")


def _log(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of a training's log that tell time and memory."""
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            numbers = {key: float(row[key]) for key in ("step_seconds", "memory_gib")}
            found.append({"stage": row["stage"], **numbers})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _most(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None
