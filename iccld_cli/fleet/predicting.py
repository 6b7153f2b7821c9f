"""`iccld predict --engine ray`."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.fleet.cluster import NETWORKS, PACKAGES, connected
from iccld_cli.fleet.engine import Progress, parts_for, run_parts, usable_nodes, workers_of
from iccld_cli.fleet.work import Fleet, PartsFailedError, Place
from iccld_cli.fleet.work import Progress as PartProgress
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.merge import holds_parts, merge
from iccld_cli.inference.model import Model, find_model, load_model
from iccld_cli.inference.parts import Cut, cut, part_folders, read_head
from iccld_cli.inference.predict import chosen_inputs, predict, without_existing
from iccld_cli.inference.predict_options import PredictOptions, Summary
from iccld_cli.parts import FOLDER, Part, listed

_SHOWN = 3


@dataclass
class PredictWork:
    """Parts of predictions.

    Attributes:
        shared: How the inputs are shared among the parts.
        options: What is predicted of them.
        ckpt: The model, as it was given.
        backend: See `load_model`.
        token: A file that every node must see, beside the parts.
    """

    shared: Cut
    options: PredictOptions
    ckpt: str | None
    backend: str
    token: Path
    _model: Model | None = field(default=None, repr=False)

    def open(self, place: Place) -> Mapping[str, Any]:
        """Load the model."""
        if not self.token.is_file():
            raise IccldError(
                f"it does not see the folder {self.options.out}",
                "give an --out that all nodes share, or object storage",
            )
        file = find_model(self.ckpt)
        model = load_model(file, place.device, backend=self.backend, sampling=self.options.sampling, tell=place.tell)
        self._model = model
        return facts_of(file, model)

    def do(self, part: Part, place: Place, progress: PartProgress) -> int:
        """Predict a part."""
        assert self._model is not None
        plan = self.shared.of(part)
        for position in plan.mine:
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


def relative_to_here(*paths: Path | str | None) -> str | None:
    """This folder, where one of the paths counts from it."""
    return None if all(path is None or os.path.isabs(path) for path in paths) else os.getcwd()


def predict_with_ray(
    items: Sequence[Input],
    ckpt: Path | str | None,
    options: PredictOptions,
    fleet: Fleet,
    *,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[Progress], None] = lambda found: None,
    tell: Callable[[str], None] = lambda line: None,
    joining: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Summary, int]:
    """Predict a list of inputs on the machines of a cluster, as `predict` does on one.

    Args:
        items: From `inputs.collect`.
        ckpt: See `find_model`; the file must lie where every node finds it.
        options: What to do. Inputs and `out` must lie where every node finds them.
        fleet: Which machines.
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
    if any(item.live for item in items):
        raise IccldError("--engine ray cannot go with streams and cameras", "record them first, or leave it out")
    out = options.out
    if not part_folders(out) and holds_parts(out):  # a join was killed while it removed its parts
        return merge(out, [], progress=joining)
    chosen = chosen_inputs(items, options)
    begun = begun_parts(out)
    if begun is None:
        without_existing(chosen, chosen, options)  # told before a cluster is bothered
    model_file = None if ckpt is None else str(ckpt)
    expected = {"the model file": file_digest(find_model(ckpt))}
    with connected(fleet.address) as cluster:
        workers = workers_of(usable_nodes(cluster.nodes(), device), device, fleet)
        shared = cut(chosen, options, parts_for(fleet, workers, begun, str(out / FOLDER)))
        if begun is None and fleet.parts is None and shared.pieces < len(shared.weights):
            shared = cut(chosen, options, max(1, shared.pieces))
        refuse_other_inputs(out, shared)
        token = out / FOLDER / f".fleet-{secrets.token_hex(8)}"
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
        given = [item.path for item in chosen if item.source is None]
        ignore = None if options.ignore in (None, "auto") else options.ignore
        folder = relative_to_here(out, ignore, *given, *([] if not is_path(ckpt) else [ckpt]))
        work = PredictWork(shared, options, model_file, backend, token)
        weights = {Part(number, len(shared.weights)): weight for number, weight in enumerate(shared.weights, 1)}
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
            raise failed_parts(error, inputs_of(shared)) from None
        finally:
            token.unlink(missing_ok=True)
            for folder_left in (token.parent, out):
                if not any(folder_left.iterdir()):
                    folder_left.rmdir()
    return merge(out, [], overwrite=options.overwrite, skip_existing=options.skip_existing, progress=joining)


def is_path(ckpt: Path | str | None) -> bool:
    """Whether a model is given as a path, and not as a name or an id."""
    return ckpt is not None and Path(ckpt).exists()


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


def failed_parts(error: PartsFailedError, named: Callable[[Part], str] | None = None) -> IccldError:
    """What to say of parts that could not be made."""
    parts = sorted(error.failed, key=lambda part: part.number)
    first = error.failed[parts[0]]
    numbers = listed([part.number for part in parts])
    what = f"part{'s' * (len(parts) > 1)} {numbers} of {parts[0].of}"
    holds = f" ({named(parts[0])})" if named is not None and len(parts) == 1 else ""
    reason = first.message if isinstance(first, IccldError) else str(first)
    hint = f"{first.hint}; " if isinstance(first, IccldError) and first.hint else ""
    return IccldError(
        f"{what}{holds} could not be made: {reason}",
        f"{hint}the other parts are kept, and the same command goes on with {'it' if len(parts) == 1 else 'these'}",
    )
