"""Which model is kept: the start, the adapted one, their average, or what stage 2 made of the adapted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.footage import flow
from iccld_cli.footage.options import FootageOptions
from iccld_cli.header import ModelHeader
from iccld_cli.inference.along_flow import FlowConsistency
from iccld_cli.inference.evaluate import Scope, evaluate
from iccld_cli.inference.labelfree import look
from iccld_cli.inference.model import load_model

CLEAR = 0.01
"""How much higher than the start's a score without labels must be for the new weights to be kept whole: between the
rises of runs that stood to gain more than their average with the start (at least 0.020) and of those that lost (at
most 0.004) in benchmarks/RESULTS.md."""

TOLERATED = 0.04
"""How much lower than the start's a score without labels may be: between the falls of runs that gained (at most 0.034)
and of those that lost (at least 0.047) in benchmarks/RESULTS.md."""

BROKEN = 0.1
"""The same where the adapted model has learnt labels of the road: usable and broken models lie further apart."""

JUDGED_FRAMES = 100
"""Frames that candidates are judged and compared on."""


@dataclass(frozen=True)
class Judged:
    """How a candidate did.

    Attributes:
        score: Score without labels (`inference.labelfree`), in [0, 1].
        confidence: Mean confidence, in [0, 1].
        miou: On the labels of `val`, in percent; None without.
        flow: Flow consistency, as `FlowConsistency.to_json` gives it; None where nothing was asked.
    """

    score: float
    confidence: float
    miou: float | None = None
    flow: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, raw: Any) -> Judged | None:
        """What `to_json` gave; None for anything else, so that it is judged again."""
        if not isinstance(raw, dict) or raw.keys() != {"score", "confidence", "miou", "flow"}:
            return None
        numbers = all(isinstance(raw[name], int | float) for name in ("score", "confidence"))
        whole = numbers and isinstance(raw["miou"], int | float | None) and is_flow(raw["flow"])
        return cls(**raw) if whole else None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "score": round(self.score, 5),
            "confidence": round(self.confidence, 5),
            "miou": None if self.miou is None else round(self.miou, 5),
            "flow": None if self.flow is None else dict(self.flow),
        }


def is_flow(raw: Any) -> bool:
    """Whether this is what `FlowConsistency.to_json` gave, or None."""
    if raw is None:
        return True
    if not isinstance(raw, dict) or raw.keys() != FlowConsistency().to_json().keys():
        return False
    numbers = all(isinstance(raw[name], int | float | None) for name in ("agreement", "iou", "visible", "pairs"))
    return numbers and isinstance(raw["left_out"], str | None)


def judge(
    candidates: Mapping[str, Path],
    targets: Sequence[PreparedDataset],
    pairs: Sequence[Mapping[str, Any]],
    options: FootageOptions,
    console: Console,
) -> dict[str, Judged]:
    """Judge every candidate on frames of the footage, and on labels where there are any.

    Args:
        candidates: Name -> model file.
        targets: The footage's frames.
        pairs: Where neighbouring frames lie, see `flow.measure`.
        options: Of the run.
        console: Where messages go.
    """
    judged = {}
    for name, path in candidates.items():
        model = load_model(path, options.device)
        seen = [look(model, target, frames) for target, frames in some_frames(targets)]
        weights = [one.images for one in seen]
        score = float(np.average([one.score for one in seen], weights=weights))
        confidence = float(np.average([one.confidence for one in seen], weights=weights))
        miou = None
        if options.val is not None:
            miou = float(evaluate(model, PreparedDataset(options.val), Scope("val")).miou)
        followed = flow.measure(model, pairs).to_json()
        judged[name] = Judged(score, confidence, miou, followed)
        told = f"score {100 * score:.1f} %, confidence {100 * confidence:.1f} %"
        told += "" if followed["agreement"] is None else f", flow consistency {followed['agreement']:.1f} %"
        console.print(f"{name}: {told}" + ("" if miou is None else f", {miou:.1f} mIoU"))
    return judged


def learnt_before(header: ModelHeader, targets: Sequence[PreparedDataset]) -> bool:
    """Whether a model was adapted to all of this footage already.

    Frames are the same where the digest of their list is, as it is each time they are chosen from the same footage. A
    public data set, which another version may have prepared otherwise, is known by its name.

    Args:
        header: Of the model.
        targets: The footage's frames.
    """
    rows = [row for row in header.datasets if row["role"] == "target"]
    digests, names = ({row.get(key) for row in rows} for key in ("digest", "name"))
    return bool(targets) and all(
        target.digest in digests
        or (target.info.name in names and target.info.name == target.info.source.get("adapter"))
        for target in targets
    )


def choice(judged: Mapping[str, Judged], taught: bool = False, again: bool = False) -> str:
    """Which candidate is kept.

    With labels of `val`, the one with the best score, the start where nothing is above it. Without, the adapted model
    where its score without labels is clearly higher than the start's. Where it is about the same or lower, the score
    does not tell a gain from a loss, and the average of both is kept, which gains less and loses less; where that is
    far lower, the model has broken, and the start is kept (`benchmarks/RESULTS.md`). A model that was taught labels of
    this road is kept unless it has broken, and may lose more of its score: it may have learnt to be less sure.
    A start that has learnt this very footage before is kept: its score rises again, and its answers get worse.

    Stage 2, where it was asked for, takes the place of the adapted model under the same conditions, unless its score
    is far lower than that of the adapted model, with which it began.

    Args:
        judged: The candidates.
        taught: Whether the adapted model has learnt labels of the footage's road.
        again: Whether the start had learnt this footage already (`learnt_before`).
    """
    if by_labels(judged):
        return max(judged, key=lambda name: (judged[name].miou or 0.0, name == "start"))
    if again and not taught:
        return "start"
    start = judged["start"].score
    least = start - (BROKEN if taught else TOLERATED)
    whole = least if taught else start + CLEAR
    if "stage2" in judged and judged["stage2"].score >= max(whole, judged["adapted"].score - TOLERATED):
        return "stage2"
    if judged["adapted"].score >= whole:
        return "adapted"
    return "average" if judged["average"].score >= least else "start"


def reason(judged: Mapping[str, Judged], chosen: str, taught: bool = False, again: bool = False) -> str:
    """Why a candidate was chosen; reads on after its name."""
    if again and not taught and not by_labels(judged):
        return "it has learnt this footage before, and learning it once more has lost so far"
    if taught and chosen in ("adapted", "stage2") and not by_labels(judged):
        return "nothing speaks against it, and it has learnt labels of this road"
    return REASONS[by_labels(judged), chosen]


REASONS = {
    (True, "start"): "no other scores better on the labels of --val",
    (True, "adapted"): "it scores best on the labels of --val",
    (True, "average"): "it scores best on the labels of --val",
    (True, "stage2"): "it scores best on the labels of --val",
    (False, "stage2"): "it contradicts itself less often than the start, and has learnt the new road in both stages",
    (False, "adapted"): "it contradicts itself less often than the start, and has learnt the new road",
    (False, "average"): "without labels nothing says that the adapted model is better; half of its change risks less",
    (False, "start"): "the others contradict themselves far more often than it does",
}
"""(whether labels chose, what was chosen) -> why."""


def by_labels(judged: Mapping[str, Judged]) -> bool:
    """Whether there were labels to choose by."""
    return all(found.miou is not None for found in judged.values())


def some_frames(targets: Sequence[PreparedDataset]) -> list[tuple[PreparedDataset, list[Frame]]]:
    """At most `JUDGED_FRAMES` training frames, spread evenly over all targets."""
    pairs = [(target, frame) for target in targets for frame in target.frames("train")]
    found: list[tuple[PreparedDataset, list[Frame]]] = []
    for target, frame in evenly(pairs, JUDGED_FRAMES):
        if not found or found[-1][0] is not target:
            found.append((target, []))
        found[-1][1].append(frame)
    return found
