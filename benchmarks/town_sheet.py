"""Looks, kinds of road, hours and rain of the virtual town beside their labels, as one picture.

python benchmarks/town_sheet.py assets/town.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.labels import CITYSCAPES
from iccld_cli.report.overlay import colorize
from iccld_cli.town import Mix, render_frame

SIZE = (320, 160)
ROWS = (
    ("game", "urban", "day", 0.0, 0),
    ("game", "motorway", "day", 0.0, 15),
    ("camera", "urban", "day", 0.0, 2),
    ("camera", "urban", "day", 1.0, 0),
    ("camera", "motorway", "day", 0.0, 2),
    ("camera", "country", "day", 0.0, 3),
    ("camera", "motorway", "dusk", 0.0, 14),
    ("camera", "urban", "night", 0.0, 22),
)
"""Look, kind of road, hour, share of rain and index of each picture."""


def main() -> None:
    """Draw the picture: two scenes a row, each beside its labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    parts = []
    for look, kind, hour, rain, index in ROWS:
        mix = Mix(((kind, 1.0),), ((hour, 1.0),), rain)
        image, label = render_frame(args.seed, index, look, SIZE, mix)
        parts.append(np.hstack([image, colorize(label, CITYSCAPES)]))
    sheet = np.vstack([np.hstack(parts[k : k + 2]) for k in range(0, len(parts), 2)])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
