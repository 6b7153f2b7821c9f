"""A training run from its arguments to its model file: what `adapt-seg` and `adapt-adv` call."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console

from iccld_cli.adapt.loop import LoopHooks, train
from iccld_cli.adapt.stage_adv import AdvStage
from iccld_cli.adapt.stage_seg import SegStage
from iccld_cli.adapt.state import list_states
from iccld_cli.checkpoint import ModelHeader, load_segmenter, read_header, save_segmenter
from iccld_cli.config import Config
from iccld_cli.data.batches import Pool, TrainingBatches
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_text
from iccld_cli.inference.evaluate import evaluate
from iccld_cli.inference.overlay import draw_overlay
from iccld_cli.labels import LabelSpace, shared_classes
from iccld_cli.models.build import build_denoiser, build_segmenter
from iccld_cli.models.segmenter import Segmenter

CONFIG_NAME = "config.toml"
MODEL_NAMES = {"source_only": "stage1.safetensors", "stage1": "stage1.safetensors", "stage2": "stage2.safetensors"}
_OVERLAY_FRAMES = 4
# Settings of the surroundings, which a resumed run may change: they do not touch the numbers.
_FREE_SETTINGS = {
    "run": ("device", "log_every", "save_every", "keep_states", "validate_every", "validate_frames", "overlay_every"),
    "data": ("workers",),
}


@dataclass(frozen=True)
class TrainingData:
    """The data sets of a run.

    Attributes:
        sources: Labelled virtual data sets.
        targets: Real data sets, whose labels training never reads; empty for the source-only baseline.
        space: Their common label space.
        classes: TrainIds trained and scored: those that all of them know.
    """

    sources: list[PreparedDataset]
    targets: list[PreparedDataset]
    space: LabelSpace
    classes: tuple[int, ...]

    def describe(self) -> list[dict[str, Any]]:
        """What model files and training states say about the data."""
        rows = [("source", d) for d in self.sources] + [("target", d) for d in self.targets]
        return [
            {"role": role, "name": d.info.name, "path": str(d.root.resolve()), "digest": d.digest} for role, d in rows
        ]


@dataclass
class RunOptions:
    """What a run is asked to do besides its configuration.

    Attributes:
        out: The run folder.
        resume: Go on from the newest state in it.
        console: Where messages go.
        extra_classes: Data sets that further restrict the classes (such as the one a baseline will be scored on).
    """

    out: Path
    resume: bool = False
    console: Console = field(default_factory=Console)
    extra_classes: list[PreparedDataset] = field(default_factory=list)


def open_data(sources: list[Path], targets: list[Path], also: list[PreparedDataset] | None = None) -> TrainingData:
    """Open the data sets of a run and check that they go together.

    Args:
        sources: Folders of labelled prepared data sets.
        targets: Folders of target data sets.
        also: Data sets that restrict the classes without being trained on.

    Raises:
        IccldError: A folder is not a prepared data set, a source has no labels, or the label spaces differ.
    """
    opened_sources = [PreparedDataset(p) for p in sources]
    opened_targets = [PreparedDataset(p) for p in targets]
    if not opened_sources:
        raise IccldError("no source data set", "name at least one with --source")
    first = opened_sources[0].info.label_space
    for dataset in [*opened_sources, *opened_targets]:
        if dataset.info.label_space.names != first.names:
            raise IccldError(
                f"{dataset.root} has label space {dataset.info.label_space.name!r}, {opened_sources[0].root} has "
                f"{first.name!r}",
                "prepare both with the same label space",
            )
    for dataset in opened_sources:
        if dataset.info.classes_known is None:
            raise IccldError(
                f"source {dataset.root} has no labels", "a source needs labels; give it as --target instead"
            )
    known: set[int] = set()
    for dataset in opened_sources:  # several sources complete each other
        known |= set(dataset.info.known_ids() or ())
    others = [d.info.known_ids() for d in [*opened_targets, *(also or [])]]
    return TrainingData(opened_sources, opened_targets, first, shared_classes([known, *others], len(first)))


def build_accelerator(config: Config) -> Accelerator:
    """Device, precision and gradient sync of a run.

    Raises:
        IccldError: The device does not exist or lacks the precision.
    """
    device, precision = config.run.device, config.run.precision
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        if not torch.cuda.is_available() or number >= torch.cuda.device_count():
            raise IccldError(f"device {device} does not exist here", "see `iccld doctor`, or use --device cpu")
        if ":" in device:
            os.environ["ACCELERATE_TORCH_DEVICE"] = device
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16" if not on_cpu and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and on_cpu:
        raise IccldError("fp16 training needs a GPU", "use --precision fp32 or bf16")
    handler = DistributedDataParallelKwargs(find_unused_parameters=False)
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[handler])


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
    name = "source_only" if source_only else "stage1"
    accelerator = _begin(config, options, name)
    student = build_segmenter(config, len(data.space), denoiser=False, seed=config.run.seed)
    stage = SegStage(config, data.space, student, accelerator, source_only)
    return _run(stage, config, data, options, accelerator, [])


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
    accelerator = _begin(config, options, "stage2")
    student, header = load_segmenter(checkpoint)
    if header.label_space.names != data.space.names:
        raise IccldError(
            f"{checkpoint} has label space {header.label_space.name!r}, the data {data.space.name!r}",
            "prepare the data in the model's label space",
        )
    torch.manual_seed(config.run.seed)
    student = Segmenter(student.encoder, student.decoder, build_denoiser(config), config)
    stage = AdvStage(config, data.space, student, accelerator)
    return _run(stage, config, data, options, accelerator, [{"role": "stage1", "digest": header.sha256}])


def data_of_header(header: ModelHeader, path: Path) -> tuple[list[Path], list[Path]]:
    """Source and target folders that a stage-1 file was trained on.

    Raises:
        IccldError: The file is of stage 2.
    """
    if header.stage == "stage2":
        raise IccldError(f"{path} is a stage-2 model", "give the stage1.safetensors that `iccld adapt-seg` wrote")
    folders: dict[str, list[Path]] = {"source": [], "target": []}
    for row in header.datasets:
        folders.get(row["role"], []).append(Path(row["path"]))
    return folders["source"], folders["target"]


def _begin(config: Config, options: RunOptions, stage: str) -> Accelerator:
    run = options.out
    if run.exists() and not run.is_dir():
        raise IccldError(f"{run} is a file", "choose another --out")
    used = (run / MODEL_NAMES[stage]).exists() or any(s.stage == stage for s in list_states(run))
    if used and not options.resume:
        raise IccldError(f"{run} already holds a {stage} run", "go on with --resume, or choose another --out")
    accelerator = build_accelerator(config)
    if accelerator.is_main_process:
        write_text(run / CONFIG_NAME, config.to_toml())
    return accelerator


def _run(
    stage: SegStage | AdvStage,
    config: Config,
    data: TrainingData,
    options: RunOptions,
    accelerator: Accelerator,
    extra_facts: list[dict[str, Any]],
) -> Path:
    console, run = options.console, options.out
    target = Pool.of(data.targets) if data.targets and stage.name != "source_only" else None
    batches = TrainingBatches(
        config.data,
        config.run.seed,
        Pool.of(data.sources),
        target,
        data.classes,
        accelerator.process_index,
        accelerator.num_processes,
    )
    held_back = _held_back(data)
    device = accelerator.device
    validated: dict[str, float] = {}

    def validate() -> dict[str, float]:
        assert held_back is not None
        found = evaluate(
            stage.result(),
            held_back,
            "val",
            classes=data.classes,
            limit=config.run.validate_frames or None,
            device=device,
        )
        validated["miou"] = round(found.miou, 3)
        return dict(validated)

    hooks = LoopHooks(
        validate=validate if held_back is not None and accelerator.is_main_process else None,
        draw=functools.partial(_draw_overlays, stage, data, run, device),
    )
    facts = {
        "config": _facts_of(config),
        "data": [{k: v for k, v in row.items() if k != "path"} for row in data.describe()] + extra_facts,
        "processes": accelerator.num_processes,
    }
    names = ", ".join(data.space.names_of(data.classes))
    console.print(f"{stage.name} on {device} ({accelerator.mixed_precision}), {len(data.classes)} classes: {names}")
    train(stage, config, batches, run, accelerator, facts, hooks, options.resume, console)
    path = run / MODEL_NAMES[stage.name]
    if accelerator.is_main_process:
        header = ModelHeader(
            stage=stage.name,  # type: ignore[arg-type]
            config=config,
            label_space=data.space,
            classes=data.classes,
            datasets=data.describe(),
            iterations=stage.iterations,
            metrics={"validation": validated} if validated else {},
        )
        save_segmenter(path, stage.result(), header)
        console.print(f"wrote {path}")
    accelerator.wait_for_everyone()
    return path


def _facts_of(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    for section, keys in _FREE_SETTINGS.items():
        for key in keys:
            tree[section].pop(key)
    return tree


def _held_back(data: TrainingData) -> PreparedDataset | None:
    """The first target with labels in a `val` split: training shows its score and never learns from it."""
    for dataset in data.targets:
        if dataset.info.splits.get("val") and any(f.label for f in dataset.iter_frames("val")):
            return dataset
    return None


@torch.inference_mode()
def _draw_overlays(stage: SegStage | AdvStage, data: TrainingData, run: Path, device: torch.device, step: int) -> None:
    """Overlays of the same few target frames, so that a run's progress can be leafed through."""
    import cv2
    import numpy as np

    dataset = (data.targets or data.sources)[0]
    frames = dataset.frames("val" if dataset.info.splits.get("val") else "train")
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_OVERLAY_FRAMES, len(frames))).astype(int)]
    rows = []
    for frame in chosen:
        image = dataset.read_image(frame)
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float().div(255).unsqueeze(0)
        labels = stage.result().segment(pixels).probabilities[0].argmax(0).to(torch.uint8).cpu().numpy()
        row = np.hstack([image, draw_overlay(image, labels, data.space)])
        rows.append(row if not rows else cv2.resize(row, rows[0].shape[1::-1]))
    with atomic_path(run / "overlays" / f"{stage.name}-{step:07d}.jpg") as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def resume_header(path: Path) -> ModelHeader:
    """The header of a stage-1 file, for `adapt-adv`.

    Raises:
        IccldError: The file is missing, damaged or of stage 2.
    """
    header = read_header(path)
    data_of_header(header, path)
    return header
