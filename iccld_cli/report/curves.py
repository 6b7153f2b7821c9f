"""`curves.png`: what a run's log says, in one picture."""

from __future__ import annotations

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
    ("Adversarial health", r"^(disc|adv|gan)|discriminator"),
    ("IoU of classes (%)", r"\biou\b"),
    ("Learning rate", r"(^|[._])lr($|[._])|learning_rate"),
    ("Losses", r"loss"),
    ("Pseudo-labels", r"pseudo|confiden|mixed_weight|kept"),
)
"""Title of a panel and what its keys look like; the first match counts. Others get a panel each."""

MAX_OTHER = 6
COLORS = ("#1f6fb2", "#d1495b", "#2e8b57", "#e09f3e", "#7b5ea7", "#4c4c4c", "#17a2b8", "#8c564b")


def read_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The curves in a `log.jsonl`.

    Lines that are not whole (a run was killed while writing) are passed over. Where a step occurs twice, as
    after a resume, the later line counts.

    Args:
        path: The log: one JSON object a line with at least `step`; nested objects get dotted names.

    Returns:
        Key to (step, value) pairs in the order of the steps; numeric keys only, NaN for values not finite.

    Raises:
        IccldError: There is no such file.
    """
    if not path.is_file():
        raise IccldError(f"no log at {path}", "give the folder of a run")
    curves: dict[str, dict[float, float]] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                step = float(entry["step"])
            except (ValueError, KeyError, TypeError):
                continue
            for key, value in _numbers(entry):
                if key.rpartition(".")[2] not in NOT_CURVES:
                    curves.setdefault(key, {})[step] = value
    return {key: sorted(points.items()) for key, points in curves.items()}


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

    curves = read_log(Path(log_path))
    panels = group_curves(list(curves)) or [("nothing logged yet", [])]
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.4 * columns, 3.3 * rows), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # the object interface: pyplot would keep global state and may look for a display
    for i, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_panel(axes, title, {key: curves[key] for key in keys})
    with atomic_path(out_path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_panel(axes: Any, title: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    import numpy as np

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    for color, (key, points) in zip(COLORS * 4, sorted(curves.items(), key=_loss_first), strict=False):
        steps, values = np.array(points, np.float64).T
        smooth = _smooth(values)
        if smooth is None:
            axes.plot(steps, values, color=color, label=key, linewidth=1.6, marker="o", markersize=3)
        else:
            axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
            axes.plot(steps, smooth, color=color, label=key, linewidth=1.6)
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
    if title == "Adversarial health":
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
