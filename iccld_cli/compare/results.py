"""What the cells found: means and standard deviations over seeds, and paired differences to the base row.

    score of a cell         pooled over the frames of a split, averaged over a class set
    interval                the frames drawn with replacement, the same draws for all rows (`metrics.bootstrap`)
    interval of differences the same, averaged over seeds; with several seeds these are drawn anew as well

Frames say how far other frames of these drives would move a difference, seeds how far another training would. Both are
drawn together where there are several seeds; with three of them that interval is still a narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from iccld_cli.compare.cells import Cell, Plan
from iccld_cli.compare.rates import peak_memory
from iccld_cli.compare.spec import EvaluationSpec
from iccld_cli.metrics.bootstrap import LEVEL, RESAMPLES, SEED, interval, mean_of_classes, resampled_iou
from iccld_cli.metrics.confusion import ConfusionMatrix, scores_from


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: Its name.
        evaluation: What is scored.
        class_set: Name of the class set.
        classes: Its classes that the labels show: what IoU is averaged over.
        absent: Its classes that no label shows, which are left out for every row.
        images: Frames.
    """

    name: str
    evaluation: EvaluationSpec
    class_set: str
    classes: tuple[str, ...]
    absent: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class Scored:
    """A cell on a column.

    Attributes:
        iou: float64 (S,), fractions; NaN for a class that neither labels nor predictions show.
        resampled: float64 (R, S).
    """

    iou: np.ndarray
    resampled: np.ndarray

    @property
    def miou(self) -> float:
        """In [0, 1]."""
        return float(mean_of_classes(self.iou))


class Results:
    """Reads the scores of the cells; what was read is kept while its file stays the same."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._scored: dict[tuple[str, int | None, str], tuple[np.ndarray, Scored]] = {}
        self._columns: dict[str, Column] = {}

    def to_json(self) -> dict[str, Any]:
        """Everything that the tables show, in percent."""
        plan, comparison = self.plan, self.plan.comparison
        there = {cell.row.name for cell in plan.cells}
        rows = [row.name for row in comparison.row if row.name in there]
        base = comparison.base if comparison.base in rows else None
        columns = [column for evaluation in comparison.evaluation for column in self._columns_of(evaluation)]
        return {
            "title": comparison.title,
            "base": base,
            "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
            "columns": [
                {
                    "name": c.name, "evaluation": c.evaluation.name, "set": c.evaluation.set,
                    "split": c.evaluation.split, "rule": c.evaluation.rule, "images": c.images,
                    "class_set": c.class_set, "classes": list(c.classes), "absent": list(c.absent),
                }
                for c in columns
            ],
            "rows": [self._row(name, base, columns) for name in rows],
            "published": [
                {"title": p.title, "network": p.network, "source": p.source, "scores": dict(p.scores)}
                for p in comparison.published
            ],
        }  # fmt: skip

    def _cells(self, name: str) -> list[Cell]:
        return [cell for cell in self.plan.cells if cell.row.name == name]

    def _columns_of(self, evaluation: EvaluationSpec) -> list[Column]:
        """Columns of an evaluation; those that nothing was scored on yet have no classes."""
        found = []
        for name, class_set in zip(evaluation.columns(), evaluation.classes, strict=True):
            if name not in self._columns:
                column = self._column(evaluation, name, class_set)
                if column is None:
                    found.append(Column(name, evaluation, class_set, (), (), 0))
                    continue
                self._columns[name] = column
            found.append(self._columns[name])
        return found

    def _column(self, evaluation: EvaluationSpec, name: str, class_set: str) -> Column | None:
        for cell in self.plan.cells:
            read = self._read(cell, evaluation)
            if read is None:
                continue
            raw, confusion = read
            names = raw["confusion"]["classes"]
            labelled = confusion.sum(axis=(0, 2))
            wanted = self.plan.comparison.classes_of(class_set)
            there = tuple(c for c in wanted if c in names and labelled[names.index(c)])
            return Column(
                name, evaluation, class_set, there, tuple(c for c in wanted if c not in there), len(confusion)
            )
        return None

    def _read(self, cell: Cell, evaluation: EvaluationSpec) -> tuple[dict[str, Any], np.ndarray] | None:
        """JSON and int64 (F, K, K) of a cell's score; None where there is none of what the file says now."""
        return self.plan.score(cell, evaluation)

    def _score(self, cell: Cell, column: Column) -> Scored | None:
        read = self._read(cell, column.evaluation)
        if read is None or not column.classes:
            return None
        raw, confusion = read
        key = (cell.row.name, cell.seed, column.name)
        if key not in self._scored or self._scored[key][0] is not confusion:
            names = raw["confusion"]["classes"]
            ids = [names.index(name) for name in column.classes]
            counted = ids if column.evaluation.rule == "known" else list(range(len(names)))
            counts = np.stack([_class_counts(frame, ids, counted) for frame in confusion])
            own = Scored(scores_from(ids, counts.sum(axis=0)).iou, resampled_iou(counts))
            self._scored[key] = (confusion, own)
        return self._scored[key][1]

    def _row(self, name: str, base: str | None, columns: Sequence[Column]) -> dict[str, Any]:
        cells = self._cells(name)
        row = cells[0].row
        kind = "model" if row.model is not None else "scored again" if row.model_of is not None else "training"
        return {
            "name": name,
            "title": row.shown_title,
            "kind": kind,
            "needs": self.plan.comparison.source_of(row),
            "seeds": [cell.seed for cell in cells],
            "failed": {_seed(cell): cell.failure for cell in cells if cell.failure is not None},
            "columns": {
                column.name: found for column in columns if (found := self._cell_json(cells, base, column)) is not None
            },
            "compute": [self._compute(cell) for cell in cells if cell.parts],
        }

    def _cell_json(self, cells: Sequence[Cell], base: str | None, column: Column) -> dict[str, Any] | None:
        known = [(cell, score) for cell in cells if (score := self._score(cell, column)) is not None]
        if not known:
            return None
        scores = [score for _, score in known]
        raws = [read[0] for cell, _ in known if (read := self._read(cell, column.evaluation)) is not None]
        own = np.mean([mean_of_classes(score.resampled) for score in scores], axis=0)
        found: dict[str, Any] = {
            "seeds": [cell.seed for cell, _ in known],
            "mious": [_percent(score.miou) for score in scores],
            **_spread([100 * score.miou for score in scores]),
            "interval": _bounds(interval(own)),
            "classes": {
                name: _spread([100 * float(score.iou[i]) for score in scores]) for i, name in enumerate(column.classes)
            },
            "ece": _spread([raw["ece"] for raw in raws], 6),
            "auroc": _spread([raw["auroc"] for raw in raws], 6),
            "seconds_per_image": round(mean(raw["seconds_per_image"] for raw in raws), 5),
        }
        if base is not None and cells[0].row.name != base:
            found["difference"] = self._difference(known, self._cells(base), column)
        return found

    def _difference(
        self, known: Sequence[tuple[Cell, Scored]], base: Sequence[Cell], column: Column
    ) -> dict[str, Any] | None:
        """To the base row, seed by seed; a model file, which has none, goes with every seed."""
        others = {cell.seed: score for cell in base if (score := self._score(cell, column)) is not None}
        pairs: list[tuple[int | None, Scored, Scored]] = []
        for cell, score in known:
            if cell.seed in others:
                pairs.append((cell.seed, score, others[cell.seed]))
            elif cell.seed is None or None in others:
                matching = others if cell.seed is None else {cell.seed: others[None]}
                pairs += [(seed, score, other) for seed, other in matching.items()]
        if not pairs:
            return None
        found = _gaps([s.miou - o.miou for _, s, o in pairs], [_means(s) - _means(o) for _, s, o in pairs])
        found["seeds"] = [seed for seed, *_ in pairs]
        found["classes"] = {
            name: _gaps(
                [float(s.iou[i] - o.iou[i]) for _, s, o in pairs],
                [s.resampled[:, i] - o.resampled[:, i] for _, s, o in pairs],
            )
            for i, name in enumerate(column.classes)
        }
        return found

    def _compute(self, cell: Cell) -> dict[str, Any]:
        seconds = sum(part.get("seconds") or 0 for part in cell.parts)
        processor = [float(part["cpu_seconds"]) for part in cell.parts if part.get("cpu_seconds") is not None]
        return {
            "seed": cell.seed,
            "steps": {
                stage: getattr(self.plan.config(cell.row, stage), stage).iterations
                for stage in self.plan.comparison.stages(cell.row)
            },
            "seconds": round(seconds, 1),
            "cpu_seconds": round(sum(processor), 1) if len(processor) == len(cell.parts) else None,
            "parts": len(cell.parts),
            "memory_gib": peak_memory(cell.folder),
        }


def _class_counts(confusion: np.ndarray, ids: Sequence[int], counted: Sequence[int]) -> np.ndarray:
    matrix = ConfusionMatrix(len(confusion))
    matrix.counts = confusion
    return matrix.class_counts(ids, counted)


def _means(score: Scored) -> np.ndarray:
    return mean_of_classes(score.resampled)


def _gaps(values: Sequence[float], draws: Sequence[np.ndarray]) -> dict[str, Any]:
    """A mean difference in points, and its intervals.

    Args:
        values: A difference a seed, fractions.
        draws: float64 (R,) each, its resamples over the frames.
    """
    table = np.stack(draws)
    found: dict[str, Any] = {
        "mean": _percent(float(np.mean(values))),
        "by_seed": [_percent(value) for value in values],
        "over_images": _bounds(interval(table.mean(axis=0))),
        "over_images_and_seeds": None,
    }
    if len(values) > 1:
        rng = np.random.default_rng(SEED)
        chosen = rng.integers(len(values), size=(table.shape[1], len(values)))
        drawn = table[chosen, np.arange(table.shape[1])[:, None]].mean(axis=1)
        found["over_images_and_seeds"] = _bounds(interval(drawn))
    found["interval"] = found["over_images_and_seeds"] or found["over_images"]
    return found


def _spread(values: Sequence[float | None], digits: int = 4) -> dict[str, Any]:
    """Mean and sample standard deviation; None where there is no value, or a single one."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return {
        "mean": round(mean(known), digits) if known else None,
        "std": round(stdev(known), digits) if len(known) > 1 else None,
    }


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else round(100 * fraction, 4)


def _bounds(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else [round(100 * bound, 4) for bound in bounds]


def _seed(cell: Cell) -> str:
    return "model" if cell.seed is None else str(cell.seed)
