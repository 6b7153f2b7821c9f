"""`curves.png`: what a run's log says, in one picture."""

from __future__ import annotations

import gc
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path

NOT_CURVES = frozenset(
    {"step", "steps", "iteration", "iterations", "epoch", "seed", "time", "eta", "elapsed", "seconds"}
    | {"version", "images", "frames", "pixels"}
)
GROUPS = (
    ("Validation mIoU (%)", r"miou"),
    ("Gradient norm", r"grad_norm"),
    ("Discriminator accuracy", r"disc\w*_acc|acc_(source|mixed|target)"),
    ("IoU of classes (%)", r"\biou\b"),
    ("Learning rate", r"(^|[._])lr($|[._])|learning_rate"),
    ("Losses", r"loss"),
    ("Pseudo-labels", r"pseudo|confiden|mixed_weight|kept"),
)
"""Title of a panel and what its keys look like; the first match counts. Others get a panel each."""

MAX_OTHER = 6
COLORS = ("#1f6fb2", "#d1495b", "#2e8b57", "#e09f3e", "#7b5ea7", "#4c4c4c", "#17a2b8", "#8c564b")


RENAMED = {"pseudo_believed": "pseudo_label_weight"}
"""Keys that older logs hold under another name."""


PANEL = (6.4, 3.3)
"""Width and height of a panel, inches."""
MARGINS = (0.75, 0.2, 0.5, 0.42)
"""What a panel leaves free at its left, right, bottom and top, inches."""


def read_log(path: Path) -> tuple[dict[str, list[tuple[float, float]]], list[tuple[float, str]]]:
    """The curves in a `log.jsonl`.

    Lines that are not whole (a run was killed while writing) are passed over. Where a step occurs twice, as
    after a resume, the later line counts. A log of several stages becomes one curve: a stage's steps follow on
    the last one of the stage before it.

    Args:
        path: The log: one JSON object a line with at least `step`; nested objects get dotted names.

    Returns:
        Key to (step, value) pairs in the order of the steps; numeric keys only, NaN for values not finite. And
        (step, name) of where each stage begins; empty for a log without stages.

    Raises:
        IccldError: There is no such file.
    """
    if not path.is_file():
        raise IccldError(f"no log at {path}", "give the folder of a run")
    curves: dict[tuple[str, str], dict[float, float]] = {}
    last: dict[str, float] = {}  # stage -> its last step, in the order of the stages
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                step, stage = float(entry["step"]), str(entry.get("stage", ""))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                continue
            last[stage] = max(step, last.get(stage, 0.0))
            for key, value in _numbers(entry):
                key = RENAMED.get(key, key)
                if key.rpartition(".")[2] not in NOT_CURVES:
                    curves.setdefault((key, stage), {})[step] = value
    starts = dict(zip(last, itertools.accumulate([0.0, *last.values()]), strict=False))
    joined: dict[str, list[tuple[float, float]]] = {}
    for (key, stage), points in sorted(curves.items(), key=lambda item: starts[item[0][1]]):
        joined.setdefault(key, []).extend((starts[stage] + step, v) for step, v in sorted(points.items()))
    return joined, [(start, stage) for stage, start in starts.items() if stage]


def group_curves(keys: list[str]) -> list[tuple[str, list[str]]]:
    """Sort keys into panels.

    Args:
        keys: Names of curves.

    Returns:
        (title, keys) of every panel that has a key: losses first, then validation, then the rest.
    """
    groups: dict[str, list[str]] = {title: [] for title, _ in GROUPS}
    other: list[str] = []
    for key in keys:
        title = next((t for t, pattern in GROUPS if re.search(pattern, key)), None)
        (other if title is None else groups[title]).append(key)
    order = ["Losses", *(title for title, _ in GROUPS if title != "Losses")]
    panels = [(title, groups[title]) for title in order if groups[title]]
    return panels + [(key, [key]) for key in other[:MAX_OTHER]]


def plot_curves(log_path: Path, out_path: Path) -> None:
    """Draw a run's log.

    Args:
        log_path: A `log.jsonl`.
        out_path: The PNG to write, atomically.

    Raises:
        IccldError: There is no log, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves, stages = read_log(Path(log_path))
    panels = group_curves(list(curves)) or [("nothing logged yet", [])]
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = PANEL
    figure = Figure(figsize=(width * columns, height * rows), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)  # the object interface: pyplot would keep global state and may look for a display
    # All labels have one size, so margins in inches do. A layout that asks what is drawn draws everything twice.
    left, right, bottom, top = MARGINS
    figure.subplots_adjust(
        left / (width * columns), bottom / (height * rows), 1 - right / (width * columns), 1 - top / (height * rows),
        (left + right) / (width - left - right), (bottom + top) / (height - bottom - top),
    )  # fmt: skip
    for i, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_panel(axes, title, {key: curves[key] for key in keys}, [start for start, _ in stages])
        for start, stage in stages if len(stages) > 1 else ():
            axes.axvline(start, color="#888888", linewidth=0.9, linestyle=":")
            axes.annotate(
                stage, (start, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                fontsize=7, color="#666666", va="top",
            )  # fmt: skip
    with atomic_path(out_path) as temporary:
        figure.savefig(temporary, format="png")
    # A figure consists of reference cycles, and a training makes so few objects that Python hardly ever looks for
    # such: without this, figures of many megabytes pile up.
    del figure, axes
    gc.collect()


def _draw_panel(axes: Any, title: str, curves: dict[str, list[tuple[float, float]]], breaks: list[float]) -> None:
    import numpy as np

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    for color, (key, points) in zip(COLORS * 4, sorted(curves.items(), key=_loss_first), strict=False):
        steps, values = np.array(points, np.float64).T
        pieces = np.searchsorted(steps, [b for b in breaks if steps[0] <= b < steps[-1]], side="right")
        for piece_steps, piece in zip(np.split(steps, pieces), np.split(values, pieces), strict=True):
            smooth, label = _smooth(piece), key if piece_steps[-1] == steps[-1] else None
            if smooth is None:
                axes.plot(piece_steps, piece, color=color, label=label, linewidth=1.6, marker="o", markersize=3)
            else:
                axes.plot(piece_steps, piece, color=color, alpha=0.22, linewidth=0.8)
                axes.plot(piece_steps, smooth, color=color, label=label, linewidth=1.6)
    everything = [v for points in curves.values() for _, v in points if math.isfinite(v)]
    if title == "Losses" and everything and min(everything) > 0 and max(everything) > 50 * min(everything):
        axes.set_yscale("log")
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=2 if len(curves) > 4 else 1)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5))
    axes.set_xlabel("step", fontsize=9)
    if title == "Discriminator accuracy":
        axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle="--")  # where a discriminator only guesses


def _smooth(values: Any) -> Any:
    """Exponential average over about a thirtieth of the curve; None where too few points need it."""
    import numpy as np

    if len(values) < 60:
        return None
    keep = 1 - 1 / max(5, len(values) / 30)
    out, average, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        out[i] = average / weight if weight else np.nan
    return out


def _loss_first(item: tuple[str, list]) -> tuple[bool, str]:
    return item[0] != "loss", item[0]


def _numbers(entry: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value) if math.isfinite(value) else math.nan
