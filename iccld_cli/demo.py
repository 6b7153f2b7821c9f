"""The whole path on the built-in virtual town: what `iccld demo` does.

    town/virtual-game    labelled source          town/virtual-camera    unlabelled target, and its held-back split
    source-only -> stage 1 -> stage 2, each scored on the held-back split; overlay video; one page

Every part leaves its result in the demo folder and is skipped when that is whole, so a stopped demo goes on.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from iccld_cli.config import Config, load_config
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.header import FILE_NAMES
from iccld_cli.names import shown
from iccld_cli.reading import ReadError, read_json

if TYPE_CHECKING:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.inference.evaluation import Evaluation

SUMMARY_NAME = "summary.json"
_OPTIONS_NAME = "demo.json"
RUNS = {"source_only": "source-only", "stage1": "adapted", "stage2": "adapted"}
TITLES = {"source_only": "Source only", "stage1": "Stage 1", "stage2": "Stage 2"}
_GALLERY = 6


@dataclass(frozen=True)
class DemoOptions:
    """How big a demo is.

    Attributes:
        out: The demo folder.
        frames: Training frames of each look.
        size: (width, height) of a frame.
        iterations: Steps of source-only and of stage 1; stage 2 takes half as many.
        seconds: Length of the video.
        seed: Seed of the town and of training.
        device: As in `run.device`.
    """

    out: Path
    frames: int = 160
    size: tuple[int, int] = (384, 192)
    iterations: int = 800
    seconds: float = 4.0
    seed: int = 0
    device: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """What makes two demos the same."""
        raw = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in raw.items() if k not in ("out", "device")}


def run_demo(options: DemoOptions, console: Console) -> dict[str, float]:
    """Run the demo, or what is left of it.

    Args:
        options: How big.
        console: Where messages go.

    Returns:
        What `summary.json` holds: mIoU in percent of `source_only`, `stage1` and `stage2`, and `seconds`.

    Raises:
        IccldError: The folder holds something else.
        KeyboardInterrupt: Interrupted; what was finished is kept.
    """
    spent = _open_folder(options)
    began = time.perf_counter()

    def note() -> float:
        seconds = spent + time.perf_counter() - began
        write_json(options.out / _OPTIONS_NAME, {"options": options.to_json(), "seconds": seconds})
        return seconds

    try:
        source, target = _prepare(options, console)
        scores: dict[str, Evaluation] = {}
        for stage in ("source_only", "stage1", "stage2"):
            console.rule(TITLES[stage])
            path = _train(stage, options, source, target, console)
            scores[stage] = _evaluate(path, target, options.device)
            console.print(f"{TITLES[stage]}: {scores[stage].miou:.1f} mIoU on the unseen look (test split)")
            note()
        console.rule("Video and page")
        video = _video(options, console)
    finally:
        seconds = note()
    summary = {stage: round(score.miou, 2) for stage, score in scores.items()} | {"seconds": round(seconds, 1)}
    _page(options, scores, target, summary, video)
    write_json(options.out / SUMMARY_NAME, summary)
    return summary


def demo_config(options: DemoOptions) -> Config:
    """The `tiny` preset, sized for the demo."""
    return load_config(
        "tiny",
        overrides={
            "seg.iterations": options.iterations,
            "adv.iterations": max(options.iterations // 2, 1),
            "run.seed": options.seed,
            "run.device": options.device,
            "run.save_every": max(options.iterations // 4, 1),
            "run.validate_every": max(options.iterations // 4, 1),
            "run.overlay_every": max(options.iterations // 4, 1),
            "run.validate_frames": 16,
        },
    )


def _open_folder(options: DemoOptions) -> float:
    """Make or recognise the folder; returns the seconds already spent on it."""
    marker = options.out / _OPTIONS_NAME
    if os.path.lexists(marker):
        try:
            found = read_json(marker)
            options_before, seconds = found["options"], float(found["seconds"])
        except ReadError as error:
            raise IccldError(f"{marker} {error.message}", "choose another --out") from None
        except (KeyError, TypeError, ValueError):
            raise IccldError(f"{marker} is damaged", "choose another --out") from None
        if options_before != options.to_json():
            raise IccldError(
                f"{options.out} holds a demo with other options", "give the same options or choose another --out"
            )
        return seconds
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise IccldError(f"{options.out} exists and is no demo", "choose another --out")
    write_json(marker, {"options": options.to_json(), "seconds": 0.0})
    return 0.0


def _prepare(options: DemoOptions, console: Console) -> tuple[PreparedDataset, PreparedDataset]:
    from iccld_cli.prepare.adapters.virtual import VirtualTown
    from iccld_cli.prepare.prepare import PrepareOptions
    from iccld_cli.prepare.with_bar import prepare_shown

    opened = []
    for look in ("game", "camera"):
        name = f"virtual-{look}"
        town = VirtualTown(look, options.frames, options.size, options.seed)
        dataset, fresh = prepare_shown(town, options.out / "data", name, PrepareOptions(), console)
        counts = ", ".join(f"{n} {split}" for split, n in dataset.info.splits.items())
        console.print(f"{'rendered' if fresh else 'found'} {name}: {counts}")
        opened.append(dataset)
    return opened[0], opened[1]


def _train(
    stage: str, options: DemoOptions, source: PreparedDataset, target: PreparedDataset, console: Console
) -> Path:
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import RunOptions, adapt_adv, adapt_seg
    from iccld_cli.train.start import open_start
    from iccld_cli.train.state import list_states

    run = options.out / "runs" / RUNS[stage]
    path = run / FILE_NAMES[stage]
    if path.is_file():
        return path
    config, data = demo_config(options), open_data([source.root], [target.root])
    started = any(s.stage == stage for s in list_states(run))
    arguments = RunOptions(run, resume=started, console=console)
    if stage == "stage2":
        return adapt_adv(config, data, arguments, open_start(run / FILE_NAMES["stage1"]))
    return adapt_seg(config, data, arguments, source_only=stage == "source_only")


def _evaluate(path: Path, target: PreparedDataset, device: str) -> Evaluation:
    from iccld_cli.inference.evaluate import Scope, evaluate
    from iccld_cli.inference.model import load_model

    return evaluate(load_model(path, device), target, Scope("test"))


def _video(options: DemoOptions, console: Console) -> Path:
    from iccld_cli.inference.inputs import collect
    from iccld_cli.inference.model import load_model
    from iccld_cli.inference.predict import predict
    from iccld_cli.inference.predict_options import PredictOptions
    from iccld_cli.town.drive import write_drive

    drive = options.out / "drive.mp4"
    if not drive.is_file():
        write_drive(drive, options.seconds, "camera", options.size, options.seed + 1)
    out = options.out / "predictions"
    model = load_model(options.out / "runs" / RUNS["stage2"] / FILE_NAMES["stage2"], options.device)
    predict(model, collect([str(drive)], out), PredictOptions(out, overwrite=True, legend=False))
    console.print(shown(f"wrote the overlay video of a drive through the unseen look to {out}"))
    return next(iter(sorted(out.rglob("*.mp4"))))


def _page(
    options: DemoOptions,
    scores: dict[str, Evaluation],
    target: PreparedDataset,
    summary: dict[str, float],
    video: Path,
) -> None:
    from iccld_cli.report import page

    space, rows = target.info.label_space, []
    tables = {stage: score.to_json()["classes"] for stage, score in scores.items()}
    for name in tables["stage2"]:
        cells = [tables[stage][name]["iou"] for stage in scores]
        rows.append([name, *("-" if c is None else f"{c:.1f}" for c in cells)])
    rows.append(["mean", *(f"{summary[stage]:.1f}" for stage in scores)])
    bars = [page.Bar(TITLES[s], summary[s] / 100, f"{summary[s]:.1f} mIoU") for s in scores]
    colors = [
        page.Bar(
            name,
            (row["iou"] or 0) / 100,
            "-" if row["iou"] is None else f"{row['iou']:.1f}",
            space.colors[space.id_of(name)],
        )
        for name, row in tables["stage2"].items()
    ]
    sections = [
        page.Section("Result", [page.Bars(bars), page.Text(_STORY.format(frames=options.frames))]),
        page.Section("On the road", [page.Clip(video.relative_to(options.out).as_posix(), "Stage 2 on a drive")]),
        page.Section("Same frames, three models", _gallery(options, target)),
        page.Section("The classes, their colours, and their IoU after stage 2 (%)", [page.Bars(colors)]),
        page.Section("IoU per class, stage by stage (%)", [page.Table(["class", *(TITLES[s] for s in scores)], rows)]),
        page.Section(
            "Training",
            [
                page.Pictures([options.out / "runs" / r / "curves.png"], caption=r, width=1100, plot=True)
                for r in dict.fromkeys(RUNS.values())
            ],
        ),
    ]
    page.write_page(
        options.out / "index.html",
        "ICCLD demo",
        sections,
        f"{len(tables['stage2'])} classes, {summary['seconds']:.0f} s in all",
    )


_STORY = (
    "Trained on {frames} labelled frames of the game look and as many unlabelled frames of the camera look; "
    "scored on frames of the camera look that training never saw."
)


def _gallery(options: DemoOptions, target: PreparedDataset) -> list[Any]:
    """Rows of input, the three predictions and ground truth."""
    from iccld_cli.inference.model import load_model
    from iccld_cli.report import page
    from iccld_cli.report.overlay import colorize

    space = target.info.label_space
    frames = target.frames("test")
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_GALLERY, len(frames))).astype(int)]
    columns: dict[str, list[np.ndarray]] = {"camera image": [target.read_image(f) for f in chosen]}
    for stage, run in RUNS.items():
        model = load_model(options.out / "runs" / run / FILE_NAMES[stage], options.device)
        columns[TITLES[stage]] = [
            colorize(model.segment(image[None]).labels[0], space) for image in columns["camera image"]
        ]
    columns["ground truth"] = [colorize(target.read_label(f), space) for f in chosen]
    return [
        page.Pictures([column[i] for column in columns.values()], titles=list(columns), width=360)
        for i in range(len(chosen))
    ]
