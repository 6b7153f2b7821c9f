"""What fp16 and int8 exports lose: labels that differ from the fp32 export's, and mIoU, on a prepared data set.

    python benchmarks/export_precision.py m-fp32.xml m-fp16.xml m-int8.xml --data data/camvid

The first file is what the others are compared with; all are of the same model and size. `--split` names another split
than `val`, `--json` a file for the numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.exported import ExportedModel
from iccld_cli.labels import IGNORE


def main() -> None:
    """Measure and print a line of JSON a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    models = [ExportedModel.open(path) for path in given.files]
    data = PreparedDataset(given.data)
    frames = data.frames(given.split)
    header = models[0].header
    classes = sorted(set(header.classes) & set(data.info.known_ids() or ()))
    counts = [np.zeros((256, 256), np.int64) for _ in models]  # (label, prediction)
    same = [0] * len(models)
    pixels = 0
    for frame in frames:
        image, label = data.read_image(frame)[None], data.read_label(frame)
        found = [model.segment(image).labels[0] for model in models]
        pixels += label.size
        for number, answer in enumerate(found):
            same[number] += int((answer == found[0]).sum())
            pairs = label.astype(np.int64) * 256 + answer
            counts[number] += np.bincount(pairs.ravel(), minlength=65536).reshape(256, 256)
    rows = []
    for path, model, table, equal in zip(given.files, models, counts, same, strict=True):
        scored = np.delete(np.arange(256), [i for i in range(256) if i not in classes])
        rows_of = table[scored]  # labels of classes that are scored; answers may be anything
        hit = np.diag(table)[scored]
        union = rows_of.sum(axis=1) + table[scored][:, scored].sum(axis=0) - hit
        assert IGNORE not in scored
        row = {
            "file": path.name,
            "precision": model.precision,
            "megabytes": round(sum(p.stat().st_size for p in (path, path.with_suffix(".bin")) if p.exists()) / 1e6, 2),
            "same_labels_percent": round(100 * equal / pixels, 3),
            "miou": round(100 * float((hit / union).mean()), 2),
            "frames": len(frames),
        }
        rows.append(row)
        print(json.dumps(row))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
