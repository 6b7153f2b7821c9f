"""An evaluation's JSON as sections of a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iccld_cli.names import shown
from iccld_cli.report.page import Bar, Bars, Block, Numbers, Pictures, Section, Table, Text


def score_sections(
    raw: dict[str, Any], summary: Mapping[str, str], colors: Mapping[str, tuple[int, int, int]]
) -> list[Section]:
    """Summary, IoU per class, confusion matrix and calibration.

    Args:
        raw: An evaluation's JSON.
        summary: What was evaluated, name to value.
        colors: (R, G, B) of each class.
    """
    headline = [
        ("mIoU", _percent(raw["miou"])),
        ("pixel accuracy", _percent(raw["pixel_accuracy"])),
        ("calibration error", _number(raw["ece"])),
        ("error detection AUROC", _number(raw["auroc"])),
        ("seconds per image", f"{raw['seconds_per_image']:.3f}"),
    ]
    bars = [
        Bar(
            name,
            None if row["iou"] is None else row["iou"] / 100,
            _percent(row["iou"]),
            colors.get(name, (31, 111, 178)),
            f"{row['pixels']:,} px",
        )
        for name, row in raw["classes"].items()
    ]
    confusion: list[Block] = [
        Text("Each row shares out the pixels of one labelled class over the classes predicted for them, in percent."),
        Pictures([confusion_picture(raw["confusion"], raw["subset"])], width=0),
    ]
    reliability = [[f"{c:.3f}", f"{a:.3f}", f"{n:,}"] for c, a, n in raw["reliability"]]
    return [
        Section("Summary", [Numbers(headline), Table(["", ""], [[k, v] for k, v in summary.items()])]),
        Section("IoU per class", [Bars(bars)]),
        Section("Confusion", confusion),
        Section("Calibration", [Table(["mean confidence", "share right", "pixels"], reliability)]),
    ]


def gallery_section(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], title: str = "Frames"
) -> Section:
    """Rows of pictures side by side.

    Args:
        rows: (caption, uint8 (H, W, 3) RGB pictures) each.
        titles: One for each column.
        title: Of the section.
    """
    return Section(title, [Pictures(pictures, caption, titles) for caption, pictures in rows])


def confusion_picture(confusion: dict[str, Any], subset: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix, a row per scored class that occurs.

    Args:
        confusion: `classes` (names) and `counts` (rows of labels, columns of predictions).
        subset: Names of the scored classes; what is predicted outside them is summed up in a last column.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    counts = np.array(confusion["counts"], np.float64)
    ids = [confusion["classes"].index(name) for name in subset]
    rows = counts[ids]
    table = np.concatenate([rows[:, ids], rows.sum(1, keepdims=True) - rows[:, ids].sum(1, keepdims=True)], axis=1)
    totals = rows.sum(axis=1, keepdims=True)
    share = np.divide(100 * table, totals, out=np.zeros_like(table), where=totals > 0)
    side = 2.2 + 0.52 * len(ids)
    figure = Figure(figsize=(side + 0.6, side), dpi=100, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    names = [shown(name) for name in subset]  # and no formulas: a class may be called `$x`
    axes.set_xticks(range(len(ids) + 1), [*names, "other"], rotation=45, ha="right", fontsize=9, parse_math=False)
    axes.set_yticks(range(len(ids)), names, fontsize=9, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    for (y, x), value in np.ndenumerate(share):
        if value >= 0.5:
            axes.text(
                x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "#222"
            )
    axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return np.array(Image.open(buffer).convert("RGB"))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
