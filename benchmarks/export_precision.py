"""What fp16 and int8 exports lose: labels that differ from the fp32 export's, and mIoU, on a prepared data set.

    python benchmarks/export_precision.py m-fp32.xml m-fp16.xml m-int8.xml --data data/camvid

The first file is what the others are compared with; all are of the same model and size. `--split` names another split
than `val`, `--json` a file for the numbers. With `--rounds N` their speed is measured instead: in each round every file
runs on the same ten frames, one file after the other, and medians of the rounds are given, in milliseconds a frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.exported import ExportedModel, to_input
from iccld_cli.labels import IGNORE


def main() -> None:
    """Measure and print a line of JSON a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=0)
    given = parser.parse_args()
    models = [ExportedModel.open(path) for path in given.files]
    data = PreparedDataset(given.data)
    rows = speed(models, data, given.split, given.rounds) if given.rounds else scores(models, data, given.split)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def speed(models: list[ExportedModel], data: PreparedDataset, split: str, rounds: int) -> list[dict[str, Any]]:
    """Wall and processor milliseconds a frame of each file, as `export` compiles it: all cores work on one frame."""
    images = [to_input(data.read_image(frame), models[0].facts.size) for frame in data.frames(split)[:10]]
    found: list[list[tuple[float, float]]] = [[] for _ in models]
    for _ in range(rounds + 1):
        for its, model in zip(found, models, strict=True):
            wall, processor = time.perf_counter(), time.process_time()
            for image in images:
                model.run(image)
            its.append((time.perf_counter() - wall, time.process_time() - processor))
    rows = []
    for its, model in zip(found, models, strict=True):
        wall, processor = (statistics.median(one[i] for one in its[1:]) for i in (0, 1))  # the first warms up
        each = 1000 / len(images)
        row = {
            "file": model.path.name,
            "precision": model.precision,
            "wall_ms": round(wall * each, 1),
            "processor_ms": round(processor * each, 1),
            "rounds": rounds,
        }
        rows.append(row)
        print(json.dumps(row))
    return rows


def scores(models: list[ExportedModel], data: PreparedDataset, split: str) -> list[dict[str, Any]]:
    """Size, labels that differ from the first file's, and mIoU of each file."""
    frames = data.frames(split)
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
    for model, table, equal in zip(models, counts, same, strict=True):
        scored = np.delete(np.arange(256), [i for i in range(256) if i not in classes])
        rows_of = table[scored]  # labels of classes that are scored; answers may be anything
        hit = np.diag(table)[scored]
        union = rows_of.sum(axis=1) + table[scored][:, scored].sum(axis=0) - hit
        assert IGNORE not in scored
        path = model.path
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
    return rows


if __name__ == "__main__":
    main()
