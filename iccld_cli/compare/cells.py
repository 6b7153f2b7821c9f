"""The cells of a comparison, a row with a seed each: what is done, and the next command that a cell needs.

OUT/<row>/seed<N>/       a run folder of adapt-seg and adapt-adv, with
    cell.json            what it was trained with (facts), and what each part of it took
    train.log score.log  what the commands said
    score-<evaluation>.json, .safetensors    scores, and the confusion matrix of every frame
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.scorefiles import read_score, score_path
from iccld_cli.compare.sets import Sets
from iccld_cli.compare.spec import Comparison, EvaluationSpec, RowSpec, StageSpec
from iccld_cli.config import FREE_SETTINGS, Config, load_config
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.header import FILE_NAMES, read_header
from iccld_cli.inference.evaluate import labelled_frames
from iccld_cli.inference.model import find_model
from iccld_cli.labels import shared_classes
from iccld_cli.names import shown
from iccld_cli.reading import ReadError, read_json
from iccld_cli.recipe import load_recipe

CELL_NAME = "cell.json"
PROGRAM = (sys.executable, "-m", "iccld_cli")
SCORING = (sys.executable, "-m", "iccld_cli.compare.scoring")
_COMMANDS = {"seg": "adapt-seg", "adv": "adapt-adv"}


@dataclass(frozen=True)
class Task:
    """A command that a cell needs.

    Attributes:
        kind: `seg`, `adv` or `score`.
        command: What is run.
        log: Where it says what it says.
        steps: Of a training, that are still to be done.
    """

    kind: str
    command: tuple[str, ...]
    log: Path
    steps: int = 0


@dataclass
class Cell:
    """A row with a seed.

    Attributes:
        row: The row.
        seed: The seed; None for a model file.
        folder: Where it lies.
        needs: The cell that has to be done first.
        failure: Why it failed; None while it has not.
    """

    row: RowSpec
    seed: int | None
    folder: Path
    needs: Cell | None = None
    failure: str | None = None
    parts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The cell in words."""
        return self.row.name if self.seed is None else f"{self.row.name}, seed {self.seed}"


class Plan:
    """All cells of a comparison, and what is done of them.

    Attributes:
        cells: In the order in which they are begun.
        comparison: What the file says.
        sets: The data sets.
    """

    def __init__(self, comparison: Comparison, rows: Sequence[RowSpec], sets: Sets, options: CompareOptions) -> None:
        """Lay out the cells.

        Raises:
            IccldError: A row's configuration is not possible, or its model file is not there.
        """
        self.comparison, self.sets, self.options = comparison, sets, options
        self.cells: list[Cell] = []
        self._models: dict[str, Path] = {}
        self._configs: dict[tuple[str, str], Config] = {}
        self._images: dict[str, int] = {}
        by_key: dict[tuple[str, int | None], Cell] = {}
        for row in rows:
            if row.model is not None:
                self._models[row.name] = self._find(row)
            for stage in comparison.stages(row):
                self.config(row, stage)
        waiting = [(row, seed) for seed in self._all_seeds(rows) for row in rows if seed in self._seeds(row)]
        while waiting:  # a row may stand in the file before the one that it needs
            before = len(waiting)
            for row, seed in [*waiting]:
                other = comparison.source_of(row)
                key = None if other is None else (other, None if self._seeds_of(other) == [None] else seed)
                if key is not None and key not in by_key:
                    continue
                folder = options.out / row.name / ("model" if seed is None else f"seed{seed}")
                by_key[row.name, seed] = Cell(row, seed, folder, None if key is None else by_key[key])
                self.cells.append(by_key[row.name, seed])
                waiting.remove((row, seed))
            if len(waiting) == before:
                row, seed = waiting[0]
                problem = f"row {row.name!r}: {comparison.source_of(row)} is not there with seed {seed}"
                raise IccldError(problem, "give both the same seeds")
        for cell in self.cells:
            cell.parts = _parts(cell.folder)

    def _seeds_of(self, name: str) -> list[int | None]:
        return self._seeds(self.comparison.rows()[name])

    def _seeds(self, row: RowSpec) -> list[int | None]:
        """Seeds of a row, with those of the command line in place of the file's."""
        if row.model is not None:
            return [None]
        if row.seeds is not None or not self.options.seeds:
            if row.model_of is not None and row.seeds is None:
                return self._seeds_of(row.model_of)
            return self.comparison.seeds_of(row)
        if row.model_of is not None:
            return self._seeds_of(row.model_of)
        return [*self.options.seeds]

    def _all_seeds(self, rows: Sequence[RowSpec]) -> list[int | None]:
        found = dict.fromkeys(seed for row in rows for seed in self._seeds(row))
        return sorted(found, key=lambda seed: seed is not None)  # model files first, they are quickly scored

    def _find(self, row: RowSpec) -> Path:
        given = self.options.file.parent / (row.model or "")
        try:
            return find_model(given if given.exists() else row.model)
        except IccldError as error:
            raise IccldError(f"row {row.name!r}: {error.message}", error.hint) from None

    def config(self, row: RowSpec, stage: str) -> Config:
        """The configuration of a row's stage.

        Raises:
            IccldError: It is not possible.
        """
        if (row.name, stage) in self._configs:
            return self._configs[row.name, stage]
        spec = self.stages(row)[stage]
        base: Config | None = None
        if stage == "adv" and row.seg is not None:
            base = self.config(row, "seg")
        elif row.parent is not None:
            base = self._config_of_result(row.parent)
        try:
            found = load_config(
                None if stage == "adv" else spec.preset,
                recipe=None if spec.recipe is None else load_recipe(spec.recipe),
                file=None if spec.config is None else self.options.file.parent / spec.config,
                base=base,
                sizes=base.model if base is not None else None,
                overrides={
                    "model.encoder": spec.encoder if stage == "seg" else None,
                    "data.batch_size": spec.batch_size,
                    "data.crop": spec.crop,
                    "run.precision": spec.precision,
                },
                assignments=_assignments(spec, self.options),
            )
            iterations = spec.iterations or getattr(found, stage).iterations
            longer = 1.0 if spec.longer is None else spec.longer
            found = load_config(
                base=found, sizes=found.model, overrides={f"{stage}.iterations": max(1, round(iterations * longer))}
            )
        except IccldError as error:
            raise IccldError(f"row {row.name!r}, {stage}: {error.message}", error.hint) from None
        self._configs[row.name, stage] = found
        return found

    def _config_of_result(self, name: str) -> Config:
        row = self.comparison.rows()[name]
        if row.model is not None:
            return read_header(self._models.get(name) or self._find(row)).config
        return self.config(row, "seg" if row.seg is not None else "adv")

    def stages(self, row: RowSpec) -> dict[str, StageSpec]:
        """A row's stages, with what the command line says in place of the file."""
        found, given = {}, self.options
        for stage, spec in self.comparison.stages(row).items():
            changed: dict[str, Any] = {"precision": given.precision}
            changed["iterations"] = given.seg_iterations if stage == "seg" else given.adv_iterations
            if stage == "seg" and row.parent is None:
                changed |= {"preset": given.preset, "encoder": given.encoder}
            found[stage] = spec.model_copy(update={key: value for key, value in changed.items() if value is not None})
        return found

    def model(self, cell: Cell) -> Path:
        """The file that a cell ends with."""
        row = cell.row
        if row.model is not None:
            return self._models[row.name]
        if row.model_of is not None:
            assert cell.needs is not None
            return self.model(cell.needs)
        return cell.folder / FILE_NAMES["stage2" if row.adv is not None else "stage1"]

    def start(self, cell: Cell) -> Path | None:
        """The file that a cell's training starts from: its parent's stage-1 file where that trains stage 1."""
        if cell.needs is None or not cell.row.trained:
            return None
        parent = cell.needs
        return parent.folder / FILE_NAMES["stage1"] if parent.row.seg is not None else self.model(parent)

    def facts(self, cell: Cell) -> dict[str, Any]:
        """What a training depends on; other facts make another training."""
        found: dict[str, Any] = {}
        for stage, spec in self.stages(cell.row).items():
            tree = self.config(cell.row, stage).model_dump(mode="json")
            for section, keys in FREE_SETTINGS.items():
                for key in keys:
                    tree[section].pop(key)
            for key in ("seed", "compile"):  # the cell's own, and what is faster alone
                tree["run"].pop(key)
            tree[_OTHER[stage]].pop("iterations")  # of the stage that this is not
            roles = {"source": spec.source or [], "target": spec.target or []}
            data = {role: {name: self._digest(name) for name in names} for role, names in roles.items()}
            classes = {"classes": self._classes(spec)} if _takes_classes(cell.row, stage) else {}
            alone = bool(spec.source_only) or (spec.recipe is not None and load_recipe(spec.recipe).source_only)
            found[stage] = {**data, **classes, "source_only": alone, "config": tree}
        if cell.row.parent is not None:
            found["parent"] = cell.row.parent
        return found

    def _digest(self, name: str) -> str | None:
        return self.sets.opened[name].digest if name in self.sets.opened else None

    def _classes(self, spec: StageSpec) -> list[str] | str:
        """Names of the classes to learn, or `all`."""
        if spec.classes != "shared":
            return spec.classes or "all"
        used = [*(spec.source or ()), self.comparison.shared_set]
        if any(name not in self.sets.opened for name in used):
            return "shared"
        *sources, scored = (self.sets.opened[name].info for name in used)
        known: set[int] = {train_id for info in sources for train_id in info.known_ids() or ()}
        return list(scored.label_space.names_of(shared_classes([known, scored.known_ids()], len(scored.label_space))))

    def changes(self, cell: Cell) -> list[str]:
        """What is not as it was when the cell was begun, a sentence part each; empty for a cell that was not."""
        before = _record(cell.folder)
        if before is None or not cell.row.trained:
            return []
        was, now = _flat(before.get("facts", {})), _flat(json.loads(json.dumps(self.facts(cell))))
        found = []
        for key in dict.fromkeys([*now, *was]):
            if _CONFIG in key and (key not in was or key not in now):
                continue  # a configuration key that the version which began the cell did not have
            if key == "adv.classes" and key not in now and was[key] == self._classes(self.stages(cell.row)["adv"]):
                continue  # which versions before this one recorded though the command does not take it
            if was.get(key) != now.get(key):
                found.append(f"{key.replace(_CONFIG, ': ')} was {_short(was.get(key))}, is {_short(now.get(key))}")
        start = self.start(cell)
        sha256 = before.get("start")
        if start is not None and sha256 is not None and start.is_file():
            with contextlib.suppress(IccldError):  # a damaged one is told where it is needed
                if identity(start) != sha256:
                    found.append(f"{cell.row.parent} is another model now")
        return found

    def done(self, cell: Cell) -> bool:
        """Whether a cell needs nothing more; one whose files cannot be read does, and will be told as failed."""
        try:
            return self.next_task(cell) is None
        except IccldError:
            return False

    def trained(self, cell: Cell) -> bool:
        """Whether a cell's model file is there."""
        return self.model(cell).is_file()

    def next_task(self, cell: Cell) -> Task | None:
        """The next command that a cell needs; None where it is done.

        Raises:
            IccldError: A data set or the model cannot be read.
        """
        for stage in self.comparison.stages(cell.row):
            if steps := self.steps_left(cell, stage):
                resume = ["--resume"] if _saved_steps(cell, stage) else []
                command = [*PROGRAM, *self.training(cell, stage), *resume]
                return Task(stage, tuple(command), cell.folder / "train.log", steps)
        jobs = [self.scoring_job(cell, evaluation) for evaluation in self.unscored(cell)]
        if not jobs:
            return None
        there = self.model(cell).is_file()  # not yet of a row whose model another one trains
        return Task("score", self.scoring(cell, jobs) if there else (), cell.folder / "score.log")

    def steps_left(self, cell: Cell, stage: str) -> int:
        """Steps that a stage of a cell still needs; 0 once its model file is there, and at least 1 before."""
        if (cell.folder / FILE_NAMES[_RESULT[stage]]).is_file():
            return 0
        done = max(_saved_steps(cell, stage), default=0)
        return max(1, getattr(self.config(cell.row, stage), stage).iterations - done)

    def unscored(self, cell: Cell) -> list[EvaluationSpec]:
        """The evaluations that a cell lacks."""
        model = self.model(cell)
        if not model.is_file():
            return list(self.comparison.evaluation)
        try:
            sha256 = identity(model)
        except IccldError:  # damaged, which its scoring will say
            return list(self.comparison.evaluation)
        return [e for e in self.comparison.evaluation if not self._is_scored(cell, e, sha256)]

    def _is_scored(self, cell: Cell, evaluation: EvaluationSpec, sha256: str) -> bool:
        return self._score(cell, evaluation, sha256) is not None

    def score(self, cell: Cell, evaluation: EvaluationSpec) -> tuple[dict[str, Any], np.ndarray] | None:
        """JSON and int64 (F, K, K) of a cell's score; None where there is none of the model that it has now."""
        try:
            sha256 = identity(self.model(cell))
        except (OSError, IccldError):  # gone or damaged
            return None
        return self._score(cell, evaluation, sha256)

    def _score(self, cell: Cell, evaluation: EvaluationSpec, sha256: str) -> tuple[dict[str, Any], np.ndarray] | None:
        found = read_score(score_path(cell.folder, evaluation))
        facts = {**self.score_facts(cell, evaluation), "model": sha256}
        return found if found is not None and found[0]["facts"] == facts else None

    def score_facts(self, cell: Cell, evaluation: EvaluationSpec) -> dict[str, Any]:
        """What a score depends on, besides the model."""
        return {
            "data": self._digest(evaluation.set),
            "split": evaluation.split,
            "limit": evaluation.limit,
            "rule": evaluation.rule,
            "classes": list(self.comparison.classes_of(evaluation.classes[0])),
            "sampling": cell.row.sampling.model_dump(mode="json"),
        }

    def scoring_job(self, cell: Cell, evaluation: EvaluationSpec, limit: int | None = None) -> dict[str, Any]:
        """What `compare.scoring` is told of an evaluation."""
        facts = self.score_facts(cell, evaluation)
        path = score_path(cell.folder, evaluation)
        return {**facts, "root": str(self._folder(evaluation.set)), "path": str(path), "most": limit}

    def scoring(self, cell: Cell, jobs: Sequence[Mapping[str, Any]], model: Path | None = None) -> tuple[str, ...]:
        """The command that scores a cell."""
        file = model or self.model(cell)
        return (*SCORING, json.dumps({"model": str(file), "sha256": identity(file), "jobs": list(jobs)}))

    def training(self, cell: Cell, stage: str) -> list[str]:
        """The arguments of `iccld` that train a stage of a cell, without the device."""
        spec, row = self.stages(cell.row)[stage], cell.row
        config = self.config(row, stage)
        command, start = [_COMMANDS[stage]], self.start(cell)
        if stage == "adv":
            command += ["--ckpt", str(cell.folder / FILE_NAMES["stage1"] if row.seg is not None else start)]
        elif start is not None:
            command += ["--ckpt", str(start)]
        for option, names in (("--source", spec.source), ("--target", spec.target)):
            command += [part for name in names or () for part in (option, str(self._folder(name)))]
        command += [] if spec.val is None else ["--val", str(self._folder(spec.val))]
        if _takes_classes(row, stage) and (classes := self._classes(spec)) != "all":
            command += ["--classes", ",".join(classes) if isinstance(classes, list) else classes]
        if stage == "seg":
            command += ["--preset", spec.preset] if spec.preset else []
            command += ["--encoder", spec.encoder] if spec.encoder else []
            command += ["--source-only"] if spec.source_only else []
        command += [] if spec.recipe is None else ["--recipe", spec.recipe]
        command += [] if spec.config is None else ["--config", str(self.options.file.parent / spec.config)]
        command += [] if spec.batch_size is None else ["--batch-size", str(spec.batch_size)]
        command += [] if spec.crop is None else ["--crop", "{}x{}".format(*spec.crop)]
        command += [] if spec.precision is None else ["--precision", spec.precision]
        command += ["--out", str(cell.folder), "--seed", str(cell.seed)]
        command += ["--iterations", str(getattr(config, stage).iterations)]
        return command + [part for text in _assignments(spec, self.options) for part in ("--set", text)]

    def _folder(self, name: str) -> Path:
        return self.sets.opened[name].root if name in self.sets.opened else self.sets.waiting[name]

    def begin(self, cell: Cell) -> None:
        """Record what a training is made with; at its first command alone."""
        if _record(cell.folder) is None:
            start = self.start(cell)
            sha256 = identity(start) if start is not None and start.is_file() else None
            self._write(cell, {"facts": self.facts(cell), "start": sha256, "parts": cell.parts})

    def note(self, cell: Cell, part: Mapping[str, Any]) -> None:
        """Record what a part took."""
        cell.parts = [*cell.parts, dict(part)]
        self._write(cell, {**(_record(cell.folder) or {}), "parts": cell.parts})

    def _write(self, cell: Cell, record: Mapping[str, Any]) -> None:
        write_json(cell.folder / CELL_NAME, record)

    def set_aside(self, cell: Cell) -> Path | None:
        """Move a cell's folder out of the way; where to, or None if there is none."""
        if not cell.folder.exists():
            return None
        number = 1
        while (place := cell.folder.with_name(f"old{number}-{cell.folder.name}")).exists():
            number += 1
        shutil.move(cell.folder, place)
        cell.parts = []
        return place

    def images(self, evaluation: EvaluationSpec) -> int:
        """Frames of an evaluation.

        Raises:
            IccldError: The split is missing or has no labels.
        """
        if evaluation.name not in self._images:
            dataset = self.sets.opened[evaluation.set]
            self._images[evaluation.name] = len(labelled_frames(dataset, evaluation.split, evaluation.limit))
        return self._images[evaluation.name]


_CONFIG = ".config."
_RESULT = {"seg": "stage1", "adv": "stage2"}
_identities: dict[Path, tuple[tuple[int, int, int], str]] = {}
_OTHER = {"seg": "adv", "adv": "seg"}


def _saved_steps(cell: Cell, stage: str) -> list[int]:
    """Steps at which a stage of a cell has saved its state."""
    from iccld_cli.train.state import list_states

    names = ("source_only", "stage1") if stage == "seg" else ("stage2",)
    return [state.step for state in list_states(cell.folder) if state.stage in names]


def _takes_classes(row: RowSpec, stage: str) -> bool:
    """Whether a stage's command is told classes: stage 2 has its model's unless the row says others."""
    return stage == "seg" or (row.adv is not None and row.adv.classes is not None)


def identity(model: Path) -> str:
    """What tells a model file from others: the digest of its tensors, or of the whole of an exported file.

    What was found is kept while the file stays the same.

    Raises:
        OSError: It is not there.
        IccldError: It is damaged.
    """
    stat = model.stat()
    mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if model not in _identities or _identities[model][0] != mark:
        _identities[model] = (mark, _identity(model))
    return _identities[model][1]


def _identity(model: Path) -> str:
    if model.suffix == ".safetensors":
        return read_header(model).sha256
    with open(model, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _assignments(spec: StageSpec, options: CompareOptions) -> list[str]:
    """`key=value` of a stage's settings, after those of the command line, which are for every training."""
    return [*options.settings, *(f"{key}={_toml(value)}" for key, value in spec.settings.items())]


def _toml(value: Any) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value).replace(" ", "")


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / CELL_NAME
    if not os.path.lexists(path):
        return None
    try:
        found = read_json(path)
    except ReadError as error:
        raise IccldError(f"{path} {error.message}", "remove its folder, or choose another --out") from None
    if not isinstance(found, dict) or not isinstance(found.get("parts"), list):
        raise IccldError(f"{path} is damaged", "remove its folder, or choose another --out")
    return found


def _parts(folder: Path) -> list[dict[str, Any]]:
    found = _record(folder)
    return [] if found is None else [part for part in found["parts"] if isinstance(part, dict)]


def _flat(tree: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {before: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{before}.{key}" if before else key)
    return found


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        value = f"{value[:8]}..."
    text = shown("not given" if value is None else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:57]}..."
