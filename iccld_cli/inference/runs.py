"""Several models, or one with several settings, scored on the same frames and compared with the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iccld_cli import __version__
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.evaluate import Scope, Scoring, check_label_space, chosen_classes, evaluate, scored_classes
from iccld_cli.inference.evaluation import Evaluation, difference, grouped
from iccld_cli.inference.model import Model, Sampling, load_model
from iccld_cli.inference.scoreparts import PIECE, JoinedParts, PartFile, part_files, read_head, share_of


class Contest:
    """Runs over one split: every model file with every sampling, in this order.

    Attributes:
        dataset: What is scored on.
        names: What tells each run from the others; empty texts for a single run.
        files: Model file of each run.
        results: The runs that are done, in the order of `names`.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        files: Sequence[Path],
        samplings: Sequence[Sampling],
        device: str = "auto",
        backend: str = "torch",
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open the models; all are, so that a damaged file is told before hours of scoring.

        Args:
            dataset: What is scored on.
            files: Model files, each once.
            samplings: How they answer.
            device: See `load_model`.
            backend: See `load_model`.
            tell: See `load_model`.

        Raises:
            IccldError: See `load_model`; or a model's label space is not the data set's.
        """
        self.dataset = dataset
        self.files = [file for file in files for _ in samplings]
        self.results: list[Evaluation] = []
        self._samplings = [sampling for _ in files for sampling in samplings]
        self._models: list[Model] = []
        for file in files:
            opened: dict[int | None, Model] = {}  # OpenVINO's graph has one number of steps
            for sampling in samplings:
                key = None if backend in ("torch", "compiled") else sampling.steps
                if key not in opened:
                    opened[key] = load_model(file, device, backend=backend, sampling=sampling, tell=tell)
                    check_label_space(opened[key].header.label_space, dataset)
                opened[key].settle(sampling)
                self._models.append(opened[key])
        self.names = _names(files, [sampling.steps for sampling in samplings])

    def model(self, number: int) -> Model:
        """The model of a run."""
        return self._models[number]

    def sampling(self, number: int) -> Sampling:
        """How a run's model answers."""
        return self.model(number).settle(self._samplings[number])

    def classes(self, names: str | None = None) -> tuple[int, ...]:
        """TrainIds on which all models can be scored, or those of them that are named.

        Args:
            names: See `chosen_classes`; None for all.

        Raises:
            IccldError: There are none, or a named one is not among them.
        """
        known = [set(scored_classes(model.header.classes, self.dataset)) for model in self._models]
        common = sorted(set.intersection(*known))
        if names is not None:
            return chosen_classes(names, common, self.dataset.info.label_space)
        return tuple(common) if common else scored_classes((), self.dataset)

    def run(self, number: int, scope: Scope, progress: Callable[[int, int], None] | None = None) -> None:
        """Score the next run.

        Args:
            number: Its place in `names`.
            scope: What is scored.
            progress: See `evaluate`.

        Raises:
            IccldError: See `evaluate`.
        """
        assert number == len(self.results)
        sampling = self._samplings[number]
        self.results.append(evaluate(self.model(number), self.dataset, scope, sampling, progress))

    def head(self, scope: Scope) -> dict[str, Any]:
        """What all parts of the scores must agree on, JSON-ready."""
        runs = []
        for number in range(len(self.names)):
            model, sampling = self.model(number), self.sampling(number)
            settings = [sampling.steps, sampling.samples, sampling.seed, list(sampling.scales), sampling.flip]
            runs.append([model.header.sha256, *settings, sampling.average, sampling.height, model.precision])
        return {
            "version": __version__,
            "data": self.dataset.digest,
            "split": scope.split,
            "classes": None if scope.classes is None else list(scope.classes),
            "rule": scope.rule,
            "limit": scope.limit,
            "batch size": scope.batch_size,
            "backend": [self.model(number).backend for number in range(len(self.names))],
            "device": [self.model(number).device.partition(":")[0] for number in range(len(self.names))],
            "runs": runs,
        }

    def run_part(
        self, number: int, scope: Scope, file: PartFile, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Score a part's share of a run, and keep it.

        Args:
            number: Place of the run in `names`.
            scope: What is scored.
            file: The part's.
            progress: See `evaluate`.

        Returns:
            How many frames the part has of the run.

        Raises:
            IccldError: See `evaluate`.
        """
        work = Scoring(self.model(number), self.dataset, scope, self._samplings[number])
        mine = share_of(file.part, len(work.frames))
        todo = [piece for piece in mine if not file.has(number, piece)]
        work.run(todo, progress, lambda piece, state: file.add(number, piece, state))
        return sum(min(len(work.frames), (piece + 1) * PIECE) - piece * PIECE for piece in mine)

    def head_of_parts(self, scope: Scope, scores: Path) -> dict[str, Any]:
        """What all parts must agree on, with the machine of the first one: joining needs no machine of its kind.

        Args:
            scope: What is scored.
            scores: File of the joined scores.

        Raises:
            IccldError: A part is damaged.
        """
        head = self.head(scope)
        files = part_files(scores)
        if files:
            first = read_head(files[0])
            kinds: list[Any] = [first.get("backend"), first.get("device"), first.get("runs")]
            if all(isinstance(kind, list) and len(kind) == len(self.names) for kind in kinds):
                head["backend"], head["device"] = kinds[0], kinds[1]
                for run, other in zip(head["runs"], kinds[2], strict=True):
                    if isinstance(other, list) and other:
                        run[-1] = other[-1]
        return head

    def join(self, scope: Scope, parts: JoinedParts, head: Mapping[str, Any]) -> None:
        """Take in all runs from parts.

        Args:
            scope: What is scored.
            parts: All of them.
            head: See `head_of_parts`.

        Raises:
            IccldError: One is damaged.
        """
        for number in range(len(self.names)):
            work = Scoring(self.model(number), self.dataset, scope, self._samplings[number])
            for piece, state in parts.states(number):
                try:
                    work.restore(piece, state)
                except (ValueError, KeyError, TypeError) as error:
                    raise IccldError(
                        f"piece {piece} in {parts.folder} is damaged ({error})",
                        "remove its file and run that part again",
                    ) from None
            backend, precision = str(head["backend"][number]), str(head["runs"][number][-1])
            self.results.append(replace(work.result(), backend=backend, precision=precision))

    def to_json(self, by: str | None = None, groups: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """What `--json` writes: the first run, and all of them under `runs`.

        Args:
            by: What the frames were grouped by.
            groups: Name -> positions of frames; None for no groups.
        """
        runs = []
        for number, result in enumerate(self.results):
            header = self.model(number).header
            facts = {"file": str(self.files[number]), "stage": header.stage, "sha256": header.sha256}
            runs.append({**result.to_json(), "model": facts, "data_digest": self.dataset.digest})
            if number:
                runs[-1]["difference"] = difference(self.results[0], result)
        if by is not None and groups is not None:
            for run, table in zip(runs, grouped(self.results, by, groups), strict=True):
                run["by"] = table
        return {**runs[0], "runs": runs}


def _names(files: Sequence[Path], steps: Sequence[int | None]) -> list[str]:
    """As short as tells the runs apart."""
    stems = [file.stem for file in files]
    for depth in (1, 2, 3):
        if len(set(stems)) == len(stems):
            break
        stems = ["/".join([*file.parts[-1 - depth : -1], file.stem]) for file in files]
    if len(set(stems)) < len(stems):
        stems = [str(file) for file in files]
    words = ["" if number is None else f"{number} step{'s' * (number != 1)}" for number in steps]
    if len(files) == 1 and len(words) == 1:
        return [""]
    return [
        ", ".join(part for part in (stem if len(files) > 1 else "", word if len(words) > 1 else "") if part)
        for stem in stems
        for word in words
    ]
