"""Variants of `iccld adapt`: what a finished model gains on a new road, and what it loses on the old one.

    python benchmarks/adapt_trials.py --jobs                       # all jobs as lines of JSON, the most telling first
    python benchmarks/adapt_trials.py p1 quantile --seed 0         # one of them, which writes OUT/NAME/result.json
    python benchmarks/adapt_trials.py --table .gpu/out             # what is there of them, as a table

Two protocols, each scored over the ten classes of CamVid that the sources have:

    p1    `free`, adapted to two drives of CamVid -> a third drive, 0016E5; scored on `val`, which is that drive, and on
          the dusk drive 0001TP of `test`, which is the old road
    p2    `free`, which has seen no real road -> CamVid's training frames; scored on `test`

A variant is trained as `iccld adapt` did before it learnt answers (`BEFORE`), with its own settings on top; `own` is
what `iccld adapt` does since. Beside the adapted model (`adapted`) judged are its averages with the start
(`average-0.3`, `-0.5`, `-0.7`: share of the adapted model), and it and the even average with a quarter of the batch
norms' statistics taken from the footage (`norms`, `average-norms`). The adapted model and the even average are also
given the score without labels by which `iccld adapt` chooses. The variant `start` trains nothing: it judges the start.

`labels` writes the start's answers to the footage, means of six views or of two (`own`), as labelled sets of their
surest pixels, and the same of the mean of the start and of it with half of the norms' statistics taken from the footage
(`norms`, and `flip` with two views); some variants learn these. `best-1` and the like are the variants that gained most
with seed 0 so far, for further seeds; the first job of a rank decides which one it stands for.

Files are found below ROOT: data/{camvid,camvid-0016E5,virtual-camera,virtual-game,carla}, start/p1.safetensors.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from adapt_variants import (
    ANSWERED,
    BEFORE,
    CLASSES,
    FLIPPED,
    FULL,
    FURTHER,
    NORMS,
    PROTOCOLS,
    SAME,
    SHARES,
    VARIANTS,
    VIEWS,
    Protocol,
    Variant,
)
from norms import with_norms_of
from protocols import drive_of
from pseudo_set import answers_of
from rich.console import Console

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.config import Config, load_config
from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.pseudoset import write_pseudo_set
from iccld_cli.data.spread import evenly
from iccld_cli.files import write_json
from iccld_cli.footage.choice import JUDGED_FRAMES, Judged, choice
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.training import RATE, training_config
from iccld_cli.header import ModelHeader
from iccld_cli.inference.device import pick_device
from iccld_cli.inference.evaluate import folded_predictions
from iccld_cli.inference.labelfree import look
from iccld_cli.inference.model import Model, Sampling
from iccld_cli.inference.threads import group
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.metrics.confusion import ConfusionMatrix
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.train.data import open_data
from iccld_cli.train.run import RunOptions, adapt_seg
from iccld_cli.train.start import open_start
from iccld_cli.train.state import list_states

ROOT = Path(".gpu")
NORM_FRAMES = 48
"""Frames that statistics are taken from."""

MOVED = 0.5
"""Share of them in the norms of the copy that answers."""


@dataclass(frozen=True)
class Where:
    """Folders, and how much of everything is taken when the program itself is tried."""

    root: Path
    out: Path
    steps: int | None = None
    limit: int = 0
    device: str = "auto"

    def data(self, name: str) -> PreparedDataset:
        """A prepared set."""
        return PreparedDataset(self.root / "data" / name)

    def start(self, protocol: Protocol) -> Path:
        """The model file that a protocol starts from."""
        if protocol.start in ("free", "small", "roads"):
            return Path(__file__).parents[1] / "assets" / f"iccld-{protocol.start}.safetensors"
        return self.root / protocol.start

    def job(self, protocol: str, variant: str, seed: int) -> Path:
        """Folder of a job."""
        return self.out / job_name(protocol, variant, seed)

    def labels(self, protocol: str, of: str, keep: float) -> Path:
        """Answers to the footage, of the `start` or of its mean with itself after `norms`."""
        return self.job(protocol, "labels", 0) / f"{of}-{round(100 * keep)}"


def job_name(protocol: str, variant: str, seed: int) -> str:
    """Of a job's folder, and in `--jobs`."""
    return f"adapt-{protocol}-{variant}-{seed}"


class Judge:
    """Scores models on the frames of a protocol, which are read once.

    The counts are those of `iccld evaluate --classes ... --by drive`, without what takes it longest.
    """

    def __init__(self, protocol: Protocol, where: Where) -> None:
        self.protocol, self.where = protocol, where
        self.data = where.data(protocol.target)
        self.classes = self.data.info.label_space.ids_of(CLASSES)
        self.frames = [
            (frame, self.data.read_image(frame), self.data.read_label(frame))
            for split in protocol.splits
            for frame in evenly(self.data.frames(split), where.limit)
        ]
        self.footage = evenly(self.data.frames("train"), where.limit)

    def scores(self, model: Model, sampling: Sampling | None = None, everything: bool = True) -> dict[str, Any]:
        """mIoU in percent of each split and of each of its drives, and IoU of the classes.

        Args:
            model: The model.
            sampling: How it answers.
            everything: Of all frames; else only of the new and the old road.
        """
        wanted = [_key(place) for place in (self.protocol.gain, self.protocol.old) if place is not None]
        frames = [item for item in self.frames if everything or not keys_of(item[0]).isdisjoint(wanted)]
        fold = np.arange(256, dtype=np.uint8)
        for fine, coarse in folded_predictions(model.header.classes, self.data).items():
            fold[fine] = coarse
        sampling = model.settle(sampling or Sampling())
        matrices: dict[str, ConfusionMatrix] = {}
        size = model.batch_size(self.frames[0][1].shape[:2], sampling)
        for batch in group(iter(frames), lambda item: item[1].shape, lambda item: size):
            found = model.segment(np.stack([image for _, image, _ in batch]), (), sampling=sampling).labels
            for (frame, _, label), answer in zip(batch, found, strict=True):
                for key in keys_of(frame):
                    matrix = matrices.setdefault(key, ConfusionMatrix(len(self.data.info.label_space)))
                    matrix.update(fold[answer], label)
        told = {key: matrices[key].scores(self.classes) for key in sorted(matrices) if everything or key in wanted}
        return {
            "miou": {key: round(100 * one.miou, 3) for key, one in told.items()},
            "classes": {
                key: dict(zip(CLASSES, (100 * one.iou).round(2).tolist(), strict=True)) for key, one in told.items()
            },
        }

    def without_labels(self, model: Model) -> dict[str, float]:
        """What `iccld adapt` chooses by."""
        found = look(model, self.data, evenly(self.footage, JUDGED_FRAMES))
        return {"score": round(found.score, 5), "confidence": round(found.confidence, 5)}


def keys_of(frame: Frame) -> set[str]:
    """What a frame counts for: its split, and its drive of that."""
    return {frame.split, f"{frame.split}/{drive_of(Path(frame.image))}"}


def mean_of(start: Segmenter, adapted: Segmenter, share: float) -> Segmenter:
    """A model between two."""
    found, before = copy.deepcopy(adapted), start.state_dict()
    found.load_state_dict(
        {
            name: (1 - share) * before[name] + share * value if value.is_floating_point() else value
            for name, value in adapted.state_dict().items()
        }
    )
    return found


def with_norms(
    model: Segmenter, header: ModelHeader, data: PreparedDataset, frames: Sequence[Frame], share: float
) -> Segmenter:
    """A model whose batch norms have a share of the footage's statistics."""
    places = [(data, frame) for frame in evenly(frames, NORM_FRAMES)]
    found = with_norms_of(TorchModel(model, header), places, share)
    if found is None:
        sys.exit("the model has no batch norms, or no frame of the footage could be seen")
    return found.segmenter


def config_of(variant: Variant, base: Config, seed: int, steps: int, device: str) -> Config:
    """The configuration of a trial."""
    options = FootageOptions(footage=(), out=Path(), seed=seed, device=device)
    config = training_config(base, "stage1", steps, options)
    rate = RATE * base.optim.lr if variant.rate is None else variant.rate * FULL
    before = {key: getattr(getattr(base, key.split(".")[0]), key.split(".")[1]) for key in BEFORE}
    quiet = {"run.overlay_every": 0, "run.save_every": 0, "run.log_every": 25, "run.validate_frames": 2}
    return load_config(
        None, base=config, sizes=config.model, overrides={"optim.lr": rate, **before, **quiet, **variant.settings}
    )


def train(name: str, variant: Variant, seed: int, where: Where, out: Path) -> tuple[Path, float, dict[str, Any]]:
    """Train a variant.

    Returns:
        The model file, seconds, and what the result says of it.
    """
    protocol = PROTOCOLS[name]
    start = open_start(begin_of(name, variant, where, out))
    assert start.header is not None
    steps = variant.steps if where.steps is None else where.steps
    config = config_of(variant, start.header.config, seed, steps, where.device)
    labels = labels_of(name, variant, where, out)
    sources = [where.root / "data" / town for town in ("virtual-camera", "virtual-game")]
    sources += [where.root / "data/carla"] if variant.carla else []
    if variant.as_source:
        sources, labels = labels, []
    targets = [] if variant.source_only else [where.root / "data" / protocol.target]
    data = open_data(sources, targets, start=start.header, labelled=labels)
    console = Console(force_terminal=False, width=200)
    began = time.perf_counter()
    how = RunOptions(out / "run", bool(list_states(out / "run")), console)
    path = adapt_seg(config, data, how, variant.source_only, start)
    seconds = time.perf_counter() - began
    log = [json.loads(line) for line in (out / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {"steps": steps, "lr": config.optim.lr, "settings": dict(variant.settings), "last": log[-1]}
    return path, seconds, told


def begin_of(name: str, variant: Variant, where: Where, out: Path) -> Path:
    """The model file that a training begins with."""
    path = where.start(PROTOCOLS[name])
    if not variant.begin or (out / "begin.safetensors").exists():
        return out / "begin.safetensors" if variant.begin else path
    device, data = pick_device(where.device), where.data(PROTOCOLS[name].target)
    model, header = load_segmenter(path, device)
    frames = evenly(data.frames("train"), where.limit)
    begin = with_norms(model, header, data, frames, variant.begin)
    save_segmenter(out / "begin.safetensors", begin, header)
    return out / "begin.safetensors"


def labels_of(name: str, variant: Variant, where: Where, out: Path) -> list[Path]:
    """The sets of labels that a variant learns."""
    if not variant.labels:
        return []
    if variant.labels in ANSWERED:
        return [where.labels(name, variant.labels, variant.keep)]
    path = where.job(name, variant.labels, 0) / "average.safetensors"
    found = out / "labels"
    if not found.exists():
        model, header = load_segmenter(path, pick_device(where.device))
        data = where.data(PROTOCOLS[name].target)
        frames = evenly(data.frames("train"), where.limit)
        write_pseudo_set(data, found, answers_of([TorchModel(model, header)], data, frames, VIEWS), variant.keep)
    return [found]


def write_labels(name: str, where: Where) -> None:
    """Answers to the footage as labelled sets."""
    protocol, device = PROTOCOLS[name], pick_device(where.device)
    start, header = load_segmenter(where.start(protocol), device)
    data = where.data(protocol.target)
    frames = evenly(data.frames("train"), where.limit)
    models = [TorchModel(start, header), TorchModel(with_norms(start, header, data, frames, MOVED), header)]
    for of, keeps in ANSWERED.items():
        missing = [keep for keep in keeps if not where.labels(name, of, keep).exists()]
        asked = models[:1] if of in ("start", "own") else models
        sampling = FLIPPED if of in ("flip", "own") else VIEWS
        answers = list(answers_of(asked, data, frames, sampling)) if missing else []
        for keep in missing:
            write_pseudo_set(data, where.labels(name, of, keep), answers, keep)


def run(name: str, chosen: str, seed: int, where: Where) -> None:
    """One job."""
    began = time.perf_counter()
    out = where.job(name, chosen, seed)
    out.mkdir(parents=True, exist_ok=True)
    variant_name = claim(chosen, where) if chosen.startswith("best-") else chosen
    variant, device = VARIANTS[variant_name], pick_device(where.device)
    result: dict[str, Any] = {
        "protocol": name, "variant": variant_name, "title": variant.title, "seed": seed, "device": str(device),
    }  # fmt: skip
    if variant_name == "labels":
        write_labels(name, where)
        write_json(out / "result.json", {**result, "seconds": round(time.perf_counter() - began, 1)})
        return
    protocol = PROTOCOLS[name]
    start, header = load_segmenter(where.start(protocol), device)
    candidates: dict[str, Segmenter] = {}
    if variant_name == "start":
        candidates["start"] = start
    else:
        path, result["seconds_training"], told = train(name, variant, seed, where, out)
        result |= told
        adapted, header = load_segmenter(path, device)
        candidates["adapted"] = adapted
        for share in SHARES:
            candidates[f"average-{share}"] = mean_of(start, adapted, share)
        save_segmenter(out / "average.safetensors", candidates["average-0.5"], header)
    judge = Judge(protocol, where)
    for of, to in (("start", "norms"), ("adapted", "norms"), ("average-0.5", "average-norms")):
        if of in candidates:
            candidates[to] = with_norms(candidates[of], header, judge.data, judge.footage, NORMS)
    result["judged"] = judged_of(candidates, header, judge)
    if variant_name == "start":
        result["judged"]["views"] = judge.scores(TorchModel(start, header), VIEWS)
    result["seconds"] = round(time.perf_counter() - began, 1)
    write_json(out / "result.json", result)


def judged_of(candidates: Mapping[str, Segmenter], header: ModelHeader, judge: Judge) -> dict[str, Any]:
    """Scores of every candidate, and of those that `iccld adapt` has the score without labels."""
    found: dict[str, Any] = {}
    for key, one in candidates.items():
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = TorchModel(one, header)
        whole = key in ("start", "adapted", "average-0.5")
        found[key] = judge.scores(model, everything=whole)
        if whole:
            found[key] |= judge.without_labels(model)
    return found


def claim(rank: str, where: Where) -> str:
    """The variant that stands for a rank: decided by the first job that asks, and the same for all that follow.

    Args:
        rank: `best-1` and the like.
        where: Its results of seed 0 rank the variants; those that another rank stands for are passed over.
    """
    mark = where.out / f"{rank}.txt"
    if not mark.exists():
        table = Table(where.out)
        for variant in sorted(table.common(), key=table.worth, reverse=True):
            taken = where.out / f"{variant}.taken"
            try:
                taken.touch(exist_ok=False)
            except FileExistsError:
                continue
            named = where.out / f".{rank}.{os.getpid()}"
            named.write_text(variant, encoding="utf-8")
            try:
                os.link(named, mark)
            except FileExistsError:  # another job of this rank was faster
                taken.unlink()
            named.unlink()
            break
        else:
            sys.exit(f"no variant is left for {rank}")
    return mark.read_text(encoding="utf-8")


class Table:
    """The results of a folder.

    Attributes:
        found: (protocol, variant, seed) -> `result.json`.
    """

    def __init__(self, folder: Path) -> None:
        """Read them."""
        self.found: dict[tuple[str, str, int], dict[str, Any]] = {}
        for path in sorted(folder.glob("adapt-*/result.json")):
            one = json.loads(path.read_text(encoding="utf-8"))
            if "judged" in one:
                self.found[one["protocol"], one["variant"], one["seed"]] = one
        for (name, variant), other in SAME.items():
            for (protocol, of, seed), one in list(self.found.items()):
                if (protocol, of) == (name, other):
                    self.found.setdefault((name, variant, seed), one)

    def gain(self, name: str, variant: str, seed: int, candidate: str) -> float:
        """mIoU on the new road above the start's."""
        return self._of(name, variant, seed, candidate, PROTOCOLS[name].gain) - self._start(name, PROTOCOLS[name].gain)

    def old(self, name: str, variant: str, seed: int, candidate: str) -> float | None:
        """The same on the old road; None where there is none."""
        place = PROTOCOLS[name].old
        return None if place is None else self._of(name, variant, seed, candidate, place) - self._start(name, place)

    def kept(self, name: str, variant: str, seed: int) -> str:
        """What the rule of `iccld adapt` keeps without labels."""
        judged, start = self.found[name, variant, seed]["judged"], self.found[name, "start", 0]["judged"]["start"]
        rows = {"start": start, "adapted": judged["adapted"], "average": judged["average-0.5"]}
        return choice({key: Judged(row["score"], row["confidence"]) for key, row in rows.items()})

    def common(self) -> list[str]:
        """Variants that were trained with seed 0 in every protocol."""
        names = dict.fromkeys(variant for _, variant, _ in self.found)
        starts = all((name, "start", 0) in self.found for name in PROTOCOLS)
        return [v for v in names if starts and v != "start" and all((name, v, 0) in self.found for name in PROTOCOLS)]

    def worth(self, variant: str) -> float:
        """How good a variant is with seed 0: the smaller gain of the two protocols with one way of averaging, less what
        more than 0.5 is lost of the old road."""
        return max(self._worth(variant, candidate) for candidate in candidate_names())

    def _worth(self, variant: str, candidate: str) -> float:
        gains = [self.gain(name, variant, 0, candidate) for name in PROTOCOLS]
        losses = [self.old(name, variant, 0, candidate) for name in PROTOCOLS]
        return min(gains) - sum(max(-0.5 - lost, 0.0) for lost in losses if lost is not None)

    def lines(self) -> list[str]:
        """The table, in Markdown."""
        found = []
        for name in PROTOCOLS:
            if (name, "start", 0) not in self.found:
                found.append(f"{name}: the start was not judged\n")
                continue
            judged = self.found[name, "start", 0]["judged"]
            told = ", ".join(f"{key} {value:.1f}" for key, value in judged["start"]["miou"].items())
            more = {key: judged[key]["miou"][_key(PROTOCOLS[name].gain)] for key in ("norms", "views")}
            found.append(
                f"{name}, start: {told}; score without labels {judged['start']['score']:.4f}; on the new road with "
                f"norms of the footage {more['norms']:.1f}, mean of six views {more['views']:.1f}\n"
            )
            found.append(
                "| variant | model | seeds | gain, mean | each seed | old road | score without labels | kept |"
            )
            found.append("|---|---|---|---|---|---|---|---|")
            variants = dict.fromkeys(v for p, v, _ in self.found if p == name and v != "start")
            rows = [self._row(name, variant, c) for variant in variants for c in candidate_names()]
            found += [text for _, text in sorted(rows, key=lambda row: -row[0])] + [""]
        return found

    def _row(self, name: str, variant: str, candidate: str) -> tuple[float, str]:
        seeds = sorted(seed for p, v, seed in self.found if (p, v) == (name, variant))
        gains = [self.gain(name, variant, seed, candidate) for seed in seeds]
        olds = [old for seed in seeds if (old := self.old(name, variant, seed, candidate)) is not None]
        start = self.found[name, "start", 0]["judged"]["start"]["score"]
        scores = [self.found[name, variant, seed]["judged"][candidate].get("score") for seed in seeds]
        cells = (
            f"{variant}: {VARIANTS[variant].title}", candidate, ", ".join(map(str, seeds)), f"{fmean(gains):+.2f}",
            ", ".join(f"{gain:+.1f}" for gain in gains), ", ".join(f"{old:+.1f}" for old in olds),
            ", ".join(f"{score - start:+.4f}" for score in scores if score is not None),
            ", ".join(self.kept(name, variant, seed) for seed in seeds),
        )  # fmt: skip
        return fmean(gains), f"| {' | '.join(cells)} |"

    def _start(self, name: str, place: tuple[str, str | None]) -> float:
        return float(self.found[name, "start", 0]["judged"]["start"]["miou"][_key(place)])

    def _of(self, name: str, variant: str, seed: int, candidate: str, place: tuple[str, str | None]) -> float:
        return float(self.found[name, variant, seed]["judged"][candidate]["miou"][_key(place)])


def candidate_names() -> list[str]:
    """What is judged of a training."""
    return ["adapted", *(f"average-{share}" for share in SHARES), "norms", "average-norms"]


def _key(place: tuple[str, str | None]) -> str:
    split, drive = place
    return split if drive is None else f"{split}/{drive}"


def jobs() -> list[dict[str, Any]]:
    """All jobs: seed 0 of every variant, the most telling first, then further seeds of what gained most."""
    found = []

    def add(name: str, variant: str, seed: int, needs: Sequence[str] = ()) -> None:
        row = {"name": job_name(name, variant, seed), "needs": list(needs)}
        found.append({**row, "argv": ["benchmarks/adapt_trials.py", name, variant, "--seed", str(seed)]})

    for variant, one in VARIANTS.items():
        for name in PROTOCOLS:
            if (name, variant) in SAME:
                continue
            of = "labels" if one.labels in ANSWERED else one.labels
            add(name, variant, 0, [job_name(name, of, 0)] if of else [])
        for rank in FURTHER.get(variant, ()):
            for seed, name in ((1, "p1"), (1, "p2"), (2, "p1"), (2, "p2")):
                add(name, f"best-{rank}", seed)
    return found


def main() -> None:
    """Run one job, list them, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", nargs="?", choices=PROTOCOLS)
    parser.add_argument("variant", nargs="?", help="a variant, or best-1 to best-9")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, help="default: ROOT/out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, help="for trying the script: other steps than the variant's")
    parser.add_argument("--limit", type=int, default=0, help="for trying the script: frames of each split")
    parser.add_argument("--jobs", action="store_true", help="print all jobs, a line of JSON each")
    parser.add_argument("--table", type=Path, metavar="DIR", help="print the table of the results in a folder")
    options = parser.parse_args()
    if options.jobs:
        print("\n".join(json.dumps(job) for job in jobs()))
    elif options.table:
        print("\n".join(Table(options.table).lines()))
    elif options.protocol is None or options.variant is None:
        parser.error("name a protocol and a variant, or give --jobs or --table")
    elif options.variant not in VARIANTS and not options.variant.startswith("best-"):
        parser.error(f"there is no variant {options.variant}; there are {', '.join(VARIANTS)}")
    else:
        out = options.out or options.root / "out"
        where = Where(options.root, out, options.steps, options.limit, options.device)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        run(options.protocol, options.variant, options.seed, where)


if __name__ == "__main__":
    main()
