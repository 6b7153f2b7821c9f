"""`iccld prepare`: raw data sets, own images and videos, and the virtual town into the prepared format."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iccld_cli.cli.hints import after_prepare, say_next
from iccld_cli.cli.options import (
    MAX_WORKERS,
    Engine,
    IgnoreMask,
    Merge,
    PartOption,
    Parts,
    RayAddress,
    WorkerCpus,
    parse_fleet,
    parse_part,
    parse_size,
    refuse_stored,
)
from iccld_cli.cli.terminal import console, progress_bar, say, shown
from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters import ADAPTERS
from iccld_cli.storage import local_path, shown_address, url_of

if TYPE_CHECKING:
    from iccld_cli.data.prepared import DatasetInfo
    from iccld_cli.fleet.work import Fleet
    from iccld_cli.parts import Part
    from iccld_cli.prepare.drive import Drive
    from iccld_cli.prepare.prepare import BadFilesError, PrepareOptions, Source
    from iccld_cli.town import Mix

VIRTUAL_SIZE = (512, 256)
MAX_FRAMES = 10_000_000
MAX_NAME = 200
"""Bytes of a data set's name: its hidden folder and lock, and its files, have longer names."""
_SHOWN_BAD = 20


def _set_options() -> str:
    """The options of the raw data sets and their values, for `--help`."""
    return "; ".join(
        f"{key}.{option} ({', '.join(choice.values or ('text',))})"
        for key, adapter in ADAPTERS.items()
        for option, choice in adapter.choices.items()
    )


def _prepare(
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|GLOB", help="Own images: folder, archive, glob or template; repeatable."),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Their masks (PNG) or Labelme files: folder or template; or a COCO file. One for each --images.",
        ),
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What the masks hold (default: trainIds).")
    ] = None,
    video: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Own video; can be given several times.")
    ] = None,
    virtual: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MAX_FRAMES, help="Frames of the built-in virtual town.")
    ] = None,
    look: Annotated[
        list[str] | None, typer.Option(metavar="LOOK", help="Looks of the virtual town (default: all).")
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Kinds of road of the virtual town, such as urban:0.6,motorway:0.2,country:0.2 (default: urban).",
        ),
    ] = None,
    light: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Time of day of its camera look, such as day:0.7,dusk:0.15,night:0.15 (default: day).",
        ),
    ] = None,
    rain: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", min=0.0, max=1.0, help="Share of rain in its camera and night looks (default: some)."
        ),
    ] = None,
    virtual_drive: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Also a drive through the town, as video: one kind of road, light and weather out of the shares.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DATA", help="Folder for the prepared data sets.")] = Path("data"),
    name: Annotated[str | None, typer.Option(help="Name of the prepared data set, when there is one.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Resize every frame (default: keep; town: 512x256).")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.01, help="Frames per second taken from a video.")] = 2.0,
    hold_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the training frames to make a `val` split of.")
    ] = 0.0,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave unusable files out and record them, instead of stopping."),
    ] = False,
    ignore_mask: IgnoreMask = None,
    unlabeled: Annotated[bool, typer.Option("--unlabeled", help="Images alone, even where there are labels.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SET.OPTION=VALUE",
            help=f"Option of one raw data set, no configuration key (`iccld config` lists those): {_set_options()}.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what was prepared with other options, finished or not.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what would be taken and what would stop it; writes nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the virtual town.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, max=MAX_WORKERS, help="Processes (default: all cores).")] = None,
    part: PartOption = None,
    merge: Merge = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    parts: Parts = None,
    worker_cpus: WorkerCpus = None,
    **folders: Path | None,
) -> None:
    """Check raw data once, map its labels to trainIds and write data sets that training can read."""
    from iccld_cli.prepare.parts import check_part
    from iccld_cli.prepare.prepare import PrepareOptions, check_output
    from iccld_cli.prepare.processes import keep_freed_memory

    keep_freed_memory()  # a few frames, and all of them with one worker, are made in this process
    wanted, share = parse_size(size), parse_part(part, merge)
    if check and (share is not None or merge):
        raise typer.BadParameter("--check looks at all frames; leave --part and --merge out", param_hint="--check")
    alone = {"--part": share is not None, "--merge": merge, "--check": check}
    fleet = parse_fleet(engine, ray_address, parts, worker_cpus, alone)
    out, images, masks = local_path(out), _local(images), _local(masks)
    video = [local_path(path) for path in video or []]
    folders = {key: None if path is None else local_path(path) for key, path in folders.items()}
    target = url_of(out)
    if fleet is None:
        given = [*(images or []), *(masks or []), *video, *folders.values()]
        stored = next((Path(str(place)) for place in given if url_of(place)), None)
        refuse_stored({"--out": out, "the source": stored})
    elif target is not None and virtual_drive is not None:
        raise typer.BadParameter("goes with an --out on a disk", param_hint="--virtual-drive")
    else:
        from iccld_cli.fleet.cluster import import_ray

        import_ray()  # told before anything is opened
    # Parts may share a folder, and each removes its own uncompressed copies of archives.
    copies = out if share is None else out / f".copies-{share.name}"
    options = PrepareOptions(
        size=wanted, hold_out=hold_out, skip_bad=skip_bad, force=force, workers=workers, ignore=ignore_mask
    )
    settings = _settings(set_ or [])
    sources: list[tuple[str, Source]] = []
    stopped: list[str] = []
    try:
        for key, opened in _raw_sets(folders, settings, not unlabeled, copies, check):
            sources += _opened(key, opened, stopped if check else None)
        sources += _own(images or [], masks or [], label_map, out)
        sources += _videos(video or [], fps)
        if virtual is not None:
            from iccld_cli.town import LOOKS, mixes

            sources += _virtual(virtual, mixes(look or LOOKS, kinds, light, rain), wanted or VIRTUAL_SIZE, seed)
        elif look or virtual_drive is not None or kinds is not None or light is not None or rain is not None:
            raise typer.BadParameter("--look, --kinds, --light, --rain and --virtual-drive go with --virtual N")
        if not sources and not stopped:
            raise typer.BadParameter("name at least one thing to prepare, such as --camvid DIR or --virtual 200")
        named = _named(sources, name) if sources else []
        # Parts share a folder that becomes the set's when they are joined.
        drive = None if virtual_drive is None or share is not None else _drive_of(named, out, virtual_drive)
        if check:
            from iccld_cli.cli.check import print_check

            stopped += _problems(drive, force)
            print_check(named, out, options, stopped)
            return
        if target is None:  # all sets before the first is begun
            for set_name, source in named:
                check_output(source, out, set_name, options, parts=share is not None or merge or fleet is not None)
                if share is not None:
                    check_part(source, out, set_name, options, share)
        if drive is not None:
            drive.is_there(force)
        done = []
        if fleet is not None:
            done = _with_ray(named, out, target, options, fleet)
        elif share is None:
            make = _merge if merge else _prepare_one
            done = [(out / set_name, make(source, out, set_name, options)) for set_name, source in named]
        else:
            for set_name, source in named:
                _prepare_part(source, out, set_name, options, share)
    finally:
        _remove_copies(sources)
        if share is not None:
            with contextlib.suppress(OSError):
                copies.rmdir()
    if drive is not None:
        _make_drive(drive, force)
    if done and target is None:
        say_next(after_prepare(*zip(*done, strict=True)))


def _settings(pairs: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        parts = re.fullmatch(r"([\w-]+)\.([\w-]+)=(.*)", pair)
        if not parts:
            raise typer.BadParameter(f"--set {pair!r} is not of the form SET.OPTION=VALUE, such as acdc.condition=fog")
        if parts[1] not in ADAPTERS:
            raise typer.BadParameter(f"--set {pair!r}: no raw data set {parts[1]!r}; options: {_set_options()}")
        found.setdefault(parts[1], {})[parts[2]] = parts[3]
    return found


def _raw_sets(
    folders: dict[str, Path | None], settings: dict[str, dict[str, str]], labelled: bool, out: Path, peek: bool
) -> Iterator[tuple[str, Callable[[], Source]]]:
    from iccld_cli.prepare.sources import open_set

    for key, adapter in ADAPTERS.items():
        folder = folders.get(key.replace("-", "_"))
        if folder is not None:
            yield key, functools.partial(open_set, adapter, folder, out, peek, settings.get(key), labelled)


def _opened(name: str, opened: Callable[[], Source], stopped: list[str] | None) -> Iterator[tuple[str, Source]]:
    """Open a set; where errors are collected, the other sets are still checked."""
    try:
        yield name, opened()
    except IccldError as error:
        if stopped is None:
            raise
        stopped.append(f"{name}: {error}")


def _own(images: list[str], masks: list[str], label_map: Path | None, out: Path) -> Iterator[tuple[str, Source]]:
    from iccld_cli.prepare.labelmap import read_label_map
    from iccld_cli.prepare.own import own_images

    if masks and len(masks) != len(images):
        raise typer.BadParameter(f"{len(masks)} --masks for {len(images)} --images; give one for each")
    if label_map is not None and not masks:
        raise typer.BadParameter("--label-map says what --masks hold; give --masks too")
    table = None if label_map is None else read_label_map(label_map)
    for number, pattern in enumerate(images):
        yield own_images(pattern, masks[number] if masks else None, table, out)


def _videos(videos: list[Path], fps: float) -> Iterator[tuple[str, Source]]:
    from iccld_cli.prepare.adapters.video import Video

    for path in videos:
        yield path.stem, Video(path, fps)


def _remove_copies(sources: list[tuple[str, Source]]) -> None:
    from iccld_cli.prepare.archives import plain_copies

    for _, source in sources:
        for copy in plain_copies(getattr(source, "tree", None)):
            copy.unlink(missing_ok=True)


def _virtual(frames: int, looks: dict[str, Mix], size: tuple[int, int], seed: int) -> Iterator[tuple[str, Source]]:
    from iccld_cli.prepare.adapters.virtual import VirtualTown

    for look, mix in looks.items():
        yield f"virtual-{look}", VirtualTown(look, frames, size, seed, mix)


def _named(sources: list[tuple[str, Source]], name: str | None) -> list[tuple[str, Source]]:
    if name is not None:
        if len(sources) > 1:
            raise typer.BadParameter("--name needs exactly one data set", param_hint="--name")
        sources = [(name, sources[0][1])]
    from iccld_cli.prepare.own import set_name

    seen: set[str] = set()
    result = []
    for given, source in sources:
        plain = set_name(given)
        if len(plain.encode()) > MAX_NAME:
            raise IccldError(
                f"the data set's name {plain} is too long", f"give one of at most {MAX_NAME} bytes: --name"
            )
        if plain in seen:
            raise IccldError(f"two data sets would be named {plain!r}", "prepare them one by one with --name")
        seen.add(plain)
        result.append((plain, source))
    return result


def _prepare_one(source: Source, out: Path, name: str, options: PrepareOptions) -> DatasetInfo:
    from iccld_cli.prepare.prepare import BadFilesError, prepare
    from iccld_cli.prepare.preview import PAGE_NAME

    try:
        with progress_bar(name, "frames") as progress:
            data, fresh = prepare(source, out, name, options, progress)
    except BadFilesError as error:
        _print_bad(error)
        raise
    except KeyboardInterrupt:
        say(f"interrupted; what is done of {name} is kept, the same command continues", stderr=True)
        raise
    info = data.info
    splits = ", ".join(f"{split} {count}" for split, count in info.splits.items())
    skipped = f"; {len(info.skipped)} skipped" if info.skipped else ""
    say(f"{out / name}: {'' if fresh else 'already prepared, '}{splits}{skipped}")
    if fresh:
        _print_classes(info)
    if (out / name / PAGE_NAME).is_file():
        say(f"open {out / name / PAGE_NAME}")
    return info


def _with_ray(
    named: list[tuple[str, Source]], out: Path, target: str | None, options: PrepareOptions, fleet: Fleet
) -> list[tuple[Path, DatasetInfo]]:
    """Prepare sets, one after the other, on the machines of a cluster."""
    import tempfile

    from iccld_cli.cli.fleet import fleet_bars
    from iccld_cli.fleet.preparing import prepare_with_ray
    from iccld_cli.prepare.adapters.video import Video
    from iccld_cli.prepare.archives import plain_copies
    from iccld_cli.prepare.prepare import BadFilesError

    done = []
    for name, source in named:
        if target is not None and (packed := plain_copies(getattr(source, "tree", None))):
            raise IccldError(f"{packed[0].name} would be unpacked on this machine alone", "unpack the archive first")
        with tempfile.TemporaryDirectory(prefix="iccld-") as folder:
            if isinstance(source, Video):
                source.fetch(Path(folder))
            try:
                with fleet_bars(name, "frames", f"join {name}", "frames") as bars:
                    data, count = prepare_with_ray(
                        source,
                        out,
                        name,
                        options,
                        fleet,
                        Path(folder),
                        target=target,
                        progress=bars.work,
                        tell=bars.tell,
                        joining=bars.join,
                    )
            except BadFilesError as error:
                _print_bad(error)
                raise
            except KeyboardInterrupt:
                say(f"interrupted; finished parts of {name} are kept, the same command continues", stderr=True)
                raise
        where = out / name if target is None else f"{shown_address(target)}/{name}"
        splits = ", ".join(f"{split} {number}" for split, number in data.info.splits.items())
        skipped = f"; {len(data.info.skipped)} skipped" if data.info.skipped else ""
        say(f"{where}: {f'{count} parts made and joined' if count else 'already prepared'}, {splits}{skipped}")
        if count:
            _print_classes(data.info)
        done.append((out / name, data.info))
    return done


def _local(given: list[str] | None) -> list[str] | None:
    """Texts of paths, those of `file://` addresses as paths."""
    return given and [str(local_path(Path(text))) if text.startswith("file://") else text for text in given]


def _prepare_part(source: Source, out: Path, name: str, options: PrepareOptions, share: Part) -> None:
    from iccld_cli.prepare.parts import prepare_part
    from iccld_cli.prepare.prepare import BadFilesError

    try:
        with progress_bar(f"{name}, part {share}", "frames") as progress:
            folder, frames, fresh = prepare_part(source, out, name, options, share, progress)
    except BadFilesError as error:
        _print_bad(error)
        raise
    except KeyboardInterrupt:
        say(f"interrupted; what is done of part {share} of {name} is kept, the same command continues", stderr=True)
        raise
    if not frames:
        say(f"part {share} of {name} has nothing to do: there are fewer frames than parts -> {folder}")
        return
    how = "is done" if fresh else "was done already"
    say(f"part {share} of {name} {how}: {frames} frames -> {folder}")
    say("when all parts are done, the same command with --merge instead of --part joins them")


def _merge(source: Source, out: Path, name: str, options: PrepareOptions) -> DatasetInfo:
    from iccld_cli.prepare.parts import merge_parts

    with progress_bar(f"join {name}", "frames") as progress:
        data, count = merge_parts(source, out, name, options, progress)
    splits = ", ".join(f"{split} {number}" for split, number in data.info.splits.items())
    skipped = f"; {len(data.info.skipped)} skipped" if data.info.skipped else ""
    say(f"{out / name}: {count} parts joined, {splits}{skipped}")
    _print_classes(data.info)
    return data.info


def _print_classes(info: DatasetInfo) -> None:
    from rich.table import Table

    from iccld_cli.prepare.inspect import own_warnings
    from iccld_cli.prepare.preview import class_rows

    rows = class_rows(info)
    if rows:
        table = Table("class", box=None, header_style="bold")
        table.add_column("% of pixels", justify="right")
        table.add_column("frames", justify="right")
        for row in rows:
            table.add_row(shown(row["name"]), f"{100 * row['share']:.3f}", str(row["frames"]))
        console().print(table)
    for text in own_warnings(info):
        say(f"warning: {text}", style="yellow")


def _print_bad(error: BadFilesError) -> None:
    for entry in error.files[:_SHOWN_BAD]:
        say(f"  {shown(entry['file'])} {shown(entry['reason'])}", stderr=True)
    if len(error.files) > _SHOWN_BAD:
        say(f"  ... and {len(error.files) - _SHOWN_BAD} more", stderr=True)
    for text in error.notices:
        say(f"  note: {text}", stderr=True)


def _drive_of(named: list[tuple[str, Source]], out: Path, seconds: float) -> Drive:
    """A drive beside the set of the camera look, or beside the first one of the town where there is none."""
    from iccld_cli.prepare.adapters.virtual import VirtualTown
    from iccld_cli.prepare.drive import Drive

    towns = [(name, source) for name, source in named if isinstance(source, VirtualTown)]
    name, town = next((one for one in towns if one[1].look == "camera"), towns[0])
    return Drive(out / name, town, seconds)


def _problems(drive: Drive | None, force: bool) -> list[str]:
    """What would stop a drive, for `--check`."""
    try:
        if drive is not None:
            drive.is_there(force)
    except IccldError as error:
        return [str(error)]
    return []


def _make_drive(drive: Drive, force: bool) -> None:
    if drive.is_there(force):
        say(f"{drive.path}: already there")
        return
    drive.make()
    say(f"{drive.path}: {drive.seconds:g} s, {drive.scene()}")


def _with_adapters(function: Any) -> Any:
    """Give the command one option for each raw data set in `ADAPTERS`: --gta5, --synthia, --cityscapes and so on.

    Typer reads the options from the signature, so they are added to it: `**folders` takes them.
    """
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            key.replace("-", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Option(f"--{key}", metavar="DIR", help=adapter.help)],
        )
        for key, adapter in ADAPTERS.items()
    ]
    parameters = [*added, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


prepare = _with_adapters(_prepare)
