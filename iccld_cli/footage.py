"""Own footage in, own model out: what `iccld adapt` does.

    footage -> frames worth training on -> stage 1 from a finished model, with the virtual town as source
    -> start, adapted, and their average; one of them is kept -> model.safetensors, page, predictions

No label of the footage is read, and nothing is downloaded. Every part leaves its result in the folder and is skipped
when that is whole, so a stopped run goes on.

    OUT/model.safetensors    the model that was chosen       OUT/index.html      before and after
    OUT/summary.json         what was done                   OUT/predictions/    with `predict`
    OUT/data/                frames that were trained on     OUT/runs/adapted/   the training
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from rich.console import Console

from iccld_cli.config import Config, load_config
from iccld_cli.data.prepared import IGNORED_NAME, INFO_NAME, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_json
from iccld_cli.header import FILE_NAMES, ModelHeader, read_header
from iccld_cli.names import shown
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.reading import ReadError, read_json

if TYPE_CHECKING:
    from iccld_cli.inference.model import Model
    from iccld_cli.prepare.adapters.base import RawFrame
    from iccld_cli.prepare.prepare import Source
    from iccld_cli.prepare.tree import Tree

MODEL_NAME, PAGE_NAME, SUMMARY_NAME = "model.safetensors", "index.html", "summary.json"
_MARKER = "adapt.json"
_LOOKED_AT = "looked-at"

MOST_FRAMES = 400
"""Frames that are trained on at most; more of one camera tell little that is new."""

VIDEO_FPS = 2.0
"""Frames that are looked at in a second of video."""

TOWN_FRAMES, TOWN_SIZE, TOWN_SEED = 200, (512, 384), 5
"""The virtual town that stands for labelled roads: frames a look, size, seed."""

TOWN_KINDS = (("urban", 0.6), ("motorway", 0.2), ("country", 0.2))

DARK = 14.0
"""Mean brightness, of 255, below which a frame shows nothing to learn from."""

FLAT = 7.0
"""Standard deviation of the brightness below which a frame is fog, a covered lens or a blank picture."""

STILL = 2.5
"""Mean difference of small grey pictures, of 255, up to which a frame is the one before: the car stands."""

RATE = 0.3
"""Factor on the learning rates that the start was trained with."""

QUANTILE = 0.7
"""Share of a class's pixels that are not sure enough to be learnt from."""

HALF = 0.5
"""Weight of the adapted model in the average."""

TOLERATED = 0.005
"""How much less a model may agree with itself than the start before the start is kept."""

JUDGED_FRAMES = 60
SHOWN_FRAMES = 12
_PROBE_STEPS = 8
_IN_TRAINING = 0.9  # of the minutes: the rest is start and saving
_FEWEST, _MOST = 20, 20_000
_THUMB = (64, 36)
_WANTED: tuple[Literal["confidence"]] = ("confidence",)


@dataclass(frozen=True)
class FootageOptions:
    """What to adapt to, and how long.

    Attributes:
        footage: Videos, folders of images or prepared data sets.
        out: The folder for everything.
        ckpt: Model file to start from; None for the shipped one.
        minutes: Minutes of training, where `iterations` is None.
        iterations: Steps of training; the same number gives the same model.
        val: Prepared data set with labels in a split `val`, by which the model is chosen; None without labels.
        predict: Whether the footage is segmented at the end.
        seed: Of training.
        device: As in `run.device`.
        ignore: A picture of what is not the scene (`data.fixed`), or `auto` to find it in each input; None for nothing.
    """

    footage: Sequence[Path]
    out: Path
    ckpt: Path | None = None
    minutes: float = 20.0
    iterations: int | None = None
    val: Path | None = None
    predict: bool = False
    seed: int = 0
    device: str = "auto"
    ignore: Path | str | None = None


@dataclass(frozen=True)
class Judged:
    """How a candidate did.

    Attributes:
        agreement: Share of the pixels to which the mirrored frame and a smaller one give the same label, in [0, 1].
        confidence: Mean confidence, in [0, 1].
        miou: On the labels of `val`, in percent; None without.
    """

    agreement: float
    confidence: float
    miou: float | None = None


def adapt_footage(options: FootageOptions, console: Console) -> dict[str, Any]:
    """Adapt a model to footage, or what is left of it.

    Args:
        options: What and how long.
        console: Where messages go.

    Returns:
        What `summary.json` holds: `seconds`, `frames`, `start` (name and sha256), `iterations`, `chosen` (`start`,
        `adapted` or `average`), and for each candidate what it was judged by.

    Raises:
        IccldError: Something is wrong with the footage or the model, or the folder holds something else.
        KeyboardInterrupt: Interrupted; what was finished is kept.
    """
    from iccld_cli.inference.model import find_model

    start = find_model(options.ckpt)
    if start.suffix != ".safetensors":
        raise IccldError(f"{start} is an exported file, which cannot be trained", "give the .safetensors file")
    header = read_header(start)
    folder = _Folder(options, header)
    if options.val is not None:
        _check_val(options.val, header)
    began = time.perf_counter()
    try:
        console.rule("Footage")
        with folder.given_back_on_error():
            targets = _targets(options, folder, console)
        folder.note(began)
        console.rule("Virtual town")
        sources = _town(options, console)
        folder.note(began)
        console.rule("Training")
        iterations = _iterations(options, folder, start, sources, targets, console)
        adapted = _train(options, start, sources, targets, iterations, options.out / "runs/adapted", console)
        folder.note(began)
        console.rule("Choice")
        candidates = {"start": start, "adapted": adapted, "average": _average(start, adapted, options.out)}
        judged, chosen = _choose(candidates, targets, options, console)
        with atomic_path(options.out / MODEL_NAME) as temporary:
            shutil.copyfile(candidates[chosen], temporary)
        predictions = _predict(options, console) if options.predict else None
    finally:
        seconds = folder.note(began) if options.out.exists() else 0.0
    frames = sum(len(target.frames("train")) for target in targets)
    summary = {
        "seconds": round(seconds, 1),
        "frames": frames,
        "start": f"{start.name} {header.sha256}",
        "iterations": iterations,
        "chosen": chosen,
        "judged": {name: _numbers(found) for name, found in judged.items()},
    }
    _page(options, candidates, chosen, judged, targets, summary, predictions)
    write_json(options.out / SUMMARY_NAME, summary)
    return summary


class _Folder:
    """The folder of a run: what it was asked for, and how long it took so far."""

    def __init__(self, options: FootageOptions, header: ModelHeader) -> None:
        self.path = options.out / _MARKER
        self.fresh = not self.path.exists()
        asked = {
            "footage": [str(Path(p).absolute()) for p in options.footage],
            "start": header.sha256,
            "minutes": None if options.iterations else options.minutes,
            "iterations": options.iterations,
            "val": None if options.val is None else str(options.val.absolute()),
            "seed": options.seed,
            "ignore_mask": None if options.ignore is None else str(options.ignore),
        }
        if os.path.lexists(self.path):
            self.tree = self._read()
            differs = [key for key, value in asked.items() if self.tree["options"].get(key) != value]
            if differs:
                raise IccldError(
                    f"{options.out} was begun with other options ({', '.join(differs)})",
                    "give the same ones, or choose another --out",
                )
            return
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise IccldError(f"{options.out} exists and holds something else", "choose another --out")
        self.tree = {"options": asked, "seconds": 0.0}
        write_json(self.path, self.tree)

    def _read(self) -> dict[str, Any]:
        """What an earlier run recorded."""
        try:
            tree = read_json(self.path)
        except ReadError as error:
            raise IccldError(f"{self.path} {error.message}", "choose another --out") from None
        numbers = {"seconds": (int, float), "iterations": (int, type(None))}
        whole = isinstance(tree, dict) and isinstance(tree.get("options"), dict) and "seconds" in tree
        whole = whole and all(isinstance(tree.get(name), kinds) for name, kinds in numbers.items())
        targets = tree.get("targets", []) if whole else None
        if not isinstance(targets, list) or not all(isinstance(root, str) for root in targets):
            raise IccldError(f"{self.path} is damaged", "choose another --out")
        return dict(tree)

    @contextlib.contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """Leave nothing behind where footage that cannot be used was named in a folder that was not there before."""
        try:
            yield
        except IccldError:
            if self.fresh:
                shutil.rmtree(self.path.parent, ignore_errors=True)
            raise

    def note(self, began: float) -> float:
        """Record the seconds of this run so far on top of earlier ones; returns the sum."""
        seconds = float(self.tree["seconds"]) + time.perf_counter() - began
        write_json(self.path, {**self.tree, "seconds": seconds})
        return seconds

    def record(self, key: str, value: Any) -> None:
        """Keep a fact for the next time."""
        self.tree[key] = value
        write_json(self.path, self.tree)


def _check_val(val: Path, header: ModelHeader) -> None:
    dataset = PreparedDataset(val)
    if not any(frame.label for frame in dataset.iter_frames("val")):
        raise IccldError(f"{val} has no labels in a split `val`", "give another set, or none")
    if dataset.info.label_space.names != header.label_space.names:
        raise IccldError(f"{val} has other classes than the model", "prepare it in the model's label space")


# --- footage ---------------------------------------------------------------------------------------------------------


def _targets(options: FootageOptions, folder: _Folder, console: Console) -> list[PreparedDataset]:
    """The frames to train on, chosen once."""
    if "targets" not in folder.tree:
        found = _footage(options, console)
        folder.record("targets", [str(target.root.absolute()) for target in found])
    shutil.rmtree(options.out / _LOOKED_AT, ignore_errors=True)  # as large as all of the footage
    return [PreparedDataset(Path(root)) for root in folder.tree["targets"]]


def _footage(options: FootageOptions, console: Console) -> list[PreparedDataset]:
    """The frames to train on, as prepared data sets."""
    found, names = [], Counter[str]()
    if not options.footage:
        raise IccldError("no footage", "name videos, folders of images or prepared data sets")
    for path in options.footage:
        if (path / INFO_NAME).is_file():
            if options.ignore is not None:
                raise IccldError(f"{path} is prepared, and has its own region to ignore or none", "prepare it with it")
            dataset = PreparedDataset(path)
            if not dataset.frames("train"):
                raise IccldError(f"{path} has no frames in its split `train`")
            console.print(shown(f"{path}: {len(dataset.frames('train'))} frames"), soft_wrap=True)
            found.append(dataset)
            continue
        name, source = _opened(path, options.out)
        names[name] += 1
        name = name if names[name] == 1 else f"{name}-{names[name]}"
        looked_at = _prepared(source, options.out / _LOOKED_AT, name, console, options.ignore)
        kept, left_out = choose_frames(looked_at, MOST_FRAMES)
        if not kept:
            raise IccldError(
                f"no frame of {path} can be learnt from ({_told(left_out)})", "give footage of a road by day or dusk"
            )
        region = looked_at.root / IGNORED_NAME
        kept_region = region if region.is_file() else None
        dataset = _prepared(_Chosen(looked_at, kept), options.out / "data", name, console, kept_region)
        console.print(shown(f"{path}: {len(kept)} frames, left out: {_told(left_out)}"), soft_wrap=True)
        found.append(dataset)
    if sum(len(dataset.frames("train")) for dataset in found) == 1:
        console.print("warning: a single frame is little to adapt to", style="yellow")
    return found


def _opened(path: Path, out: Path) -> tuple[str, Source]:
    from iccld_cli.prepare.adapters.video import Video
    from iccld_cli.prepare.own import own_images

    if path.is_file() and path.suffix.lower() not in (".zip", ".tar", ".gz", ".tgz"):
        name, source = path.stem, Video(path, VIDEO_FPS)
        return _plain(name), source
    if not path.exists():
        raise IccldError(f"no footage at {path}", "give videos, folders of images or prepared data sets")
    name, images = own_images(str(path), None, None, out)
    return _plain(name), images


def _plain(name: str) -> str:
    """A folder's name of what may hold anything."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip(".-")
    return text[:80] or "footage"


def _prepared(
    source: Source, out: Path, name: str, console: Console, ignore: Path | str | None = None
) -> PreparedDataset:
    from rich.progress import Progress

    from iccld_cli.prepare.prepare import PrepareOptions, prepare

    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(shown(name), total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return prepare(source, out, name, PrepareOptions(skip_bad=True, ignore=ignore), show)[0]


class _Chosen(Images):
    """Some frames of a prepared data set, as a source of another."""

    def __init__(self, dataset: PreparedDataset, kept: Sequence[int]) -> None:
        from iccld_cli.prepare.tree import FolderTree

        tree: Tree = FolderTree(dataset.root)
        super().__init__(tree, "images/train")
        frames = dataset.frames("train")
        self.kept = [frames[i].image for i in kept]

    def scan(self) -> Iterator[RawFrame]:
        """List the frames that were chosen."""
        from iccld_cli.prepare.adapters.base import RawFrame

        for image in self.kept:
            yield RawFrame("train", image.removeprefix("images/train/").rpartition(".")[0], image, None)


def choose_frames(dataset: PreparedDataset, most: int) -> tuple[list[int], Counter[str]]:
    """Choose frames for variety.

    Dark and blank frames are left out, and those that show what the frame before showed. Of the others at most `most`
    are taken, each the one least like those taken before (Gonzalez 1985), by small grey pictures.

    Args:
        dataset: Prepared, its split `train` in the order of time.
        most: Largest number to take.

    Returns:
        Positions in `train`, ascending, and how many frames were left out for which reason; with the frames that could
        not be read as `broken`.
    """
    left_out = Counter({"broken": len(dataset.info.skipped)} if dataset.info.skipped else {})
    places, thumbs = [], []
    last: np.ndarray | None = None
    for place, frame in enumerate(dataset.frames("train")):
        grey = cv2.cvtColor(dataset.read_image(frame), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        if small.mean() < DARK:
            left_out["dark"] += 1
        elif grey.std() < FLAT:
            left_out["blank"] += 1
        elif last is not None and float(np.abs(small - last).mean()) <= STILL:
            left_out["as the one before"] += 1
        else:
            places.append(place)
            thumbs.append(small.ravel())
            last = small
    if len(places) <= most:
        return places, left_out
    left_out["like others"] = len(places) - most
    pictures = np.stack(thumbs)
    nearest = np.full(len(pictures), np.inf, np.float32)
    taken = [0]
    while len(taken) < most:
        nearest = np.minimum(nearest, np.abs(pictures - pictures[taken[-1]]).mean(axis=1))
        taken.append(int(nearest.argmax()))
    return sorted(places[i] for i in taken), left_out


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"


# --- training --------------------------------------------------------------------------------------------------------


def _town(options: FootageOptions, console: Console) -> list[PreparedDataset]:
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
        found.append(_prepared(town, place, f"virtual-{look}", console))
        console.print(f"virtual-{look}: {len(found[-1].frames('train'))} labelled frames")
    return found


def training_config(base: Config, iterations: int, options: FootageOptions) -> Config:
    """How stage 1 goes on from a finished model, on few frames of a road that is not far from what it knows.

    Rates are a third of the start's and gates are stricter: with these, self-training from a finished model gained on
    the new road and lost nothing on the old one, where the start's own settings gained less (benchmarks/RESULTS.md).
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


def _iterations(
    options: FootageOptions,
    folder: _Folder,
    start: Path,
    sources: Sequence[PreparedDataset],
    targets: Sequence[PreparedDataset],
    console: Console,
) -> int:
    """Steps of training: given, measured before, or as many as the minutes allow."""
    if options.iterations is not None:
        return options.iterations
    if "iterations" in folder.tree:
        return int(folder.tree["iterations"])
    probe = options.out / "runs/probe"
    shutil.rmtree(probe, ignore_errors=True)
    _train(options, start, sources, targets, _PROBE_STEPS, probe, Console(quiet=True), log_every=1)
    rows = [json.loads(line) for line in (probe / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = statistics.median(row["step_seconds"] for row in rows[len(rows) // 2 :])
    shutil.rmtree(probe)
    found = int(60 * options.minutes * _IN_TRAINING / seconds)
    iterations = min(max(found, _FEWEST), _MOST)
    folder.record("iterations", iterations)
    console.print(f"a step takes {seconds:.2f} s: {iterations} steps in {options.minutes:g} minutes")
    return iterations


def _train(
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
    data = open_data([s.root for s in sources], [t.root for t in targets], start=opened.header)
    started = any(state.stage == "stage1" for state in list_states(run))
    return adapt_seg(config, data, RunOptions(run, resume=started, console=console), start=opened)


def _average(start: Path, adapted: Path, out: Path) -> Path:
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


# --- choice ----------------------------------------------------------------------------------------------------------


def _choose(
    candidates: dict[str, Path], targets: Sequence[PreparedDataset], options: FootageOptions, console: Console
) -> tuple[dict[str, Judged], str]:
    from iccld_cli.inference.model import load_model

    frames = _some_frames(targets, JUDGED_FRAMES)
    judged = {}
    for name, path in candidates.items():
        model = load_model(path, options.device)
        judged[name] = judge(model, frames, _miou(model, options.val))
        console.print(f"{name}: {_described(judged[name])}")
    chosen = choice(judged)
    console.print(f"chosen: {chosen}, {_REASON[_by_labels(judged), chosen]}")
    return judged, chosen


def judge(model: Model, frames: Callable[[], Iterator[np.ndarray]], miou: float | None = None) -> Judged:
    """How confident a model is in its own predictions, without labels.

    Args:
        model: The model.
        frames: Gives uint8 (H, W, 3) frames.
        miou: Its score on labels, if any.
    """
    plain, mirrored = model.settle(_sampling()), []
    smaller = model.settle(_sampling(scales=(0.75,)))
    confidence, want = [], _WANTED
    for frame in frames():
        found = model.segment(frame[None], want, sampling=plain)
        flipped = model.segment(np.ascontiguousarray(frame[None, :, ::-1]), sampling=plain).labels[..., ::-1]
        coarse = model.segment(frame[None], sampling=smaller).labels
        assert found.confidence is not None
        confidence.append(float(found.confidence.mean()))
        mirrored.append(float(((found.labels == flipped) & (found.labels == coarse)).mean()))
    return Judged(float(np.mean(mirrored)), float(np.mean(confidence)), miou)


def choice(judged: dict[str, Judged]) -> str:
    """Which candidate is kept.

    With labels, the one with the best score, the start where nothing is above it. Without, the average of start and
    adapted model, which lost nothing on the old road in any trial, unless it agrees with itself less than the
    start does: then nothing was learnt, and the start is kept.
    """
    if _by_labels(judged):
        return max(judged, key=lambda name: (judged[name].miou or 0.0, name == "start"))
    return "average" if judged["average"].agreement >= judged["start"].agreement - TOLERATED else "start"


_REASON = {
    (True, "start"): "no other scores better on the labels of --val",
    (True, "adapted"): "it scores best on the labels of --val",
    (True, "average"): "it scores best on the labels of --val",
    (False, "average"): "it is as stable as the start, and knows the new road",
    (False, "start"): "the others contradict themselves more often than it does",
}


def _by_labels(judged: dict[str, Judged]) -> bool:
    return all(found.miou is not None for found in judged.values())


def _sampling(**given: Any) -> Any:
    from iccld_cli.inference.model import Sampling

    return Sampling(**given)


def _miou(model: Model, val: Path | None) -> float | None:
    if val is None:
        return None
    from iccld_cli.inference.evaluate import Scope, evaluate

    return float(evaluate(model, PreparedDataset(val), Scope("val")).miou)


def _some_frames(targets: Sequence[PreparedDataset], most: int) -> Callable[[], Iterator[np.ndarray]]:
    """Frames spread evenly over all targets."""
    pairs = [(target, frame) for target in targets for frame in target.frames("train")]
    chosen = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))]
    return lambda: (target.read_image(frame) for target, frame in chosen)


def _numbers(found: Judged) -> dict[str, float | None]:
    return {
        "agreement": round(found.agreement, 5),
        "confidence": round(found.confidence, 5),
        "miou": None if found.miou is None else round(found.miou, 3),
    }


def _described(found: Judged) -> str:
    text = f"{100 * found.agreement:.1f} % stable, confidence {100 * found.confidence:.1f} %"
    return text if found.miou is None else f"{text}, {found.miou:.1f} mIoU"


# --- page and predictions --------------------------------------------------------------------------------------------


def _predict(options: FootageOptions, console: Console) -> Path:
    """Segment all of the footage with the chosen model."""
    from iccld_cli.inference.inputs import collect
    from iccld_cli.inference.model import load_model
    from iccld_cli.inference.predict import PredictOptions, predict

    out = options.out / "predictions"
    given = [str(p / "images" if (p / INFO_NAME).is_file() else p) for p in options.footage]
    model = load_model(options.out / MODEL_NAME, options.device, backend="auto")
    predict(model, collect(given, out), PredictOptions(out, overwrite=True, ignore=options.ignore))
    console.print(shown(f"wrote the segmented footage to {out}"), soft_wrap=True)
    return out


def _page(
    options: FootageOptions,
    candidates: dict[str, Path],
    chosen: str,
    judged: dict[str, Judged],
    targets: Sequence[PreparedDataset],
    summary: dict[str, Any],
    predictions: Path | None,
) -> None:
    from iccld_cli.inference.model import load_model
    from iccld_cli.report import page
    from iccld_cli.report.overlay import colorize, draw_overlay

    before, after = (load_model(candidates[name], options.device) for name in ("start", chosen))
    space, rows, names = before.header.label_space, [], list(candidates)
    for image in _some_frames(targets, JUDGED_FRAMES)():
        pair = [model.segment(image[None]).labels[0] for model in (before, after)]
        rows.append((float((pair[0] != pair[1]).mean()), image, *pair))
    changed = float(np.mean([row[0] for row in rows]))
    rows.sort(key=lambda row: -row[0])
    pictures = []
    for share, image, one, other in rows[:SHOWN_FRAMES]:
        differs = np.where((one != other)[..., None], colorize(other, space), (image // 3).astype(np.uint8))
        shown_frames = [draw_overlay(image, labels, space) for labels in (one, other)]
        titles = ["before", "after", f"where they differ ({100 * share:.1f} %)"]
        pictures.append(page.Pictures([*shown_frames, differs], titles=titles, width=480))
    table = [[n, *(_cells(judged[n])), "chosen" if n == chosen else ""] for n in names]
    heads = ["model", "stable, %", "confidence, %", "mIoU", ""]
    by = _by_labels(judged)
    sections = [
        page.Section(
            "Result",
            [
                page.Text(
                    f"Kept: {chosen}, because {_REASON[by, chosen]}. It gives another label than the start in "
                    f"{100 * changed:.1f} % of the pixels of the footage."
                    + ("" if by else " Without labels nobody can say for certain that this is better: look below.")
                ),
                page.Table(heads, table),
                page.Text(
                    "Stable: the mirrored frame and one of three quarters of the size give the same label. "
                    + ("" if by else "A few labelled frames of this road (--val) would decide better than that.")
                ),
            ],
        ),
        page.Section("Where start and result differ most", pictures),
        page.Section(
            "Training", [page.Pictures([options.out / "runs/adapted/curves.png"], caption="", width=1100, plot=True)]
        ),
    ]
    if predictions is not None:
        clips = [page.Clip(p.relative_to(options.out).as_posix(), p.stem) for p in sorted(predictions.rglob("*.mp4"))]
        if clips:
            sections.insert(1, page.Section("The footage, segmented", list(clips[:4])))
    subtitle = f"{summary['frames']} frames, {summary['iterations']} steps, {summary['seconds']:.0f} s in all"
    page.write_page(options.out / PAGE_NAME, "Adapted to your footage", sections, subtitle)


def _cells(found: Judged) -> list[str]:
    miou = "-" if found.miou is None else f"{found.miou:.1f}"
    return [f"{100 * found.agreement:.1f}", f"{100 * found.confidence:.1f}", miou]
