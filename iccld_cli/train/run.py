"""A training run from its arguments to its model file: what `adapt-seg` and `adapt-adv` call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from iccld_cli.adapt.baselines import stage2_class
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.adapt.stage2 import Stage2
from iccld_cli.checkpoint import save_segmenter
from iccld_cli.config import FREE_SETTINGS, Config, load_config
from iccld_cli.data.annotated import AnnotatedCrops, Meaning
from iccld_cli.data.batches import FramePool, TrainingBatches, trained_height
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.files import write_text
from iccld_cli.header import FILE_NAMES, ModelHeader
from iccld_cli.inference.evaluate import Scope, evaluate, scored_classes
from iccld_cli.inference.labelfree import look
from iccld_cli.inference.model import Model, load_model
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.blocks import checkpoint_activations
from iccld_cli.parallel.layout import is_sharded
from iccld_cli.sections import DataConfig
from iccld_cli.train.data import TrainingData
from iccld_cli.train.lock import hold_run
from iccld_cli.train.loop import LoopHooks, Trainer
from iccld_cli.train.pictures import draw_overlays
from iccld_cli.train.setup import build_accelerator, check_batch_size, compile_network, precision_warning
from iccld_cli.train.start import Start
from iccld_cli.train.state import SavedState, list_states, read_record

CONFIG_NAME = "config.toml"
AnyStage = Stage1 | Stage2

LABEL_FREE_FRAMES = 16
"""Target frames on which teachers are compared without labels."""


@dataclass
class RunOptions:
    """What a run is asked to do besides its configuration.

    Attributes:
        out: The run folder.
        resume: Go on from the newest state in it.
        console: Where messages go.
        auto_batch: Find the batch size that fits instead of taking the configured one.
        on_log: Called with each line of the log, on the first process.
        on_step: Called after each step with (steps done, steps in all).
    """

    out: Path
    resume: bool = False
    console: Console = field(default_factory=lambda: Console(markup=False, emoji=False))
    auto_batch: bool = False
    on_log: Callable[[dict[str, Any]], None] | None = None
    on_step: Callable[[int, int], None] | None = None


def adapt_seg(
    config: Config, data: TrainingData, options: RunOptions, source_only: bool = False, start: Start | None = None
) -> Path:
    """Stage 1, or the source-only baseline.

    Args:
        config: The configuration.
        data: The data sets.
        options: Run folder and the like.
        source_only: Train on the source alone; targets are then only used for validation.
        start: The model file to start from; None for the configuration's encoder.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    if not source_only and not data.targets:
        raise IccldError("no target data set", "name one with --target, or train the baseline with --source-only")
    if source_only and (data.labelled or data.answers):
        raise IccldError("--source-only learns from no labelled target", "give the set as another --source")
    origin = start or Start()
    origin.check(config)
    name = "source_only" if source_only else "stage1"
    with _begin(config, options, name) as accelerator:

        def make(config: Config) -> Stage1:
            student = origin.stage1_student(config, len(data.space))
            reference = origin.pretrained_backbone(config, student)
            return Stage1(config, data.space, student, accelerator, source_only, reference)

        return _run(make, config, data, options, accelerator, origin, name)


def adapt_adv(config: Config, data: TrainingData, options: RunOptions, start: Start) -> Path:
    """Stage 2.

    Args:
        config: The configuration.
        data: The data sets.
        options: Run folder and the like.
        start: A model file of stage 1, or of stage 2, whose UNet is trained further.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    if not data.targets:
        raise IccldError(f"{start.path} names no target data set", "name one with --target")
    start.check(config)
    with _begin(config, options, "stage2") as accelerator:

        def make(config: Config) -> Stage2:
            return stage2_class(config)(config, data.space, start.stage2_student(config), accelerator)

        return _run(make, config, data, options, accelerator, start, "stage2")


@contextlib.contextmanager
def _begin(config: Config, options: RunOptions, stage: str) -> Iterator[Accelerator]:
    """The devices of a run, and its folder for this training alone while the context lasts."""
    run = options.out
    if run.exists() and not run.is_dir():
        raise IccldError(f"{run} is a file", "choose another --out")
    _refuse_used(options, stage)
    accelerator = build_accelerator(config, run)
    if not accelerator.is_main_process:
        options.console = Console(quiet=True)
    if warning := precision_warning(accelerator):
        options.console.print(f"warning: {warning}", soft_wrap=True)
    with hold_run(run):
        _refuse_used(options, stage)  # by whoever held it until now
        yield accelerator


def _refuse_used(options: RunOptions, stage: str) -> None:
    run = options.out
    used = (run / FILE_NAMES[stage]).exists() or any(s.stage == stage for s in list_states(run))
    if used and not options.resume:
        raise IccldError(f"{run} already holds a {stage} run", "go on with --resume, or choose another --out")


def _run(
    make: Callable[[Config], AnyStage],
    config: Config,
    data: TrainingData,
    options: RunOptions,
    accelerator: Accelerator,
    start_from: Start,
    stage_name: str,
) -> Path:
    """Build a stage, train it and write its model file."""
    console, run, device = options.console, options.out, accelerator.device
    data = _with_recorded_classes(data, options, stage_name)
    for note in data.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    for warning in data.warnings():
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    config = _with_batch_size(make, config, data, options, accelerator)
    config, split = _with_recorded_split(config, options, accelerator, stage_name)
    stage = make(config)
    if config.run.checkpointing:
        checkpoint_activations(stage.student)
    if config.run.compile:
        compile_network(stage.network, accelerator)
    resume_key = {
        "config": _settings_key(config),
        "data": data.resume_key() | start_from.resume_key(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }
    if split is not None:  # another one of the same whole batch
        resume_key["processes"] = split.processes
        resume_key["config"]["data"]["batch_size"] = split.size
        resume_key["config"]["run"]["accumulate"] = split.accumulate
    batches = _batches(config, data, accelerator, with_target=stage.name != "source_only")
    hooks = LoopHooks(log=options.on_log, step=options.on_step)
    trainer = Trainer(stage, config, batches, run, accelerator, resume_key, hooks, console)

    def describe(step: int) -> ModelHeader:
        return ModelHeader(
            stage=stage.name,  # type: ignore[arg-type]
            config=config,
            label_space=data.space,
            classes=data.classes,
            datasets=data.describe(),
            iterations=step,
            metrics={"validation": dict(trainer.validation)} if trainer.validation else {},
            height=trained_height(config.data, batches.target),
        )

    def write(path: Path, model: Segmenter, step: int) -> None:
        save_segmenter(path, model, describe(step))

    def draw(model: Segmenter, step: int) -> None:
        draw_overlays(data, run, stage.name, load_model(model, header=describe(step)), step)

    hooks.draw = draw
    held_back = data.held_back()
    path = run / FILE_NAMES[stage.name]
    labels_free = config.run.select == "labels-free"
    if labels_free and not data.targets:
        raise IccldError("choosing the best teacher without labels needs frames of a target", "give --target")
    if held_back is not None or labels_free:
        hooks.validate = lambda model: _validate(config, data, held_back, load_model(model, header=describe(0)))
        hooks.keep_best = functools.partial(write, path.with_suffix(".best.safetensors"))
    start = trainer.resume() if options.resume else 0
    if start == stage.iterations and path.exists():
        console.print(f"{stage.name} in {run} is complete", soft_wrap=True)
        return path
    if accelerator.is_main_process:  # only now: a refused resume must not touch the run's own file
        for name in (CONFIG_NAME, f"config-{stage.name}.toml"):
            write_text(run / name, config.to_toml())
    names = ", ".join(data.space.names_of(data.classes))
    if config.run.shard and not is_sharded(config):
        console.print("run.shard has no effect: a single process keeps all parameters")
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    shards = ", parameters in shards" if is_sharded(config) else ""
    console.print(
        f"{stage.name} on {accelerator.num_processes} x {device} ({precision}){shards}, "
        f"{len(data.classes)} classes: {names}",
        soft_wrap=True,
    )
    trainer.train(start)
    model = stage.result()
    if accelerator.is_main_process and model is not None:
        write(path, model, stage.iterations)
        console.print(f"wrote {path}", soft_wrap=True)
    accelerator.wait_for_everyone()
    return path


def _with_recorded_classes(data: TrainingData, options: RunOptions, stage: str) -> TrainingData:
    """The data with the classes that the run to resume has learnt so far."""
    states = [s for s in list_states(options.out) if s.stage == stage] if options.resume else []
    if not states:
        return data
    facts = read_record(states[-1])["facts"].get("data")
    recorded = facts.get("classes") if isinstance(facts, dict) else None
    if not isinstance(recorded, list) or not all(isinstance(name, str) for name in recorded):
        return (
            data  # of an older version, which named none; a damaged one differs from this run's and is reported as such
        )
    return data.with_recorded_classes(recorded)


def _with_batch_size(
    make: Callable[[Config], AnyStage],
    config: Config,
    data: TrainingData,
    options: RunOptions,
    accelerator: Accelerator,
) -> Config:
    """The configuration with the batch size that fits, where it is asked for; a resumed run keeps its own."""
    if not options.auto_batch:
        return config
    states = list_states(options.out) if options.resume else []
    if states:
        return config.with_batch_size(_batch_size_of(states[-1]))
    return check_batch_size(
        make, config, lambda c: _batches(c, data, accelerator, with_target=bool(data.targets)), accelerator,
        options.console,
    )  # fmt: skip


def _batch_size_of(state: SavedState) -> int:
    try:
        size = read_record(state)["facts"]["config"]["data"]["batch_size"]
        return DataConfig(batch_size=size).batch_size
    except (KeyError, TypeError, ValueError):
        raise IccldError(f"training state {state.path} names no batch size", "give it with --batch-size") from None


@dataclass(frozen=True)
class _Split:
    """How the whole batch of a step is split."""

    processes: int
    size: int
    accumulate: int

    @property
    def whole(self) -> int:
        return self.processes * self.size * self.accumulate

    def __str__(self) -> str:
        return f"{self.processes} x {self.size} x {self.accumulate}"


def _with_recorded_split(
    config: Config, options: RunOptions, accelerator: Accelerator, stage: str
) -> tuple[Config, _Split | None]:
    """A configuration that keeps the whole batch of the state to resume, where the number of processes has changed.

    Returns:
        The configuration, and the state's own split where it is another one of the same whole batch.

    Raises:
        IccldError: No number of micro-batches keeps the whole batch.
    """
    states = [s for s in list_states(options.out) if s.stage == stage] if options.resume else []
    if not states:
        return config, None
    facts = read_record(states[-1])["facts"]
    try:
        counts = facts["processes"], facts["config"]["data"]["batch_size"], facts["config"]["run"]["accumulate"]
    except (KeyError, TypeError):
        counts = (0, 0, 0)
    before = _Split(*counts)
    possible = all(type(count) is int and count > 0 for count in counts)
    now = _Split(accelerator.num_processes, config.data.batch_size, config.run.accumulate)
    if not possible or before == now:
        return config, None  # what is damaged differs from this run, and is reported as such
    if before.whole != now.whole:
        if before.processes == now.processes or (before.size, before.accumulate) != (now.size, now.accumulate):
            return config, None  # asked for, and refused with what else differs
        if before.whole % (now.processes * now.size):
            raise IccldError(
                f"the state in {options.out} is of batches of {before.whole} ({before}, processes x batch size x "
                f"accumulate), which {now.processes} processes x {now.size} do not divide",
                f"give a --batch-size that does, or {before.processes} processes",
            )
        config = load_config(base=config, assignments=[f"run.accumulate={before.whole // now.processes // now.size}"])
        now = _Split(now.processes, now.size, config.run.accumulate)
    options.console.print(
        f"note: batches of {now.whole} are now {now} (processes x batch size x accumulate), they were {before}: the "
        "numbers are the same within rounding, but batch norm and gates see the micro-batches in turn",
        soft_wrap=True,
    )
    return config, before


def _batches(config: Config, data: TrainingData, accelerator: Accelerator, with_target: bool) -> TrainingBatches:
    source = FramePool.of(data.sources)
    folds = data.folds if config.data.fold_classes else {}
    source.check_labelled([*data.classes, *folds])
    target = FramePool.of(data.targets) if data.targets and with_target else None
    marked: dict[str, AnnotatedCrops] = {}
    if target is not None:
        meaning, first = data.meaning(folds), 0
        for role, sets in (("annotated", data.labelled), ("answered", data.answers)):
            tables = meaning.tables[first : first + len(sets)]
            first += len(sets)
            if sets:
                part, height = Meaning(tables, meaning.groups), target.median_height()
                marked[role] = AnnotatedCrops(config.data, FramePool.of(sets), part, folds, height)
    return TrainingBatches(
        config.data,
        config.run.seed,
        source,
        target,
        data.classes,
        accelerator.process_index,
        accelerator.num_processes,
        config.run.accumulate,
        folds,
        **marked,
    )


def _validate(config: Config, data: TrainingData, held_back: PreparedDataset | None, model: Model) -> dict[str, float]:
    scores = {}
    if held_back is not None:
        limit = config.run.validate_frames or None
        scope = Scope("val", scored_classes(data.classes, held_back), limit, boundary=False)
        scores["miou"] = round(evaluate(model, held_back, scope).miou, 3)
    if config.run.select == "labels-free":
        scores["labels_free"] = round(_labels_free(data, model), 3)
    return scores


def _labels_free(data: TrainingData, model: Model) -> float:
    """The score without labels in percent, a mean over the targets; of the same frames every time."""
    most, found = max(1, LABEL_FREE_FRAMES // len(data.targets)), []
    for target in data.targets:
        found.append(look(model, target, evenly(target.frames("train"), most)).score)
    return 100 * sum(found) / len(found)


def _settings_key(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    for section, keys in FREE_SETTINGS.items():
        for key in keys:
            tree[section].pop(key)
    return tree
