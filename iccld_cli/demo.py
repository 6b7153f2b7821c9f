"""The whole path on the built-in virtual town: what `iccld demo` does.

    data/virtual-game    labelled source          data/virtual-camera    unlabelled target, and its held-back split
    burn-in on the source -> source only
                          -> stage 1 -> stage 2
                          -> labelled target, the ceiling
    each but the burn-in scored on the held-back split; overlay video; one page

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
BURN_IN = "burn-in"
RUNS = {"source_only": "source-only", "stage1": "adapted", "stage2": "adapted", "labelled": "labelled"}
DRIVE_NAME = "drive.mp4"
TITLES = {"source_only": "Source only", "stage1": "Stage 1", "stage2": "Stage 2", "labelled": "Labelled target"}
_GALLERY = 6
_LOOKS = 2


@dataclass(frozen=True)
class DemoOptions:
    """How big a demo is.

    Attributes:
        out: The demo folder.
        frames: Training frames of each look.
        size: (width, height) of a frame.
        iterations: Steps of the burn-in and of each of what goes on from it; stage 2 takes half as many.
        seconds: Length of the video.
        seed: Seed of the town and of training.
        device: As in `run.device`.
    """

    out: Path
    frames: int = 160
    size: tuple[int, int] = (384, 192)
    iterations: int = 150
    seconds: float = 4.0
    seed: int = 0
    device: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """What makes two demos the same."""
        raw = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in raw.items() if k not in ("out", "device")}


def run_demo(options: DemoOptions, console: Console) -> dict[str, float | None]:
    """Run the demo, or what is left of it.

    Args:
        options: How big.
        console: Where messages go.

    Returns:
        What `summary.json` holds: mIoU in percent of `source_only`, `stage1`, `stage2` and of a model that learnt from
        the target's labels (`labelled`); the share of the gap between the first and the last that stage 2 closes
        (`gap_closed`, in percent; None without a gap); `seconds`.

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
        console.rule("Burn-in")
        _train(BURN_IN, options, source, target, console)
        note()
        for stage in RUNS:
            console.rule(TITLES[stage])
            path = _train(stage, options, source, target, console)
            scores[stage] = _evaluate(path, target, options.device)
            console.print(f"{TITLES[stage]}: {scores[stage].miou:.1f} mIoU on the unseen look (test split)")
            note()
        console.rule("Video and page")
        video = _video(options, console)
    finally:
        seconds = note()
    found = {stage: score.miou for stage, score in scores.items()}
    gap = found["labelled"] - found["source_only"]
    summary: dict[str, float | None] = {stage: round(miou, 2) for stage, miou in found.items()}
    summary["gap_closed"] = round(100 * (found["stage2"] - found["source_only"]) / gap, 1) if gap > 0 else None
    summary["seconds"] = round(seconds, 1)
    _page(options, scores, source, target, summary, video)
    write_json(options.out / SUMMARY_NAME, summary)
    return summary


def demo_config(options: DemoOptions) -> Config:
    """The `small` preset with the encoder that comes with the program, sized for the demo."""
    every = max(options.iterations // 3, 1)
    return load_config(
        "small",
        overrides={
            "pseudo.quantile": 0.4,  # with which its numbers were measured
            "model.encoder": "efficientnet-lite0",
            "data.crop": [min(options.size), min(options.size)],
            "seg.iterations": options.iterations,
            "seg.burn_in": 0,
            "adv.iterations": max(options.iterations // 2, 1),
            "run.seed": options.seed,
            "run.device": options.device,
            "run.save_every": every,
            "run.validate_every": 0,
            "run.overlay_every": every,
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

    runs = options.out / "runs"
    run, kind = runs / RUNS.get(stage, stage), _kind(stage)
    path = run / FILE_NAMES[kind]
    if path.is_file():
        return path
    labelled, target_roots = (target, []) if stage == "labelled" else (source, [target.root])
    config, data = demo_config(options), open_data([labelled.root], target_roots)
    started = any(s.stage == kind for s in list_states(run))
    arguments = RunOptions(run, resume=started, console=console)
    if stage == "stage2":
        return adapt_adv(config, data, arguments, open_start(run / FILE_NAMES["stage1"]))
    start = None if stage == BURN_IN else open_start(runs / BURN_IN / FILE_NAMES["stage1"])
    return adapt_seg(config, data, arguments, source_only=stage != "stage1", start=start)


def _kind(stage: str) -> str:
    """A stage by the name that run folders know."""
    return stage if stage in FILE_NAMES else "source_only"


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

    drive = options.out / DRIVE_NAME
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
    source: PreparedDataset,
    target: PreparedDataset,
    summary: dict[str, float | None],
    video: Path,
) -> None:
    from iccld_cli.report import page

    space, rows = target.info.label_space, []
    tables = {stage: score.to_json()["classes"] for stage, score in scores.items()}
    for name in tables["stage2"]:
        cells = [tables[stage][name]["iou"] for stage in scores]
        rows.append([name, *("-" if c is None else f"{c:.1f}" for c in cells)])
    rows.append(["mean", *(f"{score.miou:.1f}" for score in scores.values())])
    bars = [page.Bar(TITLES[stage], score.miou / 100, f"{score.miou:.1f} mIoU") for stage, score in scores.items()]
    story = _STORY.format(frames=options.frames)
    if summary["gap_closed"] is not None:
        story += _GAP.format(share=summary["gap_closed"])
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
        page.Section("Result", [page.Bars(bars), page.Text(story)]),
        page.Section("On the road", [page.Clip(video.relative_to(options.out).as_posix(), "Stage 2 on a drive")]),
        page.Section("What training sees", _looks(source, target)),
        page.Section("Same frames, four models", _gallery(options, target)),
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
    "scored on frames of the camera look that training never saw. All go on from the same burn-in on the game look; "
    "the last one, the ceiling, from there on learns from the labels of the camera look, which the others never read."
)
_GAP = " Stage 2 closes {share:.0f} % of the gap between the source alone and that ceiling."


def _looks(source: PreparedDataset, target: PreparedDataset) -> list[Any]:
    """A row of labelled frames of the game look, and one of unlabelled frames of the camera look."""
    from iccld_cli.data.spread import evenly
    from iccld_cli.report import page
    from iccld_cli.report.overlay import colorize

    game, camera = evenly(source.frames("train"), _LOOKS), evenly(target.frames("train"), 2 * _LOOKS)
    labelled = [
        image for f in game for image in (source.read_image(f), colorize(source.read_label(f), source.info.label_space))
    ]
    return [
        page.Pictures(labelled, titles=["game look", "its labels"] * len(game), width=360),
        page.Pictures([target.read_image(f) for f in camera], titles=["camera look"] * len(camera), width=360),
    ]


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
        model = load_model(options.out / "runs" / run / FILE_NAMES[_kind(stage)], options.device)
        columns[TITLES[stage]] = [
            colorize(model.segment(image[None]).labels[0], space) for image in columns["camera image"]
        ]
    columns["ground truth"] = [colorize(target.read_label(f), space) for f in chosen]
    return [
        page.Pictures([column[i] for column in columns.values()], titles=list(columns), width=360)
        for i in range(len(chosen))
    ]
