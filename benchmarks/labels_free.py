"""How well what needs no labels ranks models: rank correlations with true mIoU.

iccld evaluate --ckpt A --ckpt B ... --data SET --split test --limit 16 --json true.json
iccld evaluate --no-labels --source SOURCE --ckpt A --ckpt B ... --data SET --split test --limit 16 --json free.json
python benchmarks/labels_free.py true.json free.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SIGNALS = ("score", "confidence", "agreement_iou", "agreement_mirrored", "agreement_scaled", "shift")
FLOW = ("flow agreement", "flow iou")  # of a video whose frames follow each other closely, labelled ones among them


def main() -> None:
    """Print the models and, for each signal, Spearman's rank correlation over all and with each model left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("true", type=Path, help="JSON with labels.")
    parser.add_argument("free", type=Path, help="JSON without, of the same models.")
    files = parser.parse_args()
    true, free = (json.loads(path.read_text(encoding="utf-8"))["runs"] for path in (files.true, files.free))
    assert [run["model"]["sha256"] for run in true] == [run["model"]["sha256"] for run in free]
    signals = SIGNALS + (FLOW if all(value(run, FLOW[0]) is not None for run in free) else ())
    print("| model | mIoU | " + " | ".join(signals) + " |\n|---|" + "---|" * (1 + len(signals)))
    for known, run in sorted(zip(true, free, strict=True), key=lambda pair: -pair[0]["miou"]):
        path = Path(run["model"]["file"])
        cells = [f"{value(run, key):.3f}" if key == "shift" else f"{value(run, key):.1f}" for key in signals]
        print(f"| {path.parent.name}/{path.stem} | {known['miou']:.1f} | " + " | ".join(cells) + " |")
    miou = np.array([run["miou"] for run in true])
    for key in signals:
        values = np.array([value(run, key) for run in free]) * (-1 if key == "shift" else 1)
        others = [spearman(np.delete(miou, i), np.delete(values, i)) for i in range(len(miou))]
        print(f"{key}: {spearman(miou, values):.2f}, leaving one out {min(others):.2f} to {max(others):.2f}")


def value(run: dict, key: str) -> float | None:
    """A signal of a run; None where it was left out."""
    section, _, name = key.partition(" ")
    return run[key] if not name else (run.get(section) or {}).get(name)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two series without ties."""
    ranks = (np.argsort(np.argsort(values)) for values in (first, second))
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
