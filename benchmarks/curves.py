"""How several trainings went, in one picture: validation mIoU, losses and pseudo-labels against the step.

    python benchmarks/curves.py curves.png "source only=runs/ablation/source-only/seed2" \\
        "stage 1=runs/ablation/stage1/seed2" "stage 2=runs/ablation/stage1/seed2,runs/ablation/stage2/seed2"

A training that went on from another names that one's folder first: its curve begins where the other's ended.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iccld_cli.report.curves import COLORS, read_log

PANELS = (
    ("Validation mIoU (%)", "miou"),
    ("Cross-entropy on source crops", "loss_source"),
    ("Share of target pixels whose label counts", "pseudo_label_weight"),
)
SMOOTH = 9
"""Lines of the log that a curve of the training itself is averaged over."""

Curve = list[tuple[float, float]]


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="TITLE=FOLDER[,FOLDER...]")
    args = parser.parse_args()
    figure = Figure(figsize=(4.6 * len(PANELS), 3.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(PANELS))
    for color, text in zip(itertools.cycle(COLORS), args.runs, strict=False):
        title, _, folders = text.partition("=")
        curves = read_chain([Path(folder) for folder in folders.split(",")])
        for axes, (_, key) in zip(panels, PANELS, strict=True):
            if key in curves:
                draw(axes, curves[key], title, color)
    for axes, (title, _) in zip(panels, PANELS, strict=True):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(args.out, dpi=110)


def read_chain(folders: list[Path]) -> dict[str, Curve]:
    """The curves of the last of several runs, at the steps of all; validation begins with its predecessor's last."""
    begin, before = 0.0, {}
    for folder in folders:
        curves = {
            key: [(begin + step, value) for step, value in points]
            for key, points in read_log(folder / "log.jsonl")[0].items()
        }
        if "miou" in before and "miou" in curves:
            curves["miou"].insert(0, before["miou"][-1])
        begin, before = max(points[-1][0] for points in curves.values()), curves
    return before


def draw(axes: Axes, points: Curve, title: str, color: str) -> None:
    """A curve; one with a point every few steps is drawn as its running mean."""
    steps, values = np.array(points).T
    if len(values) > 2 * SMOOTH:
        values = np.convolve(values, np.ones(SMOOTH) / SMOOTH, mode="valid")
        axes.plot(steps[SMOOTH // 2 : len(values) + SMOOTH // 2], values, color=color, label=title, linewidth=1.4)
    else:
        axes.plot(steps, values, color=color, label=title, linewidth=1.6, marker="o", markersize=3)


if __name__ == "__main__":
    main()
