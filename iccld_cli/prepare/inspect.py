"""A report on a prepared data set, and on a source and a target together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from iccld_cli.data.prepared import DatasetInfo, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.labels import shared_classes
from iccld_cli.prepare.preview import class_rows

TINY_SHARE = 0.0005
"""Share of the pixels below which a class is called tiny."""

RARE_FRAMES = 20
"""Number of training frames below which a class is called rare."""


MARKS = 0.95
"""Share of ignored pixels in the labels above which they are points and scribbles."""


@dataclass
class Report:
    """What `inspect` found.

    Attributes:
        data: The data sets.
        sizes: For each, the (width, height) of its frames with their number, the most common first; at most 10.
        scored: Names of the classes that a source and a target share; None for one data set.
        warnings: Sentences about what may go wrong.
    """

    data: list[PreparedDataset]
    sizes: list[list[tuple[tuple[int, int], int]]] = field(default_factory=list)
    scored: tuple[str, ...] | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-ready object."""
        sets = [
            {
                "name": one.info.name,
                "path": str(one.root),
                "digest": one.digest,
                "splits": one.info.splits,
                "sizes": [{"size": list(size), "frames": count} for size, count in sizes],
                "classes_known": one.info.classes_known and list(one.info.classes_known),
                "classes": class_rows(one.info),
                "skipped": len(one.info.skipped),
            }
            for one, sizes in zip(self.data, self.sizes, strict=True)
        ]
        return {"data": sets, "scored": self.scored and list(self.scored), "warnings": self.warnings}


def inspect(data: PreparedDataset, target: PreparedDataset | None = None) -> Report:
    """Look at a data set, or at a source and a target.

    Args:
        data: The data set, or the source.
        target: The target.

    Raises:
        IccldError: The two have different label spaces, or no class in common.
    """
    report = Report([data] if target is None else [data, target])
    for one in report.data:
        counts = Counter((frame.width, frame.height) for frame in one.iter_frames())
        report.sizes.append(counts.most_common(10))
        report.warnings += own_warnings(one.info)
    if target is not None:
        _compare(report, data.info, target.info)
    return report


def own_warnings(info: DatasetInfo) -> list[str]:
    """Warnings about a single data set."""
    found = []
    rows = {row["name"]: row for row in class_rows(info)}
    classes = {name: row for name, row in rows.items() if name != "ignore"}
    absent = [name for name, row in classes.items() if row["pixels"] == 0]
    tiny = [f"{name} {100 * row['share']:.3f} %" for name, row in classes.items() if 0 < row["share"] < TINY_SHARE]
    few = info.extra.get("labelled", 0) < RARE_FRAMES
    rare = [f"{name} {row['frames']}" for name, row in classes.items() if 0 < row["frames"] < RARE_FRAMES and not few]
    ignored = rows.get("ignore", {}).get("share", 0.0)
    if marks := ignored > MARKS:
        pixels = sum(row["pixels"] for row in classes.values())
        text = f"points or scribbles: {pixels} labelled pixels, labelled frames: {info.extra.get('labelled', 0)}"
        found.append(f"{info.name}: {text}; classes {', '.join(n for n in classes if n not in absent)}")
    if absent and not marks:
        found.append(f"{info.name}: in the label map but in no frame: {', '.join(absent)}")
    if tiny and not marks:
        found.append(f"{info.name}: tiny share of the pixels: {', '.join(tiny)}")
    if few and classes and not marks:
        found.append(f"{info.name}: only {info.extra.get('labelled', 0)} labelled frames")
    if rare:
        found.append(f"{info.name}: in fewer than {RARE_FRAMES} frames: {', '.join(rare)}")
    if 0.5 < ignored <= MARKS:
        found.append(f"{info.name}: {100 * ignored:.0f} % of the labelled pixels are ignored")
    twins = info.extra.get("duplicates", {}).get("frames", 0)
    if twins:
        found.append(f"{info.name}: {twins} frames look the same as one of another split (see dataset.json)")
    doubtful = info.extra.get("doubtful", {}).get("frames", 0)
    if doubtful:
        images = "1 image" if doubtful == 1 else f"{doubtful} images"
        found.append(
            f"{info.name}: {images} may be damaged, look at them: the decoder met surplus bytes (see dataset.json)"
        )
    known = info.extra.get("known_bad", [])
    if known:
        what = "1 frame" if len(known) == 1 else f"{len(known)} frames"
        reasons = Counter(entry["reason"] for entry in known)
        why = known[0]["reason"] if len(known) == 1 else "; ".join(f"{n}: {text}" for text, n in reasons.most_common())
        found.append(f"{info.name}: {what} known to be bad in the official set left out ({why}; see dataset.json)")
    if passed := info.extra.get("passed_over"):
        names = ", ".join(f"{name!r} {count}" for name, count in passed.items())
        found.append(f"{info.name}: labels of unknown names were passed over, as the set's own tool does: {names}")
    found += [f"{info.name}: {text}" for text in info.extra.get("notices", [])]
    if info.skipped:
        left_out = "1 frame was" if len(info.skipped) == 1 else f"{len(info.skipped)} frames were"
        first = ", ".join(f"{entry.get('file')} {entry.get('reason')}" for entry in info.skipped[:3])
        found.append(f"{info.name}: {left_out} left out ({first}{', ...' * (len(info.skipped) > 3)}; see dataset.json)")
    return found


def _compare(report: Report, source: DatasetInfo, target: DatasetInfo) -> None:
    if source.label_space != target.label_space:
        raise IccldError(
            f"{source.name} has the label space {source.label_space.name!r}, {target.name} {target.label_space.name!r}",
            "prepare one of them with a label map to the other's classes",
        )
    if source.classes_known is None:
        raise IccldError(f"{source.name} has no labels, so it cannot be a source", "give the labelled set first")
    space = source.label_space
    scored = shared_classes([source.known_ids(), target.known_ids()], len(space))
    report.scored = space.names_of(scored)
    if target.classes_known is None:
        report.warnings.append(f"{target.name} has no labels: fine for training, but nothing can be scored on it")
        return
    if "val" not in target.splits:
        text = "has no val split, so nothing to choose settings on; --hold-out makes one"
        report.warnings.append(f"{target.name} {text}")
    for name in target.classes_known:
        if name not in source.classes_known:
            report.warnings.append(f"{name} is unknown to the source {source.name}: it cannot be learned from it")
    for name in source.classes_known:
        if name not in target.classes_known and target.covers.get(name) not in report.scored:
            report.warnings.append(f"{name} is unknown to the target {target.name}: it is not scored")
    folded = [f"{fine} as {coarse}" for fine, coarse in target.covers.items() if fine in source.classes_known]
    if folded:
        report.warnings.append(
            f"{target.name} does not distinguish some classes; they are trained as others: {', '.join(folded)}"
        )
