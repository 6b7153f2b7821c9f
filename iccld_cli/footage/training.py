"""Stage 1 from a finished model, with the virtual town as labelled source, and stage 2 behind it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from iccld_cli.config import Config, load_config, preset_names
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.record import Record
from iccld_cli.header import FILE_NAMES
from iccld_cli.prepare.prepare import PrepareOptions
from iccld_cli.prepare.with_bar import prepare_shown

FootageStage = Literal["stage1", "stage2"]

TOWN_FRAMES, TOWN_SIZE, TOWN_SEED = 200, (512, 384), 5
"""The virtual town that stands for labelled roads: frames a look, size, seed."""

TOWN_KINDS = (("urban", 0.6), ("motorway", 0.2), ("country", 0.2))

RATE = 0.3
"""Factor on the learning rates of the start's preset."""

HEAD_FACTOR = 3.0
"""`optim.head_lr_factor` at most: presets have more, which is meant for heads with random weights."""

CONTEXT_CROPS = 4
"""What the teacher sees around a crop: the whole frame, as long as that is at most so many crops large."""

QUANTILE = 0.7
"""Share of a class's pixels that are not sure enough to be learnt from."""

HALF = 0.5
"""Weight of the adapted model in the average."""

STAGE2_SHARE = 1 / 3
"""Share of the minutes that stage 2 takes; where steps are given, half as many as stage 1, which is the same share."""

BEGIN_NAME = "begin-stage2.safetensors"
_PROBE_STEPS = 8
_IN_TRAINING = 0.9  # of the minutes: the rest is start and saving
_LEAST_IN_TRAINING = 0.5  # of the minutes, however long answering took
_FEWEST, _MOST = 20, 20_000


def render_town(options: FootageOptions, console: Console) -> list[PreparedDataset]:
    """The virtual town in both looks: rendered once, and kept in the user's cache where there is one."""
    from iccld_cli.inference.cache import cache_folder
    from iccld_cli.prepare.adapters.virtual import REVISION, VirtualTown
    from iccld_cli.town import Mix

    cache = cache_folder()
    size = f"{TOWN_SIZE[0]}x{TOWN_SIZE[1]}"
    place = (options.out / "data" if cache is None else cache.parent) / f"town-{REVISION}-{TOWN_FRAMES}-{size}"
    found = []
    for look in ("camera", "game"):
        town = VirtualTown(look, TOWN_FRAMES, TOWN_SIZE, TOWN_SEED, Mix(TOWN_KINDS))
        found.append(prepare_shown(town, place, f"virtual-{look}", PrepareOptions(), console)[0])
        console.print(f"virtual-{look}: {len(found[-1].frames('train'))} labelled frames")
    return found


def training_config(
    base: Config,
    stage: FootageStage,
    iterations: int,
    options: FootageOptions,
    unet: bool = False,
    frame: tuple[int, int] = (0, 0),
) -> Config:
    """How a stage goes on from a finished model, on few frames of a road that is not far from what it knows.

    Rates are a third of the preset's, since the start is to keep what it knows, and never above those that it was
    trained with; a third of those would be a ninth where one adapts twice. Gates are stricter, since its errors on the
    new road would be learnt; a label is the most probable class, given by a teacher that sees the whole frame. How that
    went where it was measured stands in benchmarks/RESULTS.md. A UNet that begins with random weights learns at the
    rate that such a one is given otherwise.

    Args:
        base: The configuration of the start.
        stage: Which stage.
        iterations: Its steps.
        options: Of the run.
        unet: Of stage 2: whether the UNet is the start's.
        frame: (width, height) of a frame at scale 1; 0, 0 for a teacher that sees no more than the crop.
    """
    preset = load_config(base.preset) if base.preset in preset_names() else base
    every = max(iterations // 3, 1)
    own = {
        "stage1": {"seg.iterations": iterations, "seg.burn_in": 0, "seg.feature_distance_weight": 0.0},
        "stage2": {
            "adv.iterations": iterations,
            "adv.generate": True,
            "adv.unet_lr": min(RATE * preset.adv.unet_lr, base.adv.unet_lr) if unet else base.adv.unet_lr,
        },
    }
    return load_config(
        None,
        base=base,
        sizes=base.model,
        overrides={
            **own[stage],
            "optim.lr": min(RATE * preset.optim.lr, base.optim.lr),
            "optim.head_lr_factor": min(HEAD_FACTOR, base.optim.head_lr_factor),
            "data.context": context_of(base, frame),
            "pseudo.gate": "quantile",
            "pseudo.quantile": QUANTILE,
            "run.seed": options.seed,
            "run.device": options.device,
            "run.validate_every": 0,
            "run.overlay_every": every,
            "run.save_every": every,
        },
    )


def context_of(config: Config, frame: tuple[int, int]) -> tuple[int, int]:
    """`data.context` by which the teacher sees whole frames, or of large ones as much as it costs little to see.

    Args:
        config: Of the start; its crops are the measure.
        frame: (width, height) of a frame at scale 1.

    Returns:
        (width, height), at least the crop's; 0, 0 where that is all.
    """
    crop, unit = config.data.crop, 64 if config.model.detail else 32
    if not all(frame):
        return (0, 0)
    most = CONTEXT_CROPS * crop[0] * crop[1]
    factor = min(1.0, math.sqrt(most / (frame[0] * frame[1])))
    width, height = (max(int(side * factor) // unit * unit, least) for side, least in zip(frame, crop, strict=True))
    width = min(width, most // height // unit * unit)
    height = min(height, most // width // unit * unit)
    return (0, 0) if (width, height) == crop else (width, height)


def frame_size(targets: Sequence[PreparedDataset]) -> tuple[int, int]:
    """Median (width, height) of the frames at scale 1, where all are as high as the median frame."""
    sizes = [(frame.width, frame.height) for target in targets for frame in target.frames("train")]
    height = statistics.median(h for _, h in sizes)
    return round(statistics.median(w * height / h for w, h in sizes)), round(height)


def count_steps(
    stage: FootageStage,
    options: FootageOptions,
    record: Record,
    start: Path,
    sources: Sequence[PreparedDataset],
    targets: Sequence[PreparedDataset],
    answers: Sequence[Path],
    console: Console,
) -> int:
    """Steps of a stage: given, measured before, or as many as its share of the minutes that answering left allows."""
    second = stage == "stage2"
    if options.iterations is not None:
        return max(options.iterations // 2, 1) if second else options.iterations
    key = "iterations_stage2" if second else "iterations"
    if record.tree.get(key) is not None:
        return int(record.tree[key])
    probe = options.out / "runs/probe"
    shutil.rmtree(probe, ignore_errors=True)
    train(stage, options, start, sources, targets, answers, _PROBE_STEPS, probe, Console(quiet=True), log_every=1)
    rows = [json.loads(line) for line in (probe / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = statistics.median(row["step_seconds"] for row in rows[len(rows) // 2 :])
    shutil.rmtree(probe)
    left = options.minutes - (record.tree.get("answer_seconds") or 0.0) / 60
    left = max(left, _LEAST_IN_TRAINING * options.minutes)
    minutes = left * (STAGE2_SHARE if second else 1 - STAGE2_SHARE if options.stage2 else 1.0)
    iterations = min(max(int(60 * minutes * _IN_TRAINING / seconds), _FEWEST), _MOST)
    record.keep(key, iterations)
    console.print(f"a step takes {seconds:.2f} s: {iterations} steps in {minutes:.3g} minutes")
    return iterations


def train(
    stage: FootageStage,
    options: FootageOptions,
    start: Path,
    sources: Sequence[PreparedDataset],
    targets: Sequence[PreparedDataset],
    answers: Sequence[Path],
    iterations: int,
    run: Path,
    console: Console,
    log_every: int | None = None,
) -> Path:
    """Train a stage, or what is left of it.

    Args:
        stage: Which stage.
        options: Of the run.
        start: The model file to begin with; of stage 2, from `begin_stage2`.
        sources: The virtual town.
        targets: The footage's frames.
        answers: Sets of the start's answers to them.
        iterations: Steps.
        run: The run folder.
        console: Where messages go.
        log_every: Steps between the lines of the log; None for the configuration's.

    Returns:
        The model file of the stage.
    """
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import RunOptions, adapt_adv, adapt_seg
    from iccld_cli.train.start import open_start
    from iccld_cli.train.state import list_states

    path = run / FILE_NAMES[stage]
    if path.is_file():
        return path
    opened = open_start(start)
    assert opened.header is not None
    unet, frame = opened.header.stage == "stage2", frame_size(targets)
    config = training_config(opened.header.config, stage, iterations, options, unet, frame)
    if log_every is not None:
        config = load_config(None, base=config, sizes=config.model, overrides={"run.log_every": log_every})
    data = open_data(
        [s.root for s in sources], [t.root for t in targets], start=opened.header, labelled=options.labelled,
        answers=answers,
    )  # fmt: skip
    started = any(state.stage == stage for state in list_states(run))
    how = RunOptions(run, resume=started, console=console)
    return adapt_seg(config, data, how, start=opened) if stage == "stage1" else adapt_adv(config, data, how, opened)


def begin_stage2(start: Path, adapted: Path, out: Path) -> Path:
    """What stage 2 begins with: E and D of stage 1, and the start's UNet; a fresh one where it has none.

    The configuration is the start's, from which that of stage 2 is made as that of stage 1 was.

    Args:
        start: The model file that stage 1 began with.
        adapted: Stage 1's.
        out: Folder of the run.

    Returns:
        The model file that stands for it.
    """
    from iccld_cli.checkpoint import load_segmenter, save_segmenter
    from iccld_cli.models.build import join

    path = out / "runs" / BEGIN_NAME
    if not path.is_file():
        (first, before), (coders, header) = load_segmenter(start), load_segmenter(adapted)
        model = join(coders.encoder, coders.decoder, first.denoiser, before.config)
        stage = header.stage if first.denoiser is None else "stage2"
        save_segmenter(path, model, dataclasses.replace(header, stage=stage, config=before.config))
    return path


def average(start: Path, adapted: Path, out: Path) -> Path:
    """E and D half of the start and half of the adapted model."""
    from iccld_cli.checkpoint import load_segmenter, save_segmenter

    path = out / "runs/average.safetensors"
    if not path.is_file():
        (one, _), (other, header) = load_segmenter(start), load_segmenter(adapted)
        before = one.state_dict()
        mean = {
            name: (1 - HALF) * before[name] + HALF * value if value.is_floating_point() else value
            for name, value in other.state_dict().items()
        }
        other.load_state_dict(mean)
        save_segmenter(path, other, header)
    return path
