"""How the labels of a rendered set differ from those of a labelled set of real streets.

python benchmarks/town_statistics.py DATA/virtual-camera DATA/camvid:val

Prints the share of each class, the Kullback-Leibler divergence of the classes in each row of the picture, and what lies
below a class; each set may name a split (default: all that have labels). Classes that the second set does not know are
folded by its `covers` or left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.labels import IGNORE

ROWS = 24
"""Bands of equal height that a picture is divided into."""

CLASSES = 19
UPPER = ("building", "wall", "fence", "vegetation", "car", "sidewalk")
"""Classes whose lower neighbours are printed."""


@dataclass
class Statistics:
    """Counts over the frames of one set.

    Attributes:
        pixels: Pixels of each class in each band (ROWS, CLASSES), every frame weighing the same.
        below: How often the class of the column lies directly below a run of the class of the row (CLASSES, CLASSES).
        frames: Frames counted.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((ROWS, CLASSES)))
    below: np.ndarray = field(default_factory=lambda: np.zeros((CLASSES, CLASSES)))
    frames: int = 0

    def add(self, label: np.ndarray) -> None:
        """Takes in a label (H, W) uint8 of trainIds."""
        height, width = label.shape
        band = np.arange(height) * ROWS // height
        flat = band[:, None] * 256 + label
        count = np.bincount(flat.ravel(), minlength=ROWS * 256).reshape(ROWS, 256)[:, :CLASSES]
        self.pixels += count / (height * width)
        upper, lower = label[:-1], label[1:]
        edge = (upper != lower) & (upper < CLASSES) & (lower < CLASSES)
        pairs = upper[edge].astype(int) * CLASSES + lower[edge]
        self.below += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES) / width
        self.frames += 1

    def shares(self) -> np.ndarray:
        """Share (CLASSES,) of each class among labelled pixels."""
        return self.pixels.sum(0) / max(self.pixels.sum(), 1e-12)

    def rows(self) -> np.ndarray:
        """Shares (ROWS, CLASSES) within each band, a little of everything added so that logarithms exist."""
        counts = self.pixels + 1e-4 * max(self.frames, 1) / (ROWS * CLASSES)
        return counts / counts.sum(1, keepdims=True)


def fold(names: list[str], known: set[str], covers: dict[str, str]) -> np.ndarray:
    """Table (256,) from trainIds to those of a set that knows fewer classes."""
    table = np.full(256, IGNORE, np.uint8)
    for number, name in enumerate(names):
        name = covers.get(name, name)
        if name in known:
            table[number] = names.index(name)
    return table


def measure(root: Path, split: str | None, table: np.ndarray, most: int) -> Statistics:
    """Statistics of at most ``most`` labelled frames, spread evenly over a prepared set."""
    data = PreparedDataset(root)
    frames = [f for s in ([split] if split else data.info.splits) for f in data.frames(s) if f.label]
    total = Statistics()
    for frame in frames[:: max(len(frames) // most, 1)][:most]:
        total.add(table[cv2.imread(str(root / str(frame.label)), cv2.IMREAD_UNCHANGED)])
    return total


def row_divergence(first: Statistics, second: Statistics) -> np.ndarray:
    """KL (ROWS,) in nats of the classes of ``second`` in each band, told by those of ``first``."""
    p, q = second.rows(), first.rows()
    return (p * np.log(p / q)).sum(1)


def main() -> None:
    """Compares two sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", help="prepared set, PATH or PATH:SPLIT")
    parser.add_argument("real", help="prepared labelled set, PATH or PATH:SPLIT")
    parser.add_argument("--frames", type=int, default=400, help="most frames of each set (default 400)")
    args = parser.parse_args()
    pairs = [(Path(path), split or None) for path, _, split in (a.partition(":") for a in (args.rendered, args.real))]
    info = PreparedDataset(pairs[1][0]).info
    names = list(info.label_space.names)
    table = fold(names, set(info.classes_known or names), dict(info.covers))
    first, second = (measure(root, split, table, args.frames) for root, split in pairs)
    print(f"{first.frames} and {second.frames} frames; % of labelled pixels, and of what lies below a class")
    for number, name in enumerate(names):
        if table[number] == number:
            print(f"{name:14s} {100 * first.shares()[number]:6.2f} {100 * second.shares()[number]:6.2f}")
    kl = row_divergence(first, second)
    print(f"row-wise KL {kl.mean():.3f}; by sixths of the height: {np.round(kl.reshape(6, -1).mean(1), 2).tolist()}")
    for upper in UPPER:
        number = names.index(upper)
        if table[number] != number:
            continue
        below = [s.below[number] / max(s.below[number].sum(), 1e-12) for s in (first, second)]
        most = np.argsort(-(below[0] + below[1]))[:5]
        print(
            f"below {upper}: " + ", ".join(f"{names[k]} {100 * below[0][k]:.0f}/{100 * below[1][k]:.0f}" for k in most)
        )


if __name__ == "__main__":
    main()
