"""The data sets of a training run, opened and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iccld_cli.data.prepared import PreparedDataset, labelled_pixels
from iccld_cli.errors import IccldError
from iccld_cli.labels import LabelSpace, shared_classes


@dataclass(frozen=True)
class TrainingData:
    """The data sets of a run.

    Attributes:
        sources: Labelled virtual data sets.
        targets: Real data sets, whose labels training never reads; empty for the source-only baseline.
        space: Their common label space.
        classes: TrainIds trained and scored: those that all of them know.
        folds: TrainId -> the trainId of `classes` that its source pixels are trained as, because a target's labels
            make no difference between the two (truck and car, say).
    """

    sources: list[PreparedDataset]
    targets: list[PreparedDataset]
    space: LabelSpace
    classes: tuple[int, ...]
    folds: dict[int, int] = field(default_factory=dict)

    def describe(self) -> list[dict[str, Any]]:
        """What model files say about the data."""
        return [
            {"role": role, "name": d.info.name, "path": str(d.root.resolve()), "digest": d.digest}
            for role, d in self._with_roles()
        ]

    def facts(self) -> dict[str, Any]:
        """What a resumed run must find unchanged, by a name that a message can show."""
        rows = {f"{role} {n} ({d.info.name})": d.digest for n, (role, d) in enumerate(self._with_roles())}
        names = self.space.names
        folded = [f"{names[fine]} as {names[coarse]}" for fine, coarse in sorted(self.folds.items())]
        return {**rows, "classes": [*self.space.names_of(self.classes), *folded]}

    def held_back(self) -> PreparedDataset | None:
        """The first target with labels of trained classes in `val`: training shows its score, and never learns it."""
        for dataset in self.targets:
            if not dataset.info.splits.get("val"):
                continue
            frames = [f for f in dataset.iter_frames("val") if f.label]
            if frames and labelled_pixels(frames, self.classes) != 0:
                return dataset
        return None

    def _with_roles(self) -> list[tuple[str, PreparedDataset]]:
        return [("source", d) for d in self.sources] + [("target", d) for d in self.targets]


def open_data(sources: list[Path], targets: list[Path], also: list[PreparedDataset] | None = None) -> TrainingData:
    """Open the data sets of a run and check that they go together.

    Args:
        sources: Folders of labelled prepared data sets.
        targets: Folders of target data sets.
        also: Data sets that restrict the classes without being trained on.

    Raises:
        IccldError: A folder is not a prepared data set, a source has no labels, or the label spaces differ.
    """
    opened_sources = [PreparedDataset(p) for p in sources]
    opened_targets = [PreparedDataset(p) for p in targets]
    if not opened_sources:
        raise IccldError("no source data set", "name at least one with --source")
    first = opened_sources[0].info.label_space
    for dataset in [*opened_sources, *opened_targets]:
        if dataset.info.label_space.names != first.names:
            raise IccldError(
                f"{dataset.root} has label space {dataset.info.label_space.name!r}, {opened_sources[0].root} has "
                f"{first.name!r}",
                "prepare both with the same label space",
            )
    for dataset in opened_sources:
        if dataset.info.classes_known is None:
            raise IccldError(
                f"source {dataset.root} has no labels", "a source needs labels; give it as --target instead"
            )
    known: set[int] = set()
    for dataset in opened_sources:  # several sources complete each other
        known |= set(dataset.info.known_ids() or ())
    others = [d.info.known_ids() for d in [*opened_targets, *(also or [])]]
    classes = shared_classes([known, *others], len(first))
    ids = {name: i for i, name in enumerate(first.names)}
    folds = {
        ids[fine]: ids[coarse]
        for dataset in [*opened_targets, *(also or [])]
        for fine, coarse in dataset.info.covers.items()
        if ids[fine] not in classes and ids[coarse] in classes
    }
    return TrainingData(opened_sources, opened_targets, first, classes, folds)
