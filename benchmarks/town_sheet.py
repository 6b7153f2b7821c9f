"""Looks of the virtual town beside their labels, as one picture.

python benchmarks/town_sheet.py assets/town.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from iccld_cli.labels import CITYSCAPES
from iccld_cli.report.overlay import colorize
from iccld_cli.town import LOOKS, render_frame


def main() -> None:
    """Draw the picture: a row a look, two frames of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--frames", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    rows = []
    for look in LOOKS:
        parts = []
        for index in args.frames:
            image, label = render_frame(args.seed, index, look, (384, 192))
            parts += [image, colorize(label, CITYSCAPES)]
        rows.append(np.hstack(parts))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
