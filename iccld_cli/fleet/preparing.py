"""`iccld prepare --engine ray`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iccld_cli import storage
from iccld_cli.data.prepared import IGNORED_NAME, INDEX_NAME, INFO_NAME, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.fleet.cluster import PACKAGES, connected
from iccld_cli.fleet.common import failed_parts, named, relative_to_here, token_in
from iccld_cli.fleet.engine import Progress, parts_for, run_parts, usable_nodes, workers_of
from iccld_cli.fleet.work import Fleet, PartsFailedError, Place
from iccld_cli.fleet.work import Progress as PartProgress
from iccld_cli.parts import Part
from iccld_cli.prepare.adapters.video import Video
from iccld_cli.prepare.parts import HEAD, existing_set, folder_of, merge_parts, part_folders, prepare_part, same_part
from iccld_cli.prepare.prepare import BadFilesError, PrepareOptions, Source

_EACH = 2
"""Parts for each worker: every part lists the whole set."""

_ABOUT_ALL = (INDEX_NAME, INFO_NAME)


@dataclass
class PrepareWork:
    """Parts of a prepared data set.

    Attributes:
        source: What to read.
        out: Folder that receives the set.
        name: Of the set.
        options: How.
        target: `out` in object storage.
        token: A file that every node must see, beside the parts; None with a `target`.
    """

    source: Source
    out: Path
    name: str
    options: PrepareOptions
    target: str | None
    token: Path | None

    def open(self, place: Place) -> Mapping[str, Any]:
        """See whether the files are there."""
        if self.token is not None and not self.token.is_file():
            raise IccldError(
                f"it does not see the folder {self.out}", "give an --out that all nodes share, or one in object storage"
            )
        self.options = replace(self.options, workers=place.cpus)
        if self.target is not None:
            self.out = place.scratch / "out"
        if isinstance(self.source, Video):
            self.source.fetch(place.scratch)
        return {}

    def do(self, part: Part, place: Place, progress: PartProgress) -> int:
        """Prepare a part."""
        if self.target is None:
            return prepare_part(self.source, self.out, self.name, self.options, part, progress)[1]
        folder = folder_of(self.out, self.name) / part.name
        at = storage.join(self.target, f"{self.name}.parts", part.name)
        try:
            with named((self.out, self.target), (place.scratch, self.target)):
                if storage.entry(storage.join(at, HEAD)) is not None:
                    storage.fetch(storage.join(at, HEAD), folder / HEAD)
                    frames = same_part(self.source, folder, self.options, part)
                    if frames is not None:
                        return frames
                frames = prepare_part(self.source, self.out, self.name, self.options, part, progress)[1]
                files = [path for path in folder.rglob("*") if path.is_file() and path != folder / HEAD]
                storage.send_all((path, _below(at, path, folder)) for path in files)
                storage.send_all([(folder / HEAD, storage.join(at, HEAD))])
                return frames
        finally:
            shutil.rmtree(folder_of(self.out, self.name), ignore_errors=True)


def _below(url: str, path: Path, folder: Path) -> str:
    return storage.join(url, path.relative_to(folder).as_posix())


def prepare_with_ray(
    source: Source,
    out: Path,
    name: str,
    options: PrepareOptions,
    fleet: Fleet,
    scratch: Path,
    *,
    target: str | None = None,
    progress: Callable[[Progress], None] = lambda found: None,
    tell: Callable[[str], None] = lambda line: None,
    joining: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PreparedDataset, int]:
    """Prepare one data set on the machines of a cluster, as `prepare` does on one.

    Args:
        source: What to read; it must lie where every node finds it, or in object storage.
        out: Folder that receives the folder `name`; it must lie where every node finds it.
        name: Name of the prepared data set.
        options: How.
        fleet: Which machines.
        scratch: Folder for what is fetched; what is returned lies there where there is a `target`.
        target: Folder in object storage, in place of `out`.
        progress: Called a few times a second.
        tell: Called with a line when something goes wrong that can be mended.
        joining: Called with frames joined, and frames in all.

    Returns:
        The prepared data set, and in how many parts it was made; 0 where it was there already.

    Raises:
        BadFilesError: Some files cannot be used.
        IccldError: See `prepare` and `engine.run_parts`; or some parts failed. The others stay, and the same call goes
            on with what is left.
    """
    if target is not None:
        out = scratch / "out"
    with named(*([(out, target)] if target is not None else [])):
        if target is not None:
            _fetch_set(target, out, name)
        if existing_set(source, out, name, options):
            return PreparedDataset(out / name), 0
        with connected(fleet.address) as cluster:
            begun = _begun(out, name, target)
            workers = workers_of(usable_nodes(cluster.nodes(), None), None, fleet)
            most = None if fleet.parts else _EACH * workers
            count = parts_for(fleet, workers, begun, str(folder_of(out, name)), most)
            given = [] if target is not None else [out]
            if options.ignore not in (None, "auto"):
                given.append(Path(str(options.ignore)))
            with token_in(folder_of(out, name) if target is None else None) as token:
                try:
                    run_parts(
                        cluster,
                        PrepareWork(source, out, name, options, target, token),
                        [Part(number, count) for number in range(1, count + 1)],
                        fleet=fleet,
                        packages=PACKAGES,
                        folder=relative_to_here(*given),
                        final=(BadFilesError,),
                        progress=progress,
                        tell=tell,
                    )
                except PartsFailedError as error:
                    raise _of_bad_files(error) or failed_parts(error) from None
        if target is None:
            return merge_parts(source, out, name, options, joining)
        at = storage.join(target, f"{name}.parts")
        parts = storage.listing(at)
        storage.fetch_all((storage.join(at, path), folder_of(out, name) / path) for path in parts if ".." not in path)
        made, count = merge_parts(source, out, name, options, joining)
        _publish(target, made.root, name)
        heads = [path for path in parts if path.endswith(f"/{HEAD}")]
        storage.remove_all([storage.join(at, path) for path in parts if path not in heads])
        storage.remove_all([storage.join(at, path) for path in heads])
        return made, count


def _of_bad_files(error: PartsFailedError) -> BadFilesError | None:
    """The bad files of all parts together, where nothing else is wrong."""
    if not all(isinstance(one, BadFilesError) for one in error.failed.values()):
        return None
    # Parts that were not begun any more have the error of another one.
    found = list({id(one): one for one in error.failed.values() if isinstance(one, BadFilesError)}.values())
    files = [file for one in found for file in one.files]
    notices = list(dict.fromkeys(notice for one in found for notice in one.notices))
    message = found[0].message if len(found) == 1 else f"{len(files)} frames in {len(found)} parts cannot be used"
    return BadFilesError(message, found[0].hint or "", files, notices)


def _begun(out: Path, name: str, target: str | None) -> int | None:
    """Of how many parts an unfinished work is; None where there is none."""
    if target is None:
        names = [path.name for path in part_folders(out, name)]
    else:
        found = storage.listing(storage.join(target, f"{name}.parts"))
        names = [path.partition("/")[0] for path in found if path.endswith(f"/{HEAD}")]
    parts = [part for one in names if (part := Part.named(Path(one)))]
    return parts[0].of if parts else None


def _fetch_set(target: str, out: Path, name: str) -> None:
    """Fetch what says how a set was prepared, where there is one."""
    out.mkdir(parents=True, exist_ok=True)
    at = storage.join(target, name)
    for file in (INDEX_NAME, IGNORED_NAME, INFO_NAME):
        if storage.entry(storage.join(at, file)) is not None:
            storage.fetch(storage.join(at, file), out / name / file)


def _publish(target: str, root: Path, name: str) -> None:
    """Send a set, what makes it one last; what was there of another one goes."""
    at = storage.join(target, name)
    old = storage.listing(at)
    if INFO_NAME in old:
        storage.remove_all([storage.join(at, INFO_NAME)])
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    storage.send_all((path, storage.join(at, file)) for file, path in files.items() if file not in _ABOUT_ALL)
    for file in _ABOUT_ALL:
        storage.send_all([(files[file], storage.join(at, file))])
    storage.remove_all([storage.join(at, file) for file in old if file not in files])
