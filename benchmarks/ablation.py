"""Every row of the accuracy table in one command: trainings, evaluations and the table.

    python benchmarks/ablation.py --source DATA/carla DATA/virtual-camera DATA/virtual-game --target DATA/camvid \\
        --out runs/ablation --encoder MOBILENET_V2 --seeds 0 1 2 --device cuda --jobs 4
    python benchmarks/ablation.py ... --rows stage1 stage2 --test    # `test` is touched only when it is asked for
    python benchmarks/ablation.py ... --list                         # what there is, and the commands
    python benchmarks/ablation.py --protocol unseen-drive --camvid CAMVID --source ... --out runs/unseen-drive --test
    python benchmarks/agreement.py runs/unseen-drive                 # does the order on `val` agree with `test`?

Each row is a training with the program's own commands, in OUT/<row>/seed<N>, and starts where its parent of the same
seed ended. The rows are begun in the order in which they are named, a child as soon as its parent stands. What is
finished is not done again, a run that was stopped goes on, and OUT/results.json and OUT/table.md are written anew after
every row, with OUT/chart.png. What a training took, in steps, seconds and processor seconds, stands in its
compute.json and in results.json. Settings are chosen on `val`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import protocols

NO_STYLE = ("augment.style_probability=0",)
PLAIN_SELF_TRAINING = (*NO_STYLE, "seg.burn_in=0", "pseudo.gate=threshold")
NO_UNET = ("adv.generate=false",)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Of its folder.
        title: What it is.
        settings: Differences to the preset.
        parent: Row whose stage-1 file stage 2 starts from; None for a training from the pretrained encoder.
        source_only: Train on the source alone.
        oracle: Train on the target's own labels.
        first_source: Use the first source data set alone.
        last_sources: Use all but the first.
        longer: Factor on the iterations of the stage.
        evaluations: Further evaluations by name: options of `iccld evaluate`.
    """

    name: str
    title: str
    settings: tuple[str, ...] = ()
    parent: str | None = None
    source_only: bool = False
    oracle: bool = False
    first_source: bool = False
    last_sources: bool = False
    longer: float = 1.0
    evaluations: dict[str, tuple[str, ...]] = field(default_factory=dict)


# A step of stage 2 costs as much as 2.3 to 2.5 of stage 1 (benchmarks/train.py, small, CPU).
EQUAL_COMPUTE = 2.4
SAMPLING = {
    "0 steps": ("--steps", "0"),
    "20 steps": ("--steps", "20"),
    "8 noise seeds": ("--samples", "8", "--average"),
    "scales and flip": ("--scales", "1,1.5", "--flip", "--average"),
}
ROWS = (
    Row("oracle", "supervised oracle", source_only=True, oracle=True),
    Row("source-only", "source only", source_only=True),
    Row("source-styled", "source only, with style alignment", ("seg.burn_in=1",)),
    Row("self-training", "plain self-training (DACS, DAFormer)", PLAIN_SELF_TRAINING),
    Row(
        "adversarial-mixed",
        "adversarial on outputs, with self-training, no stage 1",
        (*NO_UNET, "adv.adversary=output"),
        parent="source-only",
        longer=EQUAL_COMPUTE,
    ),
    Row(
        "adversarial",
        "adversarial on outputs, no self-training (AdaptSegNet)",
        (*NO_UNET, "adv.adversary=output", "adv.self_training=false"),
        parent="source-only",
        longer=EQUAL_COMPUTE,
    ),
    Row("stage1", "stage 1"),
    Row("stage1-first", "stage 1, first source alone", first_source=True),
    Row("stage1-others", "stage 1, the other sources alone", last_sources=True),
    Row("stage1-no-burn-in", "stage 1, no burn-in", ("seg.burn_in=0",)),
    Row("stage1-quantile", "stage 1, gates that do not choose labels", ("pseudo.gate=quantile",)),
    Row("stage1-threshold", "stage 1, threshold for the whole image", ("pseudo.gate=threshold",)),
    Row("stage1-no-style", "stage 1, no style alignment", NO_STYLE),
    Row("stage1-no-rare", "stage 1, no rare-class sampling", ("data.rare_class_temperature=0",)),
    Row("stage1-no-fold", "stage 1, no folding of classes", ("data.fold_classes=false",)),
    Row("stage1-feature", "stage 1, with feature distance", ("seg.feature_distance_weight=0.005",)),
    Row("stage1-context", "stage 1, teacher sees more than the crop", ("data.context=[480,352]",)),
    Row("stage1-strict", "stage 1, gates at the 70 % quantile", ("pseudo.quantile=0.7",)),
    Row(
        "stage1-margins",
        "stage 1, no pseudo-labels on the outer rows",
        ("data.ignore_rows_top=0.03", "data.ignore_rows_bottom=0.23"),  # DAFormer's code: 15 and 120 of 512
    ),
    Row(
        "stage1-large-crops",
        "stage 1, half as many crops, twice as large",
        ("data.crop=[384,352]", "data.batch_size=2"),
    ),
    Row("stage1-masked", "stage 1, with masked consistency", ("seg.masked_weight=1",)),
    Row("stage1-detail", "stage 1, two resolutions (HRDA)", ("model.detail=true",)),
    Row("stage1-no-skip", "stage 1, no inter-coder connection", ("model.skip_channels=0",)),
    Row(
        "stage1-continued",
        "stage 1 continued, equal compute",
        (*NO_UNET, "adv.adversarial_weight=0"),
        parent="stage1",
        longer=EQUAL_COMPUTE,
    ),
    Row("stage2", "stage 2", parent="stage1", evaluations=SAMPLING),
    Row("stage2-no-skip", "stage 2, no inter-coder connection", parent="stage1-no-skip"),
    Row("stage2-no-adversary", "stage 2, no adversarial loss", ("adv.adversarial_weight=0",), parent="stage1"),
    Row("stage2-no-unet", "stage 2, adversarial on z_0, no diffusion", NO_UNET, parent="stage1"),
    Row("stage2-no-prototypes", "stage 2, clean latent is z_0", ("adv.label_strength=0",), parent="stage1"),
    Row("stage2-prototypes", "stage 2, clean latent is prototypes alone", ("adv.label_strength=1",), parent="stage1"),
    Row("stage2-output", "stage 2, discriminator on outputs", ("adv.adversary=output",), parent="stage1"),
    Row("stage2-align", "stage 2, adversarial loss reaches E", ("adv.align_encoder=true",), parent="stage1"),
    Row("stage2-strong", "stage 2, adversarial weight x 10", ("adv.adversarial_weight=0.1",), parent="stage1"),
)
BY_NAME = {row.name: row for row in ROWS}


def main() -> None:
    """Train and evaluate the chosen rows and write the table."""
    options = _options()
    rows = with_parents(options.rows or list(BY_NAME))
    if options.list:
        for row in rows:
            print(f"{row.name}: {row.title}\n    {shlex.join(training(row, options, 0))}")
        return
    failed = _train_all([(row, seed) for seed in options.seeds for row in rows], options)
    for error in failed:
        print(error, file=sys.stderr)
    sys.exit(bool(failed))


def _train_all(waiting: list[tuple[Row, int]], options: argparse.Namespace) -> list[str]:
    """Train and evaluate, `--jobs` at once, always the first whose parent is done; what went wrong."""
    done: dict[tuple[str, int], str | None] = {}
    running: dict[concurrent.futures.Future, tuple[str, int]] = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        while waiting or running:
            for row, seed in [*waiting]:
                if len(running) < options.jobs and (row.parent is None or (row.parent, seed) in done):
                    lost = done.get((row.parent or "", seed)) is not None
                    running[pool.submit(_one, row, seed, options, lost)] = (row.name, seed)
                    waiting.remove((row, seed))
            for future in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
                done[running.pop(future)] = future.result()
    return [error for error in done.values() if error is not None]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="+", required=True, help="Prepared labelled data sets.")
    parser.add_argument("--target", type=Path, nargs="+", help="Prepared targets; the first has val labels.")
    parser.add_argument("--protocol", choices=protocols.PROTOCOLS, help="Instead of --target, see protocols.py.")
    parser.add_argument("--camvid", type=Path, help="CamVid in the SegNet layout, for --protocol.")
    parser.add_argument("--footage", type=Path, nargs="+", default=[], help="Prepared target of `leave-out`.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--encoder", help="Encoder, where the preset's own is not at hand.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=BY_NAME, metavar="ROW", help="Only these, and their parents.")
    parser.add_argument("--seg-iterations", type=int, default=2000)
    parser.add_argument("--adv-iterations", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="For every training.")
    parser.add_argument("--classes", help="Score these classes only.")
    parser.add_argument(
        "--all-classes", action="store_true", help="Learn all that the sources know, not only what is scored."
    )
    parser.add_argument("--test", action="store_true", help="Also score `test`.")
    parser.add_argument("--plain", action="store_true", help="Leave out the rows' further evaluations.")
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at once, on one device.")
    parser.add_argument("--list", action="store_true", help="Print rows and commands, and stop.")
    options = parser.parse_args()
    if options.protocol:
        if options.camvid is None or options.target:
            parser.error("--protocol needs --camvid, and finds its own --target")
        data = options.out / "data"
        data.mkdir(parents=True, exist_ok=True)
        found = protocols.prepare(options.protocol, options.camvid, options.footage, data)
        options.target, options.scored, options.judges = found.targets, found.scored, found.judges
    elif not options.target:
        parser.error("name a --target, or a --protocol")
    else:
        options.scored, options.judges = options.target[0], {}
    return options


def with_parents(names: list[str]) -> list[Row]:
    """The rows in the order in which they are named, each after its parent."""
    wanted: dict[str, None] = {}
    for name in names:
        wanted |= {parent: None} if (parent := BY_NAME[name].parent) else {}
        wanted[name] = None
    return [BY_NAME[name] for name in wanted]


def training(row: Row, options: argparse.Namespace, seed: int) -> list[str]:
    """The command that trains a row."""
    out = options.out / row.name / f"seed{seed}"
    command = [sys.executable, "-m", "iccld_cli"]
    if row.parent is None:
        sources = options.source[:1] if row.first_source else options.source[1:] if row.last_sources else options.source
        command += ["adapt-seg", "--preset", options.preset]
        command += [part for path in options.target for part in ("--target", str(path))]
        sources = [options.scored] if row.oracle else sources
        command += [part for path in sources for part in ("--source", str(path))]
        command += [] if options.all_classes else _shared_classes(sources, options.scored)
        command += ["--encoder", options.encoder] if options.encoder else []
        command += ["--source-only"] if row.source_only else []
        iterations = options.seg_iterations
    else:
        command += ["adapt-adv", "--ckpt", str(options.out / row.parent / f"seed{seed}" / "stage1.safetensors")]
        iterations = options.adv_iterations
    command += ["--out", str(out), "--seed", str(seed), "--iterations", str(round(iterations * row.longer))]
    command += ["--device", options.device, "--precision", options.precision]
    return command + [part for setting in (*options.set, *row.settings) for part in ("--set", setting)]


def _shared_classes(sources: list[Path], scored: Path) -> list[str]:
    """`--classes` with what the sources and the labels that are scored know, so that every row learns the same."""
    known = [
        json.loads((path / "dataset.json").read_text(encoding="utf-8"))["classes_known"] for path in [*sources, scored]
    ]
    if known[-1] is None:
        return []
    names = {name for classes in known[:-1] for name in classes or ()}
    return ["--classes", ",".join(name for name in known[-1] if name in names)]


def _one(row: Row, seed: int, options: argparse.Namespace, orphan: bool) -> str | None:
    """Train and evaluate a row; what went wrong, or None."""
    if orphan:
        return f"{row.name}, seed {seed}: its parent {row.parent} is missing"
    folder = options.out / row.name / f"seed{seed}"
    model = folder / ("stage1.safetensors" if row.parent is None else "stage2.safetensors")
    try:
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            resume = ["--resume"] if any((folder / "state").glob("*-*")) else []
            account(training(row, options, seed) + resume, folder)
        for split in ("val", "test") if options.test else ("val",):
            further = {} if options.plain else row.evaluations
            for name, extra in {"": (), **further}.items():
                path = folder / f"{split}{name and ' '}{name}.json".replace(" ", "-")
                _evaluate(model, path, options.scored, split, extra, options)
        for name, data in options.judges.items():
            _evaluate(model, folder / f"judge-{name}.json", data, "train", (), options)
    except subprocess.CalledProcessError as error:
        return f"{row.name}, seed {seed}: {shlex.join(error.cmd)} ended with {error.returncode}, see {folder}"
    with _writing:
        found = collect(options.out)
        _replace(options.out / "results.json", json.dumps(found, indent=2) + "\n")
        _replace(options.out / "table.md", table(found))
        chart(found, options.out / "chart.png")
    print(f"{row.name}, seed {seed}: val {_miou(folder / 'val.json'):.1f}", flush=True)
    return None


_writing = threading.Lock()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _evaluate(
    model: Path, path: Path, data: Path, split: str, extra: tuple[str, ...], options: argparse.Namespace
) -> None:
    if path.exists():
        return
    command = [sys.executable, "-m", "iccld_cli", "evaluate", "--ckpt", str(model), "--data", str(data)]
    command += ["--split", split, "--json", str(path), "--device", options.device, *extra]
    _call(command + (["--classes", options.classes] if options.classes else []), path.with_suffix(".log"))


def _call(command: list[str], log: Path) -> float | None:
    """Run a command; the processor seconds of it and of its children, where the system counts them."""
    with open(log, "a", encoding="utf-8") as file:
        print(shlex.join(command), file=file, flush=True)
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        if not hasattr(os, "wait4"):
            process.wait()
            used = None
        else:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            used = usage.ru_utime + usage.ru_stime
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used


def account(command: list[str], folder: Path) -> None:
    """Train, and add what it took to the folder's compute.json: a part for each time the training was begun.

    A part that did not end, because everything was stopped, keeps `seconds` null: its share is not known.
    """
    path = folder / "compute.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else []
    steps = int(command[command.index("--iterations") + 1])
    part: dict[str, float | None] = {"seconds": None, "cpu_seconds": None}
    _replace(path, json.dumps({"steps": steps, "parts": [*parts, part]}) + "\n")
    started = time.perf_counter()
    used = _call(command, folder / "train.log")
    part = {"seconds": round(time.perf_counter() - started), "cpu_seconds": used and round(used)}
    _replace(path, json.dumps({"steps": steps, "parts": [*parts, part]}) + "\n")


def compute(folder: Path) -> dict[str, Any] | None:
    """What a training took: steps, seconds, processor seconds, and how many parts of it are not in these."""
    path = folder / "compute.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    known = [part for part in found["parts"] if part["seconds"] is not None]
    total = {key: sum(part[key] or 0 for part in known) for key in ("seconds", "cpu_seconds")}
    return {"steps": found["steps"], **total, "unknown_parts": len(found["parts"]) - len(known)}


def collect(out: Path) -> dict[str, Any]:
    """All evaluations under a folder: row -> evaluation -> mean, spread and seeds of mIoU and the like."""
    found: dict[str, Any] = {}
    for row in ROWS:
        by_name: dict[str, dict[int, dict]] = {}
        for path in sorted((out / row.name).glob("seed*/*.json")):
            if path.stem.startswith(("val", "test", "judge")):
                seed = int(path.parent.name.removeprefix("seed"))
                by_name.setdefault(path.stem, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
        if by_name:
            found[row.name] = {
                "title": row.title,
                "evaluations": {name: _summary(by_name[name]) for name in sorted(by_name)},
                "parent": row.parent,
                "compute": {
                    path.name.removeprefix("seed"): compute(path) for path in sorted((out / row.name).glob("seed*"))
                },
            }
    return found


def _summary(by_seed: dict[int, dict]) -> dict[str, Any]:
    raws = [by_seed[seed] for seed in sorted(by_seed)]
    return {
        "seeds": sorted(by_seed),
        "mious": [raw["miou"] for raw in raws],
        "miou": _mean_and_spread([raw["miou"] for raw in raws]),
        "ece": _mean_and_spread([raw["ece"] for raw in raws]),
        "auroc": _mean_and_spread([raw["auroc"] for raw in raws]),
        "classes": {
            name: _mean_and_spread([raw["classes"][name]["iou"] for raw in raws]) for name in raws[0]["subset"]
        },
    }


def _mean_and_spread(values: list[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [mean(known), stdev(known) if len(known) > 1 else 0.0] if known else None


def table(found: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    columns = [name for name in ("val", "test") if any(name in row["evaluations"] for row in found.values())]
    classes = next((list(e["classes"]) for row in found.values() for e in row["evaluations"].values()), [])
    head = ["row", "seeds", *(f"{name} mIoU" for name in columns), "calibration error", "AUROC", *classes]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in found.values():
        for name in row["evaluations"]:
            base, _, kind = name.partition("-")
            if base != columns[-1]:
                continue  # the last split is shown in full, the others as a number
            last = row["evaluations"][name]
            title = row["title"] + (f", {kind.replace('-', ' ')}" if kind else "")
            scores = [row["evaluations"].get("-".join(filter(None, (column, kind)))) for column in columns]
            cells = [title, str(len(last["seeds"])), *(_cell(score and score["miou"]) for score in scores)]
            cells += [_cell(last["ece"], 3), _cell(last["auroc"], 3)]
            cells += [_cell(last["classes"].get(name)) for name in classes]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def chart(found: dict[str, Any], path: Path) -> None:
    """The results as a picture: a dot a seed, a stroke for their mean."""
    from matplotlib.figure import Figure

    splits = [name for name in ("val", "test") if any(name in row["evaluations"] for row in found.values())]
    figure = Figure(figsize=(4.2 + 3.2 * len(splits), 0.9 + 0.36 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
    titles = [row["title"] for row in found.values()]
    for panel, split in zip(panels, splits, strict=True):
        scores = [row["evaluations"].get(split, {"mious": []})["mious"] for row in found.values()]
        for place, row in enumerate(scores):
            panel.plot(row, [place] * len(row), "o", color="#1f6fb2", alpha=0.7, markersize=5)
            panel.plot([mean(row)] if row else [], [place] if row else [], "|", color="#d1495b", markersize=15)
        panel.set_yticks(range(len(titles)), titles)
        panel.set_title(f"mIoU on {split} (%)", fontsize=10)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    figure.savefig(path, dpi=110)


def _cell(value: list[float] | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.{digits}f}" + (f" ± {value[1]:.{digits}f}" if value[1] else "")


def _miou(path: Path) -> float:
    return json.loads(path.read_text(encoding="utf-8"))["miou"]


if __name__ == "__main__":
    main()
