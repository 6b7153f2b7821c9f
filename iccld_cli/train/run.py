"""A training run from its arguments to its model file: what `adapt-seg` and `adapt-adv` call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from iccld_cli.adapt.stage1 import SegStage
from iccld_cli.adapt.stage2 import AdvStage
from iccld_cli.checkpoint import ModelHeader, load_segmenter, read_header, save_segmenter
from iccld_cli.config import Config, DataConfig
from iccld_cli.data.batches import Pool, TrainingBatches
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import write_text
from iccld_cli.inference.evaluate import evaluate
from iccld_cli.models.build import build_denoiser, build_segmenter
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.blocks import checkpoint_activations
from iccld_cli.parallel.sharding import is_sharded
from iccld_cli.train.data import TrainingData, open_data
from iccld_cli.train.lock import hold_run
from iccld_cli.train.loop import LoopHooks, Trainer
from iccld_cli.train.pictures import draw_overlays
from iccld_cli.train.setup import build_accelerator, check_batch_size, compile_network, precision_warning
from iccld_cli.train.state import SavedState, list_states, read_record

__all__ = ["RunOptions", "TrainingData", "adapt_adv", "adapt_seg", "data_of_header", "open_data", "resume_header"]

CONFIG_NAME = "config.toml"
MODEL_NAMES = {"source_only": "stage1.safetensors", "stage1": "stage1.safetensors", "stage2": "stage2.safetensors"}
# Settings of the surroundings, which a resumed run may change: they do not touch the numbers.
_FREE_SETTINGS = {
    "run": (
        "device", "log_every", "save_every", "keep_states", "validate_every", "validate_frames", "overlay_every",
        "checkpointing", "shard", "trackers",
    ),
    "data": ("workers",),
}  # fmt: skip
AnyStage = SegStage | AdvStage


@dataclass
class RunOptions:
    """What a run is asked to do besides its configuration.

    Attributes:
        out: The run folder.
        resume: Go on from the newest state in it.
        console: Where messages go.
        auto_batch: Find the batch size that fits instead of taking the configured one.
    """

    out: Path
    resume: bool = False
    console: Console = field(default_factory=Console)
    auto_batch: bool = False


def adapt_seg(config: Config, data: TrainingData, options: RunOptions, source_only: bool = False) -> Path:
    """Stage 1, or the source-only baseline.

    Args:
        config: The configuration.
        data: The data sets.
        options: Run folder and the like.
        source_only: Train on the source alone; targets are then only used for validation.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    if not source_only and not data.targets:
        raise IccldError("no target data set", "name one with --target, or train the baseline with --source-only")
    with _begin(config, options, "source_only" if source_only else "stage1") as accelerator:

        def make(config: Config) -> SegStage:
            student = build_segmenter(config, len(data.space), denoiser=False, seed=config.run.seed)
            return SegStage(config, data.space, student, accelerator, source_only)

        return _run(make, config, data, options, accelerator, {})


def adapt_adv(config: Config, data: TrainingData, options: RunOptions, checkpoint: Path) -> Path:
    """Stage 2.

    Args:
        config: The configuration.
        data: The data sets.
        options: Run folder and the like.
        checkpoint: Stage 1's model file.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    if not data.targets:
        raise IccldError(f"{checkpoint} names no target data set", "name one with --target")
    header = read_header(checkpoint)
    if header.label_space.names != data.space.names:
        raise IccldError(
            f"{checkpoint} has label space {header.label_space.name!r}, the data {data.space.name!r}",
            "prepare the data in the model's label space",
        )

    with _begin(config, options, "stage2") as accelerator:

        def make(config: Config) -> AdvStage:
            coder, _ = load_segmenter(checkpoint)
            torch.manual_seed(config.run.seed)
            denoiser = build_denoiser(config) if config.adv.generate else None
            student = Segmenter(coder.encoder, coder.decoder, denoiser, config)
            return AdvStage(config, data.space, student, accelerator)

        return _run(make, config, data, options, accelerator, {"stage 1 model": header.sha256})


def data_of_header(header: ModelHeader, path: Path) -> tuple[list[Path], list[Path]]:
    """Source and target folders that a stage-1 file was trained on.

    Raises:
        IccldError: The file is of stage 2.
    """
    if header.stage == "stage2":
        raise IccldError(f"{path} is a stage-2 model", "give the stage1.safetensors that `iccld adapt-seg` wrote")
    folders: dict[str, list[Path]] = {"source": [], "target": []}
    for row in header.datasets:
        if "path" not in row:
            continue  # a file that was handed on
        folders.get(row["role"], []).append(Path(row["path"]))
    return folders["source"], folders["target"]


def resume_header(path: Path) -> ModelHeader:
    """The header of a stage-1 file, for `adapt-adv`.

    Raises:
        IccldError: The file is missing, damaged or of stage 2.
    """
    header = read_header(path)
    data_of_header(header, path)
    return header


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
    used = (run / MODEL_NAMES[stage]).exists() or any(s.stage == stage for s in list_states(run))
    if used and not options.resume:
        raise IccldError(f"{run} already holds a {stage} run", "go on with --resume, or choose another --out")


def _run(
    make: Callable[[Config], AnyStage],
    config: Config,
    data: TrainingData,
    options: RunOptions,
    accelerator: Accelerator,
    more_facts: dict[str, Any],
) -> Path:
    """Build a stage, train it and write its model file."""
    console, run, device = options.console, options.out, accelerator.device
    config = _with_batch_size(make, config, data, options, accelerator)
    stage = make(config)
    if config.run.checkpointing:
        checkpoint_activations(stage.student)
    if config.run.compile:
        compile_network(stage.network, accelerator)
    facts = {
        "config": _facts_of(config),
        "data": data.facts() | more_facts,
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }
    batches = _batches(config, data, accelerator, with_target=stage.name != "source_only")
    hooks = LoopHooks(draw=functools.partial(draw_overlays, data, run, stage.name, device))
    trainer = Trainer(stage, config, batches, run, accelerator, facts, hooks, console)

    def write(path: Path, model: Segmenter, step: int) -> None:
        header = ModelHeader(
            stage=stage.name,  # type: ignore[arg-type]
            config=config,
            label_space=data.space,
            classes=data.classes,
            datasets=data.describe(),
            iterations=step,
            metrics={"validation": dict(trainer.validation)} if trainer.validation else {},
        )
        save_segmenter(path, model, header)

    held_back = data.held_back()
    path = run / MODEL_NAMES[stage.name]
    if held_back is not None:
        hooks.validate = functools.partial(_validate, config, data, held_back, device)
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
        console.print("run.shard: a single process has nobody to share its parameters with and keeps them whole")
    shards = ", parameters in shards" if is_sharded(config) else ""
    console.print(
        f"{stage.name} on {accelerator.num_processes} x {device} ({accelerator.mixed_precision}){shards}, "
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


def _batches(config: Config, data: TrainingData, accelerator: Accelerator, with_target: bool) -> TrainingBatches:
    source = Pool.of(data.sources)
    source.check_labelled([*data.classes, *(data.folds if config.data.fold_classes else ())])
    return TrainingBatches(
        config.data,
        config.run.seed,
        source,
        Pool.of(data.targets) if data.targets and with_target else None,
        data.classes,
        accelerator.process_index,
        accelerator.num_processes,
        config.run.accumulate,
        data.folds if config.data.fold_classes else None,
    )


def _validate(
    config: Config, data: TrainingData, held_back: PreparedDataset, device: torch.device, model: Segmenter
) -> dict[str, float]:
    limit = config.run.validate_frames or None
    found = evaluate(model, held_back, "val", classes=data.classes, limit=limit, device=device)
    return {"miou": round(found.miou, 3)}


def _facts_of(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    for section, keys in _FREE_SETTINGS.items():
        for key in keys:
            tree[section].pop(key)
    return tree
