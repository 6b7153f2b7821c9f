"""`iccld evaluate --engine ray`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.fleet.cluster import NETWORKS, PACKAGES, connected
from iccld_cli.fleet.common import failed_parts, named, relative_to_here, token_in
from iccld_cli.fleet.engine import Progress, parts_for, run_parts, usable_nodes, workers_of
from iccld_cli.fleet.fetched import FetchedDataset, as_given, model_file, open_dataset
from iccld_cli.fleet.predicting import file_digest
from iccld_cli.fleet.work import Fleet, PartsFailedError, Place
from iccld_cli.fleet.work import Progress as PartProgress
from iccld_cli.inference.evaluate import Scope, labelled_frames
from iccld_cli.inference.model import Sampling
from iccld_cli.inference.runs import Contest
from iccld_cli.inference.scoreparts import PIECE, PartFile, folder_of, part_files, pieces, read_head, share_of
from iccld_cli.parts import Part


@dataclass
class ScoreWork:
    """Parts of scores.

    Attributes:
        data: The prepared data set, as it was given.
        ckpts: The models, as they were given.
        samplings: How they answer.
        backend: See `load_model`.
        scope: What is scored.
        scores: File of the joined scores, beside which the parts lie.
        target: The same in object storage.
        token: A file that every node must see, beside the parts; None with a `target`.
    """

    data: str
    ckpts: Sequence[str | None]
    samplings: Sequence[Sampling]
    backend: str
    scope: Scope
    scores: Path
    target: str | None
    token: Path | None
    _contest: Contest | None = field(default=None, repr=False)

    def open(self, place: Place) -> Mapping[str, Any]:
        """Open the data set and load the models."""
        if self.token is not None and not self.token.is_file():
            raise IccldError(
                f"it does not see the folder {self.token.parent}",
                "give a --json that all nodes share, or one in object storage",
            )
        dataset = open_dataset(self.data, place.scratch)
        files = list(dict.fromkeys(model_file(given, place.scratch) for given in self.ckpts))
        self._contest = Contest(dataset, files, self.samplings, place.device, self.backend, tell=place.tell)
        models = [self._contest.model(number) for number in range(len(self._contest.names))]
        return {
            "the data set": dataset.digest[:12],
            "the model files": [file_digest(file) for file in files],
            "the backend": [model.backend for model in models],
            "the device": [model.device.partition(":")[0] for model in models],
            "the precision": [model.precision for model in models],
        }

    def do(self, part: Part, place: Place, progress: PartProgress) -> int:
        """Score a part."""
        contest = self._contest
        assert contest is not None
        dataset = contest.dataset
        scores = self.scores if self.target is None else place.scratch / storage.name_below(self.target)
        file = folder_of(scores) / f"{part.name}.jsonl"
        fetched: list[Path] = []
        places = [(scores, self.target)] if self.target is not None else []
        if isinstance(dataset, FetchedDataset):
            places.append((dataset.root, dataset.url))
        try:
            with named(*places):
                if self.target is not None and storage.entry(stored_part(self.target, part)) is not None:
                    storage.fetch(stored_part(self.target, part), file)
                if isinstance(dataset, FetchedDataset):
                    frames = labelled_frames(dataset, self.scope.split, self.scope.limit)
                    share = share_of(part, len(frames))
                    fetched = dataset.fetch(frames[at] for piece in share for at in _positions(piece, len(frames)))
                total = self._score(contest, scores, part, progress)
                if self.target is not None:
                    storage.send_all([(file, stored_part(self.target, part))])
                return total
        finally:
            for path in fetched:
                path.unlink(missing_ok=True)
            if self.target is not None:
                shutil.rmtree(folder_of(scores), ignore_errors=True)

    def _score(self, contest: Contest, scores: Path, part: Part, progress: PartProgress) -> int:
        runs, done = len(contest.names), 0

        def told(now: int, all_of_run: int) -> None:
            progress(done + now, all_of_run * runs)

        with PartFile(scores, part, contest.head(self.scope)) as kept:
            for number in range(runs):
                done += contest.run_part(number, self.scope, kept, told)
        return done


def stored_part(target: str, part: Part) -> str:
    """Address of a part's file."""
    return storage.join(f"{target}.parts", f"{part.name}.jsonl")


def _positions(piece: int, frames: int) -> range:
    return range(piece * PIECE, min((piece + 1) * PIECE, frames))


def score_with_ray(
    contest: Contest,
    scope: Scope,
    scores: Path,
    data: Path | str,
    ckpts: Sequence[Path | None],
    samplings: Sequence[Sampling],
    fleet: Fleet,
    *,
    target: str | None = None,
    device: str = "auto",
    backend: str = "torch",
    progress: Callable[[Progress], None] = lambda found: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Make the parts of scores on the machines of a cluster, for `scoreparts.JoinedParts` to join.

    Args:
        contest: The data set and the models, as this machine sees them.
        scope: What is scored.
        scores: File of the joined scores; the parts lie beside it in the end.
        data: The data set, as it was given; it must lie where every node finds it, or in object storage.
        ckpts: The models, as they were given; the same holds for them.
        samplings: How they answer.
        fleet: Which machines.
        target: The file of scores in object storage; `scores` then lies on this machine alone.
        device: `auto`, `cpu` or `cuda`.
        backend: See `load_model`.
        progress: Called a few times a second.
        tell: Called with a line when something goes wrong that can be mended, and by models.

    Raises:
        IccldError: See `evaluate` and `engine.run_parts`; or some parts failed. The others stay, and the same call goes
            on with what is left.
    """
    frames = len(labelled_frames(contest.dataset, scope.split, scope.limit))
    if target is not None:
        storage.fetch_all(
            (storage.join(f"{target}.parts", name), folder_of(scores) / name)
            for name in storage.listing(f"{target}.parts")
            if Part.named(Path(name))
        )
    begun = [int(read_head(path)["parts"]) for path in part_files(scores)]
    files = list(dict.fromkeys(contest.files))
    expected = {
        "the data set": contest.dataset.digest[:12],
        "the model files": [file_digest(file) for file in files],
    }
    with connected(fleet.address) as cluster:
        workers = workers_of(usable_nodes(cluster.nodes(), device), device, fleet)
        where = str(folder_of(scores))
        count = parts_for(fleet, workers, begun[0] if begun else None, where, len(pieces(frames)))
        shares = {part: share_of(part, frames) for part in (Part(number, count) for number in range(1, count + 1))}
        weights = {
            part: len(contest.names) * sum(len(_positions(piece, frames)) for piece in share)
            for part, share in shares.items()
        }
        given = [Path(ckpt) for ckpt in ckpts if ckpt is not None and Path(ckpt).exists()]
        folder = relative_to_here(*given, *([] if storage.url_of(data) else [data]), *([] if target else [scores]))
        with token_in(folder_of(scores) if target is None else None) as token:
            work = ScoreWork(
                storage.url_of(data) or str(data),
                [as_given(ckpt) for ckpt in ckpts],
                samplings,
                backend,
                scope,
                scores,
                target,
                token,
            )
            try:
                run_parts(
                    cluster,
                    work,
                    [part for part, weight in weights.items() if weight],
                    fleet=fleet,
                    packages=(*PACKAGES, *NETWORKS),
                    device=device,
                    weights=weights,
                    folder=folder,
                    expected=expected,
                    progress=progress,
                    tell=tell,
                )
            except PartsFailedError as error:
                raise failed_parts(error) from None
    if target is not None:
        made = [part for part, weight in weights.items() if weight]
        storage.fetch_all((stored_part(target, part), folder_of(scores) / f"{part.name}.jsonl") for part in made)


def remove_stored_parts(target: str) -> None:
    """Remove the parts of scores from object storage."""
    found = storage.listing(f"{target}.parts")
    storage.remove_all([storage.join(f"{target}.parts", name) for name in found if Part.named(Path(name))])
