"""An evaluation's JSON as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.report.page import Cell, ClassMap, Matrix, Numbers, Reliability, Section, Table, Text

RIGHT, WRONG, LEFT_OUT = (222, 226, 230), (214, 48, 49), (120, 144, 180)
"""Colours of an error map."""

_GREY = (128, 128, 128)


def score_sections(
    runs: Sequence[dict[str, Any]],
    names: Sequence[str],
    summary: Mapping[str, str],
    colors: Mapping[str, tuple[int, int, int]],
) -> list[Section]:
    """Summary, runs, classes, groups, calibration and confusion.

    Args:
        runs: JSON of the runs, the first of which is the one to compare with.
        names: Of the runs.
        summary: What was evaluated, name to value.
        colors: (R, G, B) of each class.
    """
    raw = runs[0]
    headline = [
        ("mIoU" if len(runs) == 1 else f"mIoU of {names[0]}", _percent(raw["miou"])),
        ("95 % interval", _interval(raw.get("interval"))),
        ("pixel accuracy", _percent(raw["pixel_accuracy"])),
        ("class accuracy", _percent(raw.get("class_accuracy"))),
        ("boundary IoU", _percent(raw.get("boundary_iou"))),
        ("calibration error", _number(raw["ece"])),
        ("error detection AUROC", _number(raw["auroc"])),
        ("seconds per image", f"{raw['seconds_per_image']:.3f}"),
    ]
    sections = [Section("Summary", [Numbers(headline), Table(["", ""], [[k, v] for k, v in summary.items()])])]
    if len(runs) > 1:
        sections.append(Section("Runs", [_runs_table(runs, names), Text(_PAIRED)]))
    sections.append(Section("Classes", [_class_table(runs, names, colors)]))
    if "by" in raw:
        sections.append(Section(f"Groups: {raw['by']['field']}", [_group_table(runs, names)]))
    curves = [(name or "the model", run["reliability"]) for name, run in zip(names, runs, strict=True)]
    sections.append(Section("Calibration", [Text(_CALIBRATION), Reliability(curves)]))
    for name, run in zip(names, runs, strict=True):
        title = "Confusion" if len(runs) == 1 else f"Confusion of {name}"
        sections.append(Section(title, [Text(_CONFUSION), confusion_matrix(run["confusion"], run["subset"])]))
    return sections


_PAIRED = (
    "Differences are to the first run, over the same frames; both are resampled alike, so their intervals are narrower "
    "than those of the scores. A bold one leaves out 0. The intervals are over frames of these drives."
)
_CALIBRATION = "On the dashed line a confidence of 0.8 is right in 80 % of the pixels; below it the model is too sure."
_CONFUSION = "Each row shares out the pixels of one labelled class over the classes predicted for them, in percent."


def confusion_matrix(confusion: dict[str, Any], subset: Sequence[str]) -> Matrix:
    """A confusion matrix with a row per scored class, in percent of its labelled pixels.

    Args:
        confusion: `classes` (names) and `counts` (rows of labels, columns of predictions).
        subset: Names of the scored classes; what is predicted outside them is summed up in a last column.
    """
    counts = np.array(confusion["counts"], np.float64)
    ids = [confusion["classes"].index(name) for name in subset]
    rows = counts[ids]
    table = np.concatenate([rows[:, ids], rows.sum(1, keepdims=True) - rows[:, ids].sum(1, keepdims=True)], axis=1)
    totals = rows.sum(axis=1, keepdims=True)
    share = np.divide(100 * table, totals, out=np.zeros_like(table), where=totals > 0)
    return Matrix(list(subset), [*subset, "other"], share.tolist())


def class_map(labels: np.ndarray, space: LabelSpace) -> ClassMap:
    """TrainIds in the colours of their classes.

    Args:
        labels: uint8 (H, W) trainIds; 255 becomes black.
        space: Colours.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(space)] = space.colors
    return ClassMap(labels, palette)


def error_map(predicted: np.ndarray, label: np.ndarray) -> ClassMap:
    """Where an answer is right and where it is wrong.

    Args:
        predicted: uint8 (H, W) trainIds.
        label: uint8 (H, W) trainIds, 255 for pixels that do not count.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = RIGHT, WRONG, LEFT_OUT
    return ClassMap(np.where(label == IGNORE, 2, predicted != label).astype(np.uint8), palette)


def _runs_table(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    head = ["run", "mIoU %", "95 % interval", "difference", "its interval", "boundary %", "calibration", "AUROC"]
    head.append("s an image")
    rows: list[list[str | Cell]] = []
    for name, run in zip(names, runs, strict=True):
        gap = run.get("difference")
        rows.append(
            [
                name,
                _cell(run["miou"]),
                _bounds(run["interval"]),
                _gap_cell(gap["miou"], gap["interval"]) if gap else Cell("–"),
                _bounds(gap["interval"] if gap else None),
                _cell(run["boundary_iou"]),
                _cell(run["ece"], 4),
                _cell(run["auroc"], 3),
                _cell(run["seconds_per_image"], 3),
            ]
        )
    return Table(head, rows, sortable=True)


def _class_table(
    runs: Sequence[dict[str, Any]], names: Sequence[str], colors: Mapping[str, tuple[int, int, int]]
) -> Table:
    single = len(runs) == 1
    if single:
        head = ["class", "IoU %", "95 % interval", "accuracy %", "boundary %", "pixels"]
    else:
        head = ["class", f"{names[0]} %"]
        for name in names[1:]:
            head += [f"{name} %", "difference"]
        head.append("pixels")
    rows: list[list[str | Cell]] = []
    for class_name, first in runs[0]["classes"].items():
        row: list[str | Cell] = [Cell(class_name, color=colors.get(class_name, _GREY))]
        for run in runs:
            own = run["classes"][class_name]
            row.append(_cell(own["iou"], meter=True))
            if single:
                row += [_bounds(own.get("interval")), _cell(own.get("accuracy")), _cell(own.get("boundary_iou"))]
            elif "difference" in run:
                gap = run["difference"]["classes"][class_name]
                row.append(_gap_cell(gap["iou"], gap["interval"]))
        rows.append([*row, Cell(f"{first['pixels']:,}", first["pixels"])])
    foot: list[str | Cell] = ["mean"]
    for run in runs:
        foot.append(_cell(run["miou"], meter=True))
        if single:
            foot += [_bounds(run.get("interval")), _cell(run.get("class_accuracy")), _cell(run.get("boundary_iou"))]
        elif "difference" in run:
            foot.append(_gap_cell(run["difference"]["miou"], run["difference"]["interval"]))
    return Table(head, rows, True, [*foot, ""])


def _group_table(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    head = ["group", "images"]
    for name in names:
        head += ["mIoU %" if len(runs) == 1 else f"{name} %", "95 % interval"]
    rows: list[list[str | Cell]] = []
    for group, first in runs[0]["by"]["groups"].items():
        row: list[str | Cell] = [group, Cell(str(first["images"]), first["images"])]
        for run in runs:
            own = run["by"]["groups"][group]
            row += [_cell(own["miou"], meter=True), _bounds(own["interval"])]
        rows.append(row)
    return Table(head, rows, True)


def _cell(value: float | None, digits: int = 1, meter: bool = False) -> Cell:
    fraction = min(max(value, 0), 100) / 100 if meter and value is not None else None
    return Cell("–" if value is None else f"{value:.{digits}f}", value, fraction=fraction)


def _gap_cell(value: float | None, bounds: Sequence[float] | None) -> Cell:
    sure = bounds is not None and (bounds[0] > 0 or bounds[1] < 0)
    return Cell("–" if value is None else f"{value:+.1f}", value, strong=sure)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _bounds(bounds: Sequence[float] | None) -> Cell:
    return Cell(_interval(bounds), None if bounds is None else bounds[0])
