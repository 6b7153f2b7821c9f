"""Stage 1 from a finished model, with the virtual town as labelled source."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from iccld_cli.config import Config, load_config
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.record import Record
from iccld_cli.header import FILE_NAMES
from iccld_cli.prepare.prepare import PrepareOptions
from iccld_cli.prepare.with_bar import prepare_shown

TOWN_FRAMES, TOWN_SIZE, TOWN_SEED = 200, (512, 384), 5
"""The virtual town that stands for labelled roads: frames a look, size, seed."""

TOWN_KINDS = (("urban", 0.6), ("motorway", 0.2), ("country", 0.2))

RATE = 0.3
"""Factor on the learning rates that the start was trained with."""

QUANTILE = 0.7
"""Share of a class's pixels that are not sure enough to be learnt from."""

HALF = 0.5
"""Weight of the adapted model in the average."""

_PROBE_STEPS = 8
_IN_TRAINING = 0.9  # of the minutes: the rest is start and saving
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


def training_config(base: Config, iterations: int, options: FootageOptions) -> Config:
    """How stage 1 goes on from a finished model, on few frames of a road that is not far from what it knows.

    Rates are a third of the start's, since it is to keep what it knows, and gates are stricter, since its errors on the
    new road would be learnt. How that went where it was measured stands in benchmarks/RESULTS.md.
    """
    every = max(iterations // 3, 1)
    return load_config(
        None,
        base=base,
        sizes=base.model,
        overrides={
            "seg.iterations": iterations,
            "seg.burn_in": 0,
            "seg.feature_distance_weight": 0.0,
            "optim.lr": RATE * base.optim.lr,
            "pseudo.quantile": QUANTILE,
            "run.seed": options.seed,
            "run.device": options.device,
            "run.validate_every": 0,
            "run.overlay_every": every,
            "run.save_every": every,
        },
    )


def count_steps(
    options: FootageOptions,
    record: Record,
    start: Path,
    sources: Sequence[PreparedDataset],
    targets: Sequence[PreparedDataset],
    console: Console,
) -> int:
    """Steps of training: given, measured before, or as many as the minutes allow."""
    if options.iterations is not None:
        return options.iterations
    if "iterations" in record.tree:
        return int(record.tree["iterations"])
    probe = options.out / "runs/probe"
    shutil.rmtree(probe, ignore_errors=True)
    train(options, start, sources, targets, _PROBE_STEPS, probe, Console(quiet=True), log_every=1)
    rows = [json.loads(line) for line in (probe / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = statistics.median(row["step_seconds"] for row in rows[len(rows) // 2 :])
    shutil.rmtree(probe)
    found = int(60 * options.minutes * _IN_TRAINING / seconds)
    iterations = min(max(found, _FEWEST), _MOST)
    record.keep("iterations", iterations)
    console.print(f"a step takes {seconds:.2f} s: {iterations} steps in {options.minutes:g} minutes")
    return iterations


def train(
    options: FootageOptions,
    start: Path,
    sources: Sequence[PreparedDataset],
    targets: Sequence[PreparedDataset],
    iterations: int,
    run: Path,
    console: Console,
    log_every: int | None = None,
) -> Path:
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import RunOptions, adapt_seg
    from iccld_cli.train.start import open_start
    from iccld_cli.train.state import list_states

    path = run / FILE_NAMES["stage1"]
    if path.is_file():
        return path
    opened = open_start(start)
    assert opened.header is not None
    config = training_config(opened.header.config, iterations, options)
    if log_every is not None:
        config = load_config(None, base=config, sizes=config.model, overrides={"run.log_every": log_every})
    data = open_data(
        [s.root for s in sources], [t.root for t in targets], start=opened.header, labelled=options.labelled
    )
    started = any(state.stage == "stage1" for state in list_states(run))
    return adapt_seg(config, data, RunOptions(run, resume=started, console=console), start=opened)


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
