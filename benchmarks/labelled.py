"""What a few labels of the target are worth: mIoU against their number, points for masks, and the choice of frames.

    python benchmarks/labelled.py --source DATA/virtual-camera DATA/virtual-game --target DATA/camvid \\
        --out runs/labelled --iterations 120 --precision bf16 --classes "road,sidewalk,..."
    python benchmarks/labelled.py ... --rows start none masks-20      # only these
    python benchmarks/labelled.py ... --list                          # what there is

Every row goes on from one model file (`--ckpt`, the shipped `free` by default, which has seen no real road) with `iccld
adapt-seg` and the settings that `iccld adapt` had before it learnt answers, adapted to all of the target's training
frames without labels, and to the row's labels with `--labelled`. Rows differ in these labels alone:

    start            not trained           none             no label
    masks-N          whole labels of N frames, chosen evenly
    points-N         20 labelled pixels in each of the same frames, drawn evenly from all that have a label
    random-20        whole labels of 20 frames drawn at random
    to-label-20      whole labels of the 20 frames that `iccld predict --to-label 20` names for the start

The sets of labels are made by `iccld prepare`. What is finished is not done again, a training that was stopped goes on,
and OUT/labelled.json and OUT/labelled.png are written anew after every row; a row that was not run is null.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.footage.training import QUANTILE, RATE
from iccld_cli.labels import IGNORE

POINTS = 20
"""Labelled pixels a frame in the rows of points."""

SETTINGS = ("seg.burn_in=0", f"pseudo.quantile={QUANTILE}", "seg.feature_distance_weight=0")
"""With a share of the start's rates, what `iccld adapt` trained with before it learnt answers."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Of its folder.
        title: What it is.
        frames: Labelled frames.
        choice: How they are chosen: `even`, `random` or `to-label`; empty without labels.
        points: Whether only `POINTS` pixels of each are labelled.
    """

    name: str
    title: str
    frames: int = 0
    choice: str = ""
    points: bool = False


ROWS = (
    Row("start", "the start, not trained"),
    Row("none", "adapted without labels"),
    *(Row(f"masks-{n}", f"{n} labelled frames", n, "even") for n in (5, 20, 50, 367)),
    *(Row(f"points-{n}", f"{POINTS} points in each of {n} frames", n, "even", points=True) for n in (20, 367)),
    Row("random-20", "20 labelled frames drawn at random", 20, "random"),
    Row("to-label-20", "20 labelled frames that --to-label names", 20, "to-label"),
)
BY_NAME = {row.name: row for row in ROWS}


def main() -> None:
    """Run the rows."""
    options = _options()
    rows = [BY_NAME[name] for name in options.rows or BY_NAME]
    if options.list:
        for row in rows:
            print(f"{row.name}: {row.title}")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    before = options.out / "settings.json"
    if before.exists() and json.loads(before.read_text(encoding="utf-8")) != settings_of(options):
        sys.exit(f"{options.out} was begun with other settings, see {before}; name another --out")
    _replace(before, json.dumps(settings_of(options), indent=1) + "\n")
    failed = []
    for row in rows:
        try:
            _one(row, options)
        except subprocess.CalledProcessError as error:
            failed.append(f"{row.name}: {shlex.join(map(str, error.cmd))} ended with {error.returncode}")
        found = collect(options)
        _replace(options.out / "labelled.json", json.dumps(found, indent=1) + "\n")
        if any(value is not None for value in found["rows"].values()):
            draw(found, options.out / "labelled.png")
        if found["rows"][row.name]:
            print(f"{row.name}: {found['rows'][row.name]['miou']:.1f}", flush=True)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    sys.exit(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="+", help="prepared labelled data sets")
    parser.add_argument("--target", type=Path, help="prepared target, labelled in `train` and in the scored split")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ckpt", default="free", help="model that every row starts from")
    parser.add_argument("--rows", nargs="+", choices=BY_NAME, metavar="ROW", help="only these, in this order")
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every training")
    parser.add_argument("--split", default="test", help="split that is scored")
    parser.add_argument("--limit", type=int, default=0, help="score this many frames, spread evenly; 0 for all")
    parser.add_argument("--classes", help="score these classes only")
    parser.add_argument("--list", action="store_true", help="print the rows, and stop")
    options = parser.parse_args()
    if not options.list and not (options.source and options.target and options.out):
        parser.error("name --source, --target and --out")
    return options


def _one(row: Row, options: argparse.Namespace) -> None:
    folder = options.out / row.name
    folder.mkdir(parents=True, exist_ok=True)
    model = Path(options.ckpt)
    if row.name != "start":
        model = folder / "run/stage1.safetensors"
        if not model.exists():
            labels = [] if not row.choice else ["--labelled", str(labelled_set(row, options))]
            began = time.perf_counter()
            _call([*training(row, options), *labels], folder / "train.log")
            _replace(folder / "seconds.json", json.dumps(round(time.perf_counter() - began, 1)))
    scores = folder / f"{options.split}.json"
    if not scores.exists():
        command = ["evaluate", "--ckpt", str(model), "--data", str(options.target), "--split", options.split]
        command += ["--json", str(scores), "--device", options.device]
        command += ["--limit", str(options.limit)] if options.limit else []
        command += ["--classes", options.classes] if options.classes else []
        _call(command, folder / "evaluate.log")


def training(row: Row, options: argparse.Namespace) -> list[str]:
    """The command that trains a row, without its labels."""
    from iccld_cli.header import read_header
    from iccld_cli.inference.model import find_model

    run = options.out / row.name / "run"
    rate = RATE * read_header(find_model(Path(options.ckpt))).config.optim.lr
    command = ["adapt-seg", "--ckpt", options.ckpt, "--target", str(options.target), "--out", str(run)]
    command += [part for path in options.source for part in ("--source", str(path))]
    command += ["--iterations", str(options.iterations), "--batch-size", str(options.batch_size)]
    command += ["--seed", str(options.seed), "--precision", options.precision, "--device", options.device]
    command += ["--resume"] if any((run / "state").glob("*-*")) else []
    settings = (*SETTINGS, f"optim.lr={rate!r}", "run.validate_every=0", "run.overlay_every=0", "run.save_every=20")
    return command + [part for setting in (*settings, *options.set) for part in ("--set", setting)]


def labelled_set(row: Row, options: argparse.Namespace) -> Path:
    """The prepared set of a row's labels, made once."""
    name = f"{row.choice}-{row.frames}{'-points' if row.points else ''}"
    found = options.out / "sets" / name
    if (found / "dataset.json").exists():
        return found
    target = PreparedDataset(options.target)
    raw = options.out / "raw" / name
    shutil.rmtree(raw, ignore_errors=True)
    frames = target.frames("train")
    for number in chosen(row, frames, options):
        frame = frames[number]
        label = target.read_label(frame)
        if row.points:
            label = only_points(label, np.random.default_rng([options.seed, number]))
        for kind, file in (("images", Path(frame.image)), ("masks", Path(frame.image).with_suffix(".png"))):
            path = raw / kind / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "images":
                shutil.copyfile(target.root / frame.image, path)
            else:
                cv2.imwrite(str(path), label)
    label_map = raw / "map.toml"
    label_map.write_text(map_of(target), encoding="utf-8")
    command = ["prepare", "--images", str(raw / "images"), "--masks", str(raw / "masks"), "--label-map", str(label_map)]
    _call([*command, "--name", name, "--out", str(options.out / "sets"), "--workers", "1"], raw.with_suffix(".log"))
    return found


def chosen(row: Row, frames: Sequence[Frame], options: argparse.Namespace) -> list[int]:
    """Numbers of the frames that a row has labels of."""
    if row.choice == "even":
        return evenly(range(len(frames)), row.frames)
    if row.choice == "random":
        return sorted(np.random.default_rng(options.seed).choice(len(frames), row.frames, replace=False).tolist())
    out = options.out / "to-label"
    if not (out / "to_label.jsonl").exists():
        listed = options.out / "to-label.txt"
        _replace(listed, "".join(f"{(options.target / frame.image).resolve()}\n" for frame in frames))
        command = ["predict", str(listed), "--ckpt", options.ckpt, "--out", str(out), "--save", "frames"]
        _call([*command, "--to-label", str(row.frames), "--device", options.device], options.out / "to-label.log")
    lines = (out / "to_label.jsonl").read_text(encoding="utf-8").splitlines()
    named = [Path(json.loads(line)["input"]).resolve() for line in lines]
    place = {(options.target / frame.image).resolve(): number for number, frame in enumerate(frames)}
    return sorted(place[path] for path in named)


def only_points(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label of which `POINTS` pixels are left, drawn evenly from those that have a class."""
    places = np.flatnonzero(label != IGNORE)
    kept = rng.choice(places, min(POINTS, len(places)), replace=False)
    found = np.full_like(label, IGNORE)
    found.flat[kept] = label.flat[kept]
    return found


def map_of(target: PreparedDataset) -> str:
    """A label map of the target's classes, which says what else they cover."""
    space = target.info.label_space
    ids = [f'{i} = "{space.names[i]}"' for i in target.info.known_ids() or ()]
    covers = [f'"{fine}" = "{coarse}"' for fine, coarse in target.info.covers.items()]
    return "\n".join(["[ids]", *ids, '255 = "ignore"', "[covers]", *covers, ""])


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Everything measured so far; None for a row that was not run."""
    rows: dict[str, Any] = {}
    for row in ROWS:
        scores, seconds = options.out / row.name / f"{options.split}.json", options.out / row.name / "seconds.json"
        rows[row.name] = None
        if scores.exists():
            found = json.loads(scores.read_text(encoding="utf-8"))
            rows[row.name] = {
                "title": row.title,
                "frames": row.frames,
                "labelled_pixels": _labelled_pixels(row, options),
                "miou": found["miou"],
                "pixel_accuracy": found["pixel_accuracy"],
                "images": found["images"],
                "classes": {name: one["iou"] for name, one in found["classes"].items()},
                "seconds": json.loads(seconds.read_text()) if seconds.exists() else None,
            }
    return {"settings": settings_of(options), "rows": rows}


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all rows of a folder have in common."""
    given = {key: getattr(options, key) for key in ("ckpt", "iterations", "batch_size", "seed", "precision", "split")}
    given |= {"limit": options.limit, "classes": options.classes, "set": options.set, "points_a_frame": POINTS}
    return {**given, "source": [path.name for path in options.source], "target": options.target.name}


def _labelled_pixels(row: Row, options: argparse.Namespace) -> int:
    if not row.choice:
        return 0
    frames = PreparedDataset(labelled_set(row, options)).frames("train")
    return sum(count for frame in frames for i, count in (frame.pixels or {}).items() if i != IGNORE)


def draw(found: dict[str, Any], path: Path) -> None:
    """mIoU against the number of labelled frames: masks, points, and the two other choices of 20."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    done = {name: row for name, row in found["rows"].items() if row}
    for names, label, style in (
        (("none", *(row.name for row in ROWS if row.choice == "even" and not row.points)), "whole frames", "o-"),
        (("none", *(row.name for row in ROWS if row.points)), f"{POINTS} points a frame", "s--"),
        (("random-20",), "20 drawn at random", "^"),
        (("to-label-20",), "20 by --to-label", "*"),
    ):
        points = sorted((done[name]["frames"], done[name]["miou"]) for name in names if name in done)
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=9 if len(style) == 1 else 5)
    if "start" in done:
        axes.axhline(done["start"]["miou"], color="#888888", linewidth=0.9, linestyle=":", label="the start")
    axes.set_xscale("symlog", linthresh=5)
    ticks = sorted({row.frames for row in ROWS})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("labelled frames")
    axes.set_ylabel(f"mIoU on {found['settings']['split']} (%)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)


def _call(arguments: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "iccld_cli", *arguments]
    with open(log, "a", encoding="utf-8") as file:
        print(shlex.join(command), file=file, flush=True)
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
