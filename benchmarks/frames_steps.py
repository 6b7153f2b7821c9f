"""How much more frames and more steps are worth: mIoU against steps, a line for each number of frames.

    python benchmarks/frames_steps.py runs/frames benchmarks/frames-steps.png

It reads what `iccld compare benchmarks/frames-steps.toml --out runs/frames` left (results.json), draws a dot for each
seed and a line through the means, and prints what a doubling of either is worth, as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iccld_cli.report.curves import COLORS

ROW = re.compile(r"frames-(\d+)-steps-(\d+)")


class Cell(NamedTuple):
    """What one row answered.

    Attributes:
        frames: Of the town, a look.
        steps: Of the training.
        mious: Column -> seed -> mIoU (%).
    """

    frames: int
    steps: int
    mious: dict[str, dict[int, float]]


def main() -> None:
    """Draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="Folder of `iccld compare`, or its results.json.")
    parser.add_argument("out", type=Path, help="Picture (PNG).")
    args = parser.parse_args()
    file = args.results / "results.json" if args.results.is_dir() else args.results
    try:
        cells = read_cells(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: {error}")
    if not cells:
        sys.exit(f"{file}: no row named frames-N-steps-N has a score")
    draw(cells, args.out)
    print(doublings_table(cells))


def read_cells(found: dict[str, Any]) -> list[Cell]:
    """Cells with a score, by frames and steps.

    Args:
        found: What `iccld compare` writes.
    """
    cells = []
    for row in found["rows"]:
        if (match := ROW.fullmatch(row["name"])) is not None and row["columns"]:
            mious = {name: dict(zip(c["seeds"], c["mious"], strict=True)) for name, c in row["columns"].items()}
            cells.append(Cell(int(match[1]), int(match[2]), mious))
    return sorted(cells, key=lambda cell: cell[:2])


def doublings(cells: list[Cell]) -> Iterator[tuple[str, float, dict[str, list[float]]]]:
    """Neighbours that differ in frames alone or in steps alone, each with what it gained.

    Yields:
        Title, doublings between the two, and column -> gain of each seed over the same seed (points of mIoU).
    """
    for fixed, other, varied in ((0, "frames", "steps"), (1, "steps", "frames")):
        for value in sorted({cell[fixed] for cell in cells}):
            line = [cell for cell in cells if cell[fixed] == value]  # in order of the other one
            for less, more in itertools.pairwise(line):
                small, large = getattr(less, varied), getattr(more, varied)
                gains = {
                    column: [
                        more.mious[column][seed] - miou for seed, miou in seeds.items() if seed in more.mious[column]
                    ]
                    for column, seeds in less.mious.items()
                    if column in more.mious
                }
                yield f"{value:,} {other}, {small:,} to {large:,} {varied}", math.log2(large / small), gains


def doublings_table(cells: list[Cell]) -> str:
    """Markdown: a row for each pair of neighbours, what one doubling is worth on each column, mean and seeds."""
    columns = list(dict.fromkeys(column for cell in cells for column in cell.mious))
    lines = ["| from, to | doublings | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for what, count, gains in doublings(cells):
        texts = []
        for column in columns:
            each = [gain / count for gain in gains.get(column, [])]
            texts.append(f"{np.mean(each):+.1f} ({', '.join(f'{one:+.1f}' for one in each)})" if each else "")
        lines.append(f"| {what} | {count:.3g} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def draw(cells: list[Cell], path: Path) -> None:
    """A panel for each column; the file appears whole or not at all."""
    columns = list(dict.fromkeys(column for cell in cells for column in cell.mious))
    figure = Figure(figsize=(3.6 * len(columns), 3.4), layout="constrained", facecolor="white")
    panels: np.ndarray = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        _panel(axes, [cell for cell in cells if column in cell.mious], column)
    panels[0].set_ylabel("mIoU (%)")
    panels[0].legend(title="frames a look", fontsize=8, title_fontsize=8, frameon=False)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)


def _panel(axes: Axes, cells: list[Cell], column: str) -> None:
    lines = defaultdict(list)
    for cell in cells:
        lines[cell.frames].append((cell.steps, list(cell.mious[column].values())))
    for color, (frames, points) in zip(itertools.cycle(COLORS), lines.items(), strict=False):
        axes.plot([s for s, _ in points], [np.mean(m) for _, m in points], "_-", color=color, label=f"{frames:,}")
        for steps, mious in points:
            axes.plot([steps] * len(mious), mious, "o", color=color, markersize=4, alpha=0.7)
    ticks = sorted({cell.steps for cell in cells})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_title(column, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
