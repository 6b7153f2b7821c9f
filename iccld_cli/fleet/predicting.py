"""`iccld predict --engine ray`."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.fleet.cluster import NETWORKS, PACKAGES, Cluster, connected, import_ray
from iccld_cli.fleet.common import failed_parts, named, relative_to_here, rename, token_in
from iccld_cli.fleet.engine import Progress, parts_for, run_parts, usable_nodes, workers_of
from iccld_cli.fleet.fetched import as_given, model_file
from iccld_cli.fleet.stored import PUBLISHING, PartFolder, Target, lay_out, mirror, publish, version
from iccld_cli.fleet.work import Fleet, PartsFailedError, Place
from iccld_cli.fleet.work import Progress as PartProgress
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.merge import holds_parts, merge
from iccld_cli.inference.model import Model, load_model
from iccld_cli.inference.parts import INPUTS, Cut, cut, part_folders, read_head
from iccld_cli.inference.predict import chosen_inputs, predict, without_existing
from iccld_cli.inference.predict_options import PredictOptions, Summary
from iccld_cli.parts import FOLDER, Part
from iccld_cli.storage import Entry, join, name_below, shown_address

_SHOWN = 3


@dataclass
class PredictWork:
    """Parts of predictions.

    Attributes:
        shared: How the inputs are shared among the parts.
        options: What is predicted of them; `out` is read where there is no `target`.
        ckpt: The model, as it was given.
        backend: See `load_model`.
        token: A file that every node must see, beside the parts; None with a `target`.
        target: Output folder in object storage.
        existing: What lies there already, by names.
    """

    shared: Cut
    options: PredictOptions
    ckpt: str | None
    backend: str
    token: Path | None
    target: str | None = None
    existing: Mapping[str, Entry] = field(default_factory=dict)
    _model: Model | None = field(default=None, repr=False)

    def open(self, place: Place) -> Mapping[str, Any]:
        """Load the model."""
        if self.token is not None and not self.token.is_file():
            raise IccldError(
                f"it does not see the folder {self.options.out}",
                "give an --out that all nodes share, or one in object storage",
            )
        file = model_file(self.ckpt, place.scratch)
        model = load_model(file, place.device, backend=self.backend, sampling=self.options.sampling, tell=place.tell)
        self._model = model
        if self.target is not None:
            self.options = replace(self.options, out=place.scratch / name_below(self.target))
            mirror(self.existing, self.options.out, self.target)
        return facts_of(file, model)

    def do(self, part: Part, place: Place, progress: PartProgress) -> int:
        """Predict a part."""
        if self.target is None:
            return self._do(part, place, progress)
        folder = PartFolder(self.target, self.options.out, part)
        try:
            with named((self.options.out, self.target)):
                done = folder.restore()
                found = self._do(part, place, progress)
                if not done:
                    folder.hand_over()
                return found
        finally:
            shutil.rmtree(folder.folder, ignore_errors=True)

    def _do(self, part: Part, place: Place, progress: PartProgress) -> int:
        assert self._model is not None
        for position in self.shared.of(part).mine:
            self._refuse_other(position)
        found = predict(
            self._model, self.shared.inputs, self.options, progress, place.tell, part=part, shared=self.shared
        )
        return found.images + found.frames or self.shared.weights[part.number - 1]

    def _refuse_other(self, position: int) -> None:
        """Refuse an input that is not what the cut was made of: this node may see other files."""
        item, size = self.shared.inputs[position], self.shared.sizes[position]
        if item.source is not None or not size:
            return
        try:
            found = item.path.stat().st_size
        except OSError:
            raise IccldError(
                f"{item.where} is not there as this node sees it", "put inputs where all nodes see them"
            ) from None
        if found != size:
            raise IccldError(
                f"{item.where} has {found} bytes as this node sees it, not {size}",
                "put inputs where all nodes see them",
            )


def facts_of(file: Path, model: Model) -> dict[str, Any]:
    """What must be equal on all nodes for their results to be."""
    return {
        "the model file": file_digest(file),
        "the model": model.digest[:12],
        "the backend": model.backend,
        "the device": model.device.partition(":")[0],
        "the precision": model.precision,
    }


def file_digest(file: Path) -> str:
    """The first letters of the sha256 of a model file, of an `.xml` with its `.bin`."""
    total = hashlib.sha256()
    for path in (file, file.with_suffix(".bin")) if file.suffix == ".xml" else (file,):
        try:
            with open(path, "rb") as opened:
                while piece := opened.read(1 << 20):
                    total.update(piece)
        except OSError as error:
            raise IccldError(f"{path} cannot be read ({error.strerror})", "check the model file") from None
    return total.hexdigest()[:12]


def predict_with_ray(
    items: Sequence[Input],
    ckpt: Path | str | None,
    options: PredictOptions,
    fleet: Fleet,
    *,
    target: str | None = None,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[Progress], None] = lambda found: None,
    tell: Callable[[str], None] = lambda line: None,
    joining: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Summary, int]:
    """Predict a list of inputs on the machines of a cluster, as `predict` does on one.

    Args:
        items: From `inputs.collect`; files must lie where every node finds them, or in object storage.
        ckpt: See `model_file`; a file must lie where every node finds it.
        options: What to do; `out` must lie where every node finds it.
        fleet: Which machines.
        target: Output folder in object storage, in place of `options.out`.
        device: `auto`, `cpu` or `cuda`.
        backend: See `load_model`.
        progress: Called a few times a second.
        tell: Called with a line when something goes wrong that can be mended, and by models.
        joining: Called with inputs joined, and inputs in all.

    Returns:
        What a single run returns, and in how many parts it was made.

    Raises:
        IccldError: See `predict` and `engine.run_parts`; or some parts failed. The others stay, and the same call goes
            on with what is left.
    """
    import_ray()  # told before anything is looked at
    if any(item.live for item in items):
        raise IccldError("--engine ray cannot go with streams and cameras", "record them first, or leave it out")
    with tempfile.TemporaryDirectory(prefix="iccld-") as scratch:
        stored = None
        if target is not None:
            stored = Target(target)
            options = replace(options, out=Path(scratch) / name_below(target))
        out = options.out
        job = _Job(items, ckpt, options, fleet, device, backend, stored, Path(scratch), progress, tell, joining)
        with named(*([(out, target)] if target is not None else [])):
            return job.run()


@dataclass
class _Job:
    items: Sequence[Input]
    ckpt: Path | str | None
    options: PredictOptions
    fleet: Fleet
    device: str
    backend: str
    stored: Target | None
    scratch: Path
    progress: Callable[[Progress], None]
    tell: Callable[[str], None]
    joining: Callable[[int, int], None]

    def run(self) -> tuple[Summary, int]:
        """All of it."""
        options, out, stored = self.options, self.options.out, self.stored
        if stored is None and not part_folders(out) and holds_parts(out):
            return merge(out, [], progress=self.joining)  # a join was killed while it removed its parts
        if stored is not None and stored.joined():
            self.tell("an earlier run had joined all; what it left of its parts is removed")
            stored.remove_parts()
            return Summary(0, 0, 0, ()), 0
        chosen = chosen_inputs(self.items, options)
        begun = begun_parts(out) if stored is None else stored.begun()
        old: dict[Path, tuple[int, int]] = {}
        if stored is not None:
            mirror(stored.results, out, stored.url)
            old = {path: version(path) for path in out.rglob("*") if path.is_file()}
        if begun is None:
            without_existing(chosen, chosen, options)  # told before a cluster is bothered
        file = model_file(self.ckpt, self.scratch)
        expected = {"the model file": file_digest(file)}
        with connected(self.fleet.address) as cluster:
            workers = workers_of(usable_nodes(cluster.nodes(), self.device), self.device, self.fleet)
            where = str(out / FOLDER)
            shared = cut(chosen, options, parts_for(self.fleet, workers, begun, where))
            if begun is None and self.fleet.parts is None and shared.pieces < len(shared.weights):
                shared = cut(chosen, options, max(1, shared.pieces))
            if stored is None:
                refuse_other_inputs(out, shared)
            else:
                refuse_other_stored_inputs(stored, shared)
            with token_in(out / FOLDER if stored is None else None) as token:
                self._make(cluster, shared, expected, token)
        return self._join(old)

    def _make(self, cluster: Cluster, shared: Cut, expected: Mapping[str, Any], token: Path | None) -> None:
        """Make all parts."""
        options, stored, out = self.options, self.stored, self.options.out
        if stored is not None:
            lines = shared.of(Part(1, len(shared.weights))).lines()
            storage.write(join(stored.url, FOLDER, INPUTS), lines.encode("utf-8", "backslashreplace"))
        files = [item.path for item in shared.inputs if item.source is None]
        if options.ignore not in (None, "auto"):
            files.append(Path(str(options.ignore)))
        if self.ckpt is not None and Path(self.ckpt).exists():
            files.append(Path(self.ckpt))
        folder = relative_to_here(*files, *([out] if stored is None else []))
        work = PredictWork(
            shared,
            options,
            as_given(self.ckpt),
            self.backend,
            token,
            None if stored is None else stored.url,
            {} if stored is None or stored.publishing else stored.results,
        )
        weights = {Part(number, len(shared.weights)): weight for number, weight in enumerate(shared.weights, 1)}
        try:
            run_parts(
                cluster,
                work,
                [part for part, weight in weights.items() if weight],
                fleet=self.fleet,
                packages=(*PACKAGES, *NETWORKS),
                device=self.device,
                weights=weights,
                folder=folder,
                expected=expected,
                progress=self.progress,
                tell=self.tell,
            )
        except PartsFailedError as error:
            raise failed_parts(error, inputs_of(shared)) from None

    def _join(self, old: Mapping[Path, tuple[int, int]]) -> tuple[Summary, int]:
        options, out, stored = self.options, self.options.out, self.stored
        if stored is None:
            return merge(
                out, [], overwrite=options.overwrite, skip_existing=options.skip_existing, progress=self.joining
            )
        stored.look()
        source = lay_out(stored, out)
        over = options.overwrite or stored.publishing
        found = merge(out, [], overwrite=over, skip_existing=options.skip_existing)
        storage.write(join(stored.url, FOLDER, PUBLISHING), b"")
        publish(stored, out, source, old, self.joining)
        stored.remove_parts()
        for _, problem in found[0].problems:
            rename(problem, (out, stored.url))
        return found


def refuse_other_stored_inputs(stored: Target, shared: Cut) -> None:
    """Refuse to go on with parts of other inputs.

    Raises:
        IccldError: Those in the store are.
    """
    if stored.begun() is not None and stored.inputs_digest() not in (None, shared.digest):
        raise IccldError(
            f"{shown_address(join(stored.url, FOLDER))} holds parts of another run (of other inputs)",
            "give another --out, or remove them",
        )


def begun_parts(out: Path) -> int | None:
    """Of how many parts an unfinished work in a folder is; None where there is none."""
    folders = part_folders(out)
    return int(read_head(folders[0])["part"][1]) if folders else None


def refuse_other_inputs(out: Path, shared: Cut) -> None:
    """Refuse to go on with parts of other inputs.

    Raises:
        IccldError: Those below `out` are.
    """
    for folder in part_folders(out):
        if read_head(folder)["inputs"] != shared.digest:
            raise IccldError(
                f"{folder} is another run's part (of other inputs)", "give another --out, or remove that folder"
            )


def inputs_of(shared: Cut) -> Callable[[Part], str]:
    """A function that names the inputs of a part."""

    def named(part: Part) -> str:
        mine = shared.of(part).mine
        words = ", ".join(shared.inputs[position].where for position in mine[:_SHOWN])
        return words if len(mine) <= _SHOWN else f"{words} and {len(mine) - _SHOWN} more"

    return named
