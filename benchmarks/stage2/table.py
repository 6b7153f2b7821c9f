"""The results of many jobs side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

HEAD = "| trial | answer | seeds | mIoU val | mIoU test | AUROC val | AUROC test | AUROC of several passes | seconds |"


def table(folder: Path) -> str:
    """A Markdown table of every `result.json` in the folders of a folder, seeds of a trial together.

    AUROC is that of 1 - p; the best of several passes is the highest on `val` of all scores that need more than one,
    with its score on `test` and its name.
    """
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in sorted(folder.glob("*/result.json")):
        for row in json.loads(file.read_text(encoding="utf-8")).get("rows", ()):  # others lie beside them
            seed = row.get("seed", 0)
            trial = file.parent.name.removesuffix(f"-{seed}")
            for rule, scores in row["scores"].items():
                answer, _, score = rule.partition("; ")
                of = found[trial, answer].setdefault(seed, {"seconds": row.get("seconds", 0), "rules": {}})
                of["rules"].setdefault(score, {})[row["split"]] = scores
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for (trial, answer), seeds in found.items():
        cells = [trial, answer, ", ".join(map(str, seeds))]
        for key in ("miou", "auroc"):
            for split in ("val", "test"):
                values = (one["rules"]["1 - p"].get(split, {}).get(key) for one in seeds.values())
                cells.append(_joined(values))
        cells += [_best(next(iter(seeds.values()))["rules"]), _joined(one["seconds"] for one in seeds.values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _joined(values: Any) -> str:
    return ", ".join("" if value is None else f"{value:.2f}" for value in values)


def _best(rules: dict[str, dict[str, dict[str, float]]]) -> str:
    several = {name: of for name, of in rules.items() if name not in ("entropy", "1 - p") and "val" in of}
    if not several:
        return ""
    name = max(several, key=lambda one: several[one]["val"]["auroc"])
    return f"{name}: " + ", ".join(f"{several[name][split]['auroc']:.2f} {split}" for split in several[name])
