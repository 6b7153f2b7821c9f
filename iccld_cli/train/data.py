"""The data sets of a training run, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iccld_cli.data.annotated import Meaning, meaning_of
from iccld_cli.data.prepared import PreparedDataset, labelled_pixels
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.names import shown


@dataclass(frozen=True)
class TrainingData:
    """The data sets of a run.

    Attributes:
        sources: Labelled virtual data sets.
        targets: Real data sets, whose labels training never reads; empty for the source-only baseline.
        labelled: Further ones of the target's domain, whose labels are learnt.
        answers: The same with labels that a model gave; where there are both, either gives half of the labelled crops.
        space: Their common label space.
        classes: TrainIds that are trained: those that the sources know or that `labelled` shows, or that the start
            file knows.
        folds: TrainId -> the trainId of `classes` that its source pixels are trained as, because it is not in
            `classes` and the labels that are scored do not distinguish the two (truck and car, say).
        val: The data set whose held-back split is scored during training; None for the first target that has one.
        notes: What the user should know of the classes, a sentence each.
    """

    sources: list[PreparedDataset]
    targets: list[PreparedDataset]
    space: LabelSpace
    classes: tuple[int, ...]
    folds: dict[int, int] = field(default_factory=dict)
    val: PreparedDataset | None = None
    notes: tuple[str, ...] = ()
    labelled: list[PreparedDataset] = field(default_factory=list)
    answers: list[PreparedDataset] = field(default_factory=list)

    def meaning(self, folds: Mapping[int, int]) -> Meaning:
        """What the labels of `labelled`, and behind them of `answers`, say about the trained classes.

        Args:
            folds: `folds`, or none where they are switched off.
        """
        covers = [_covers(dataset, self.space) for dataset in (*self.labelled, *self.answers)]
        return meaning_of(covers, self.classes, folds, len(self.space))

    def describe(self) -> list[dict[str, Any]]:
        """What model files say about the data."""
        return [
            {"role": role, "name": d.info.name, "path": str(d.root.resolve()), "digest": d.digest}
            for role, d in self._with_roles()
        ]

    def resume_key(self) -> dict[str, Any]:
        """What a resumed run must find unchanged, by a name that a message can show."""
        rows = {f"{role} {n} ({d.info.name})": d.digest for n, (role, d) in enumerate(self._with_roles())}
        names = self.space.names
        folded = [f"{names[fine]} as {names[coarse]}" for fine, coarse in sorted(self.folds.items())]
        return {**rows, "classes": [*self.space.names_of(self.classes), *folded]}

    def held_back(self) -> PreparedDataset | None:
        """The set with labels in a `val` split that training scores and never learns from."""
        if self.val is not None:
            return self.val
        return next((dataset for dataset in self.targets if _has_labelled_val(dataset, self.classes)), None)

    def warnings(self) -> list[str]:
        """What is possible and most likely not meant, a sentence each."""
        found, sources = [], {d.root.resolve(): d for d in self.sources}
        for dataset in self.targets:
            same = sources.get(dataset.root.resolve())
            same = same or next((d for d in self.sources if d.digest == dataset.digest), None)
            if same is not None:
                found.append(shown(f"target {dataset.root} is also a source: there is nothing to adapt to"))
        for role, dataset in self._with_roles():
            if role in ("source", "target") and dataset.info.splits.get("train") == 1:
                found.append(shown(f"{role} {dataset.root} has a single frame to train on"))
        return found

    def with_recorded_classes(self, recorded: list[str]) -> TrainingData:
        """The same data with the classes of a training state, whatever rule they came from.

        Args:
            recorded: `classes` of `resume_key`: names, and `fine as coarse` for folded ones.
        """
        ids = {name: i for i, name in enumerate(self.space.names)}
        names = [text for text in recorded if text in ids]
        pairs = [text.partition(" as ") for text in recorded if text not in ids]
        if not all(fine in ids and coarse in ids for fine, _, coarse in pairs):
            return self
        folds = {ids[fine]: ids[coarse] for fine, _, coarse in pairs}
        return replace(self, classes=self.space.ids_of(names), folds=folds)

    def _with_roles(self) -> list[tuple[str, PreparedDataset]]:
        parts = (
            ("source", self.sources), ("target", self.targets), ("labelled", self.labelled), ("answers", self.answers),
        )  # fmt: skip
        return [(role, dataset) for role, datasets in parts for dataset in datasets]


def open_data(
    sources: list[Path],
    targets: list[Path],
    *,
    val: Path | None = None,
    start: ModelHeader | None = None,
    names: Sequence[str] | None = None,
    labelled: Sequence[Path] = (),
    answers: Sequence[Path] = (),
) -> TrainingData:
    """Open the data sets of a run and check that they go together.

    Trained are the classes that any source knows or a labelled set shows; with a start file, those that the file knows.
    Labels of targets never change that: predictions are folded when they are scored.

    Args:
        sources: Folders of labelled prepared data sets.
        targets: Folders of target data sets.
        val: Folder of the data set that is scored during training, apart from the targets.
        start: Header of the model file that training starts from.
        names: Train these classes only.
        labelled: Folders of data sets of the target's domain with any labelled pixels, which are learnt.
        answers: The same with labels that a model gave.

    Raises:
        IccldError: A folder is not a prepared data set, a source or labelled set has no labels, label spaces differ, or
            a class is not among those that can be trained.
    """
    opened_sources = [PreparedDataset(p) for p in sources]
    opened_targets = [PreparedDataset(p) for p in targets]
    marked, answered = [PreparedDataset(p) for p in labelled], [PreparedDataset(p) for p in answers]
    scored = None if val is None else PreparedDataset(val)
    if not opened_sources:
        raise IccldError("no source data set", "name at least one with --source")
    space = opened_sources[0].info.label_space
    _check_spaces([*opened_sources, *opened_targets, *marked, *answered, *([scored] if scored else [])], start)
    for dataset in opened_sources:
        if dataset.info.classes_known is None:
            raise IccldError(
                f"source {dataset.root} has no labels", "a source needs labels; give it as --target instead"
            )
    known: set[int] = set()
    for dataset in opened_sources:  # several sources complete each other
        known |= set(dataset.info.known_ids() or ())
    for dataset in (*marked, *answered):
        known |= _shown(dataset)
    possible = known if start is None else set(start.classes)
    classes = tuple(sorted(possible)) if names is None else _chosen(names, possible, space)
    if not known & set(classes):
        raise IccldError(
            "the sources know none of the classes that are to be trained", "see what they know with `iccld inspect`"
        )
    if scored is not None and not _has_labelled_val(scored, classes):
        raise IccldError(
            f"{scored.root} has no labelled frames in a split `val` of classes that are trained",
            "give another set with --val",
        )
    judges = [*([scored] if scored else []), *opened_targets]
    folds = _folds(judges, classes, known, space)
    notes = _notes(space, classes, known, folds, start)
    return TrainingData(opened_sources, opened_targets, space, classes, folds, scored, notes, marked, answered)


def _shown(dataset: PreparedDataset) -> set[int]:
    """Classes that the training labels of a labelled set show: of all that its label map names, a few points show few.

    Raises:
        IccldError: There is no label.
    """
    frames = [frame for frame in dataset.frames("train") if frame.label is not None]
    if not frames:
        raise IccldError(
            f"{dataset.root} has no labelled frame in its split `train`",
            "prepare it with its --masks",
        )
    found: set[int] = set()
    for frame in frames:
        found |= (frame.pixels or {}).keys()
        if frame.pixels is None:
            found |= set(dataset.info.known_ids() or ())
    return found - {IGNORE}


def _covers(dataset: PreparedDataset, space: LabelSpace) -> dict[int, int]:
    ids = {name: i for i, name in enumerate(space.names)}
    return {ids[fine]: ids[coarse] for fine, coarse in dataset.info.covers.items()}


def _chosen(names: Sequence[str], possible: set[int], space: LabelSpace) -> tuple[int, ...]:
    ids = space.ids_of(names)
    missing = [space.names[i] for i in ids if i not in possible]
    if missing:
        known = ", ".join(space.names_of(sorted(possible)))
        raise IccldError(f"{', '.join(missing)} cannot be trained here", f"choose among {known}")
    return ids


def _folds(
    judges: Iterable[PreparedDataset], classes: Sequence[int], known: set[int], space: LabelSpace
) -> dict[int, int]:
    """Classes of the sources that are not trained -> trained ones that include them in the labels of a scored set."""
    pairs = [pair for dataset in judges for pair in _covers(dataset, space).items()]
    return {fine: coarse for fine, coarse in pairs if fine in known and fine not in classes and coarse in classes}


def _notes(
    space: LabelSpace, classes: Sequence[int], known: set[int], folds: dict[int, int], start: ModelHeader | None
) -> tuple[str, ...]:
    """What is said of classes that only some of the parts know."""
    if start is None:
        return ()
    notes = []
    ignored = sorted(known - set(start.classes) - set(folds))
    if ignored:
        notes.append(f"the start file does not know {', '.join(space.names_of(ignored))}: these labels are ignored")
    alone = sorted(set(classes) - known)
    if alone:
        notes.append(f"no source knows {', '.join(space.names_of(alone))}: only pseudo-labels keep them")
    return tuple(notes)


def _check_spaces(datasets: Sequence[PreparedDataset], start: ModelHeader | None) -> None:
    first = datasets[0]
    for dataset in datasets[1:]:
        if dataset.info.label_space.names != first.info.label_space.names:
            raise IccldError(
                f"{dataset.root} has label space {dataset.info.label_space.name!r}, {first.root} has "
                f"{first.info.label_space.name!r}",
                "prepare both with the same label space",
            )
    if start is not None and start.label_space.names != first.info.label_space.names:
        raise IccldError(
            f"the start file has label space {start.label_space.name!r}, {first.root} has "
            f"{first.info.label_space.name!r}",
            "prepare the data in the model's label space",
        )


def _has_labelled_val(dataset: PreparedDataset, classes: Iterable[int]) -> bool:
    """Whether a set has pixels of these classes, or of ones that they stand for, in labels of a split `val`."""
    if not dataset.info.splits.get("val"):
        return False
    frames = [frame for frame in dataset.iter_frames("val") if frame.label]
    return bool(frames) and labelled_pixels(frames, tuple(classes)) != 0
