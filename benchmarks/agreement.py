"""Does a judge order the rows of an ablation as `test` does? Spearman's rank correlation, and how sure it is.

    python benchmarks/agreement.py runs/unseen-drive                          # every judge of the folder, against test
    python benchmarks/agreement.py runs/unseen-drive runs/unseen-dusk \\
        --judge unseen-drive:val+unseen-dusk:judge                     # the mean of two, on the rows of both
    python benchmarks/agreement.py benchmarks/carla-camvid.json               # the usual split
    python benchmarks/agreement.py runs/unseen-drive benchmarks/carla-camvid.json \\
        --judge unseen-drive:val --reference carla-camvid:test                # ... against trainings on other frames

It reads what `iccld compare` writes (OUT/results.json), and the older JSON of this folder, and prints Markdown. Three
numbers go with each correlation: the probability that a random order agrees as well (one-sided, exact for up to eight
rows), the interval of 95 % when the rows are drawn anew, and the interval when every score moves by a training's noise.
A judge is kept from eight rows and a correlation of 0.8 on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

LEAST_ROWS, LEAST_CORRELATION = 8, 0.8
DRAWS = 20_000
EXACT = 8
Results = dict[str, dict[str, Any]]


def main() -> None:
    """Print the table of rows and the table of judges."""
    options = _options()
    results = {path.stem if path.is_file() else path.name: _read(path) for path in options.results}
    leave = set(options.leave_out)
    reference = options.reference or f"{next(iter(results))}:test"
    judges = options.judge or [
        f"{name}:{evaluation}"
        for name, found in results.items()
        for evaluation in dict.fromkeys(e for row in found.values() for e in row["evaluations"])
        if evaluation == "val" or evaluation.startswith("judge")
    ]
    print(rows_table(results, [*judges, reference], leave))
    print(judges_table(results, judges, reference, leave, options.noise))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="Folders of `iccld compare`, or results in JSON.")
    parser.add_argument("--judge", nargs="+", metavar="NAME:EVALUATION[+...]", help="Default: all but tests.")
    parser.add_argument("--reference", metavar="NAME:EVALUATION[+...]", help="Default: test of the first.")
    parser.add_argument("--leave-out", nargs="+", default=["oracle"], metavar="ROW", help="Default: oracle.")
    parser.add_argument("--noise", type=float, default=0.7, help="Standard deviation of one training's mIoU.")
    return parser.parse_args()


def _read(path: Path) -> Results:
    file = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: {error}")
    return by_row(found) if isinstance(found.get("rows"), list) else found


def by_row(found: dict[str, Any]) -> Results:
    """Row -> title, evaluations and compute, of what `iccld compare` writes."""
    return {
        row["name"]: {
            "title": row["title"],
            "evaluations": {
                name: {"seeds": own["seeds"], "miou": [own["mean"], own["std"] or 0.0]}
                for name, own in row["columns"].items()
                if own["mean"] is not None
            },
            "compute": {
                str(one["seed"]): {
                    "steps": sum(one["steps"].values()),
                    "seconds": one["seconds"],
                    "cpu_seconds": one["cpu_seconds"] or 0,
                    "unknown_parts": 0,
                }
                for one in row["compute"]
            },
        }
        for row in found["rows"]
    }


def scores(results: dict[str, Results], expression: str) -> dict[str, float]:
    """Row -> mIoU (%) by an expression such as `a:val` or `a:val+b:test`, the mean of the parts.

    Args:
        results: Name -> what `by_row` gives.
        expression: Parts `NAME:EVALUATION`, joined by `+`.

    Raises:
        SystemExit: A name is not among the results.
    """
    parts = []
    for part in expression.split("+"):
        name, _, evaluation = part.partition(":")
        if name not in results:
            sys.exit(f"{part}: no results {name!r}, only {', '.join(results)}")
        rows = results[name].items()
        parts.append(
            {n: row["evaluations"][evaluation]["miou"][0] for n, row in rows if evaluation in row["evaluations"]}
        )
    return {row: float(np.mean([part[row] for part in parts])) for row in parts[0] if all(row in p for p in parts)}


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, ties sharing the mean of their places."""
    above = (values[..., :, None] > values[..., None, :]).sum(-1)
    same = (values[..., :, None] == values[..., None, :]).sum(-1)
    return above + (same + 1) / 2


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis; NaN where one side has no order.

    Args:
        first: (..., rows).
        second: (..., rows).
    """
    a, b = (r - r.mean(-1, keepdims=True) for r in (ranks(first), ranks(second)))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0)


def chance(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """Probability that a random order of the rows agrees at least as well: (rows,), (rows,) -> [0, 1]."""
    found = float(spearman(first, second))
    if len(first) <= EXACT:
        orders = np.array(list(itertools.permutations(range(len(first)))))
    else:
        orders = rng.permuted(np.tile(np.arange(len(first)), (DRAWS, 1)), axis=1)
    return float((spearman(first[orders], np.broadcast_to(second, orders.shape)) >= found - 1e-9).mean())


def intervals(
    first: np.ndarray, second: np.ndarray, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of the correlation: rows drawn anew, and scores moved by normal noise.

    Args:
        first: (rows,) mIoU.
        second: (rows,) mIoU.
        noise: Standard deviation of the noise, in points.
        rng: Where the draws come from.
    """
    chosen = rng.integers(len(first), size=(DRAWS, len(first)))
    drawn = spearman(first[chosen], second[chosen])
    moved = spearman(*(s + rng.normal(0, noise, (DRAWS, len(s))) for s in (first, second)))
    low_and_high = [2.5, 97.5]
    return np.nanpercentile(drawn, low_and_high), np.nanpercentile(moved, low_and_high)


def pairs(judge: np.ndarray, reference: np.ndarray, gap: float) -> tuple[int, int]:
    """How many pairs of rows the judge orders as the reference does, of those that this holds more than `gap` apart."""
    found = [
        (judge[i] - judge[j]) * (reference[i] - reference[j]) > 0
        for i, j in itertools.combinations(range(len(judge)), 2)
        if abs(reference[i] - reference[j]) > gap
    ]
    return sum(found), len(found)


def rows_table(results: dict[str, Results], columns: list[str], leave: set[str]) -> str:
    """Every row's scores and what it took, as a Markdown table, best on the last column first."""
    by_column = [scores(results, column) for column in columns]
    rows = [row for row in by_column[-1] if row not in leave]
    lines = ["| row | " + " | ".join(columns) + " | steps | minutes (processor) |", "|" + "---|" * (len(columns) + 3)]
    for row in sorted(rows, key=lambda row: -by_column[-1][row]):
        found = next(found[row] for found in results.values() if row in found)
        cells = [f"{column[row]:.1f}" if row in column else "-" for column in by_column]
        lines.append(f"| {found['title']} | " + " | ".join(cells) + f" | {_cost(found)} |")
    return "\n".join(lines) + "\n"


def _cost(row: dict[str, Any]) -> str:
    known = [cost for cost in row.get("compute", {}).values() if cost]
    if not known:
        return "- | -"
    seconds, processor = (np.mean([cost[key] for cost in known]) / 60 for key in ("seconds", "cpu_seconds"))
    stopped = sum(cost["unknown_parts"] for cost in known)
    more = f", without {stopped} stopped part{'s' if stopped > 1 else ''}" if stopped else ""
    return f"{known[0]['steps']} | {seconds:.0f} ({processor:.0f}){more}"


def judges_table(results: dict[str, Results], judges: list[str], reference: str, leave: set[str], noise: float) -> str:
    """How well each judge orders the rows that it shares with the reference, as a Markdown table."""
    truth = scores(results, reference)
    lines = [
        f"| judge (of {reference}) | rows | Spearman | by chance | rows drawn anew, 95 % | noise {noise:g}, 95 % "
        "| pairs more than 1 apart | kept |",
        "|" + "---|" * 8,
    ]
    for name in judges:
        found = scores(results, name)
        rows = [row for row in truth if row in found and row not in leave]
        if len(rows) < 3:
            lines.append(f"| {name} | {len(rows)} | - | - | - | - | - | no: too few rows |")
            continue
        first, second = (np.array([side[row] for row in rows]) for side in (found, truth))
        rng = np.random.default_rng(0)
        value = float(spearman(first, second))
        spans = [f"{low:.2f} to {high:.2f}" for low, high in intervals(first, second, noise, rng)]
        right, total = pairs(first, second, 1.0)
        kept = value >= LEAST_CORRELATION and len(rows) >= LEAST_ROWS
        reason = "too few rows" if len(rows) < LEAST_ROWS else f"below {LEAST_CORRELATION}"
        lines.append(
            f"| {name} | {len(rows)} | {value:.2f} | {chance(first, second, rng):.3f} | {spans[0]} | {spans[1]} "
            f"| {right} of {total} | {'yes' if kept else f'no: {reason}'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
