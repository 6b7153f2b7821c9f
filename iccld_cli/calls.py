"""The commands as functions: `from iccld_cli import prepare_data, adapt_seg, adapt_adv, adapt_footage`.

    >>> from iccld_cli import adapt_seg, load, prepare_data
    >>> game, camera = prepare_data("data", virtual=6, size=(64, 32))
    >>> small = {"model.tiny_channels": [8, 8, 16, 16], "data.workers": 0, "run.log_every": 1}
    >>> losses = []
    >>> path = adapt_seg(
    ...     [game], "run", target=[camera], preset="tiny", iterations=2, batch_size=2, crop=(32, 32), settings=small,
    ...     on_log=lambda row: losses.append(row["loss"]),
    ... )
    >>> len(losses), path.name
    (2, 'stage1.safetensors')
    >>> load(path).header.stage
    'stage1'

`prepare` and `adapt` are names of subpackages: `import iccld_cli.prepare` anywhere in a program would put the package
in the place of a function of that name. So no public function has the name of a subpackage.

Functions are silent unless a console is given, raise `IccldError` in place of ending the program, and can be
interrupted like the commands. What they write can be continued by the commands, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iccld_cli.errors import IccldError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.prepare.prepare import Source

    DataSet: TypeAlias = Path | str | PreparedDataset

OnLog = Callable[[dict[str, Any]], None]
"""Called with each line of `log.jsonl`: `step`, `loss`, `lr`, the parts of the loss, `miou` where it was scored."""

OnProgress = Callable[[int, int], None]
"""Called with (done, all)."""


def prepare_data(
    out: Path | str = "data",
    *,
    images: Sequence[Path | str] = (),
    video: Sequence[Path | str] = (),
    virtual: int | None = None,
    look: Sequence[str] | str | None = None,
    kinds: str | Mapping[str, float] | None = None,
    light: str | Mapping[str, float] | None = None,
    rain: float | None = None,
    size: tuple[int, int] | None = None,
    fps: float = 2.0,
    hold_out: float = 0.0,
    labelled: bool = True,
    skip_bad: bool = False,
    force: bool = False,
    ignore_mask: Path | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    options: Mapping[str, Mapping[str, str]] | None = None,
    on_progress: OnProgress | None = None,
    **raw_sets: Path | str,
) -> list[PreparedDataset]:
    """What `iccld prepare` does.

    Args:
        out: Folder for the prepared data sets.
        images: Own images: folders, archives or globs, without labels.
        video: Own videos.
        virtual: Training frames of each look of the built-in town, 1 to 10,000,000.
        look: Its looks: `game` (labelled source), `camera` (target) and `night`; None for the first two.
        kinds: Shares of its kinds of road, `urban`, `motorway` and `country`, as `{"urban": 0.8, "motorway": 0.2}` or
            in the command's form, `"urban:0.8,motorway:0.2"`; they are divided by their sum. None for `urban` alone.
        light: Shares of `day`, `dusk` and `night` in its look `camera`, in the same form; None for day.
        rain: Share of frames in rain in its looks `camera` and `night`, 0..1; None for the look's own weather.
        size: (width, height) to resize to; None keeps each frame's, and is 512x256 for the town.
        fps: Frames a second taken from a video.
        hold_out: Share of the training frames that becomes `val` where the source has none.
        labelled: Whether labels of raw sets are read.
        skip_bad: Leave unusable files out and record them.
        force: Replace what was prepared with other options.
        ignore_mask: A picture of what is not the scene, white there, or `auto` to find it in each set.
        seed: Of the town.
        workers: Processes; None for all cores.
        options: Raw set -> its options, such as `{"acdc": {"condition": "fog"}}`.
        on_progress: Called after every frame of a set.
        raw_sets: Name of an adapter -> folder or archive, such as `gta5="/data/gta5"`, `dark_zurich=...`.

    Returns:
        The data sets, in the order: raw sets, images, videos, the town's looks as they are given.

    Raises:
        IccldError: There is nothing to prepare, an option of the town means nothing, a set cannot be prepared, or what
            lies in its place, finished or not, was made with other options. All sets are looked at before the first is
            begun.
    """
    from iccld_cli.prepare.adapters import ADAPTERS
    from iccld_cli.prepare.adapters.video import Video
    from iccld_cli.prepare.adapters.virtual import SPLIT_SPAN, VirtualTown
    from iccld_cli.prepare.archives import plain_copies
    from iccld_cli.prepare.own import own_images, set_name
    from iccld_cli.prepare.prepare import PrepareOptions, check_output, prepare
    from iccld_cli.prepare.sources import open_set

    folder, found = Path(out), []
    how = PrepareOptions(size, hold_out, skip_bad, force, workers, ignore_mask)
    sources: list[tuple[str, Source]] = []
    try:
        for given, path in raw_sets.items():
            key = given.replace("_", "-")
            if key not in ADAPTERS:
                raise IccldError(f"there is no raw data set {given!r}", did_you_mean(key, ADAPTERS))
            its = dict((options or {}).get(given, {}))
            sources.append((key, open_set(ADAPTERS[key], Path(path), folder, False, its, labelled)))
        sources += [own_images(str(pattern), None, None, folder) for pattern in images]
        sources += [(Path(path).stem, Video(Path(path), fps)) for path in video]
        if virtual is not None:
            from iccld_cli.town import mixes

            if not 1 <= virtual <= SPLIT_SPAN:
                raise IccldError(
                    f"{virtual} frames of the virtual town cannot be rendered", f"give 1 to {SPLIT_SPAN:,}"
                )
            looks = (look,) if isinstance(look, str) else look or ("game", "camera")
            for its_look, mix in mixes(looks, kinds, light, rain).items():
                town = VirtualTown(its_look, virtual, size or (512, 256), seed, mix)
                sources.append((f"virtual-{its_look}", town))
        elif look or kinds is not None or light is not None or rain is not None:
            raise IccldError(
                "look, kinds, light and rain go with virtual=N", "say how many frames of the town to render"
            )
        names = [set_name(name) for name, _ in sources]
        if not names:
            raise IccldError("nothing to prepare", "name a raw data set, images, a video, or frames of the town")
        if len(set(names)) < len(names):
            raise IccldError("two data sets would have one name", "prepare them in calls of their own")
        for name, (_, source) in zip(names, sources, strict=True):
            check_output(source, folder, name, how)
        for name, (_, source) in zip(names, sources, strict=True):
            found.append(prepare(source, folder, name, how, on_progress or (lambda done, total: None))[0])
    finally:
        for _, source in sources:
            for copy in plain_copies(getattr(source, "tree", None)):
                copy.unlink(missing_ok=True)
    return found


def adapt_seg(
    source: Sequence[DataSet] | DataSet,
    out: Path | str,
    *,
    target: Sequence[DataSet] | DataSet = (),
    ckpt: Path | str | None = None,
    labelled: Sequence[DataSet] | DataSet = (),
    val: DataSet | None = None,
    classes: Sequence[str] | None = None,
    source_only: bool = False,
    preset: str | None = None,
    recipe: str | None = None,
    config: Path | str | None = None,
    encoder: str | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    seed: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_log: OnLog | None = None,
    on_step: OnProgress | None = None,
    console: Console | None = None,
) -> Path:
    """Stage 1, or the baseline on the source alone: what `iccld adapt-seg` does.

    Args:
        source: Labelled prepared data sets: folders, or what `prepare_data` returned.
        out: Run folder.
        target: Target data sets; their labels are not read.
        ckpt: Model file, folder or hub id to start from.
        labelled: Data sets of the target's domain with any labelled pixels, which are learnt too.
        val: Labelled data set whose `val` split is scored during training.
        classes: Learn these classes only.
        source_only: Train the baseline.
        preset: `tiny`, `small`, `base`, `large`, `xl`...; None for the start file's, or `tiny`.
        recipe: A method by name, on top of the preset: `iccld`, `dacs`, `daformer`...; see docs/recipes.md.
        config: TOML file with any part of a configuration.
        encoder: Pretrained encoder: hub id or folder.
        iterations: Training steps.
        batch_size: Source crops a step, and as many target crops.
        crop: (width, height) of a training crop.
        seed: Of everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        settings: Further configuration keys, such as `{"optim.lr": 1e-4}`; `iccld config` lists them.
        resume: Go on from the newest training state in `out`.
        on_log: Called with each line of the log, on the first process.
        on_step: Called after each step with (steps done, steps in all), on every process.
        console: Where messages go; None for nowhere.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    from iccld_cli.config import load_config
    from iccld_cli.recipe import chosen_recipe
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import adapt_seg as run
    from iccld_cli.train.start import open_start

    start = open_start(_file(ckpt))
    header = start.header
    given = {"model.encoder": encoder, "seg.iterations": iterations}
    method = chosen_recipe(recipe)
    source_only = source_only or (method is not None and method.source_only)
    resolved = load_config(
        preset,
        file=config,
        recipe=method,
        base=header.config if header else None,
        sizes=header.config.model if header else None,
        overrides={**given, **_common(batch_size, crop, seed, device), **(settings or {})},
    )
    start.check(resolved)
    data = open_data(
        _folders(source),
        _folders(target),
        val=_folder(val),
        start=header,
        names=classes,
        labelled=_folders(labelled),
    )
    return run(resolved, data, _options(out, resume, on_log, on_step, console), source_only, start)


def adapt_adv(
    ckpt: Path | str,
    out: Path | str | None = None,
    *,
    source: Sequence[DataSet] | DataSet = (),
    target: Sequence[DataSet] | DataSet = (),
    labelled: Sequence[DataSet] | DataSet = (),
    val: DataSet | None = None,
    classes: Sequence[str] | None = None,
    recipe: str | None = None,
    config: Path | str | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    seed: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_log: OnLog | None = None,
    on_step: OnProgress | None = None,
    console: Console | None = None,
) -> Path:
    """Stage 2: what `iccld adapt-adv` does.

    Args:
        ckpt: Model file of stage 1, or of stage 2, whose UNet then learns on.
        out: Run folder; None for the file's own.
        source: In place of the sources that the file names.
        target: In place of its targets.
        labelled: In place of its labelled sets of the target.
        val: See `adapt_seg`, and so on.

    Returns:
        The model file.

    Raises:
        IccldError: Something is wrong with the input, or training broke.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    from iccld_cli.config import load_config
    from iccld_cli.recipe import chosen_recipe
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import adapt_adv as run
    from iccld_cli.train.start import open_start

    file = _file(ckpt)
    assert file is not None
    if out is None and not Path(ckpt).exists():
        raise IccldError(f"{ckpt} is no file here", "name the run folder")
    start = open_start(file)
    assert start.header is not None
    resolved = load_config(
        file=config,
        base=start.header.config,
        recipe=chosen_recipe(recipe, stage2=True),
        overrides={"adv.iterations": iterations, **_common(batch_size, crop, seed, device), **(settings or {})},
    )
    start.check(resolved)
    sources = _folders(source) or start.datasets("source")
    targets = _folders(target) or start.datasets("target")
    marked = _folders(labelled) or start.datasets("labelled")
    data = open_data(sources, targets, val=_folder(val), start=start.header, names=classes, labelled=marked)
    return run(resolved, data, _options(out or file.parent, resume, on_log, on_step, console), start)


def adapt_footage(
    footage: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    ckpt: Path | str | None = None,
    minutes: float = 20.0,
    iterations: int | None = None,
    stage2: bool = False,
    answers: bool = True,
    val: DataSet | None = None,
    labelled: Sequence[DataSet] | DataSet = (),
    to_label: int = 20,
    predict: bool = False,
    seed: int = 0,
    device: str = "auto",
    ignore_mask: Path | str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Footage in, a model out: what `iccld adapt` does.

    Args:
        footage: Videos, folders of images or prepared data sets; their labels are not read.
        out: Folder for everything; the model is `model.safetensors` in it.
        ckpt: Model to start from: file, folder or hub id; None for the shipped one.
        minutes: Minutes of answering and training, where `iterations` is None.
        iterations: Steps of stage 1; the same number gives the same model.
        stage2: Whether stage 2 follows, in a third of the minutes or half as many steps.
        answers: Whether the start's own surest answers to the frames are learnt as labels, beside self-training.
        val: Prepared data set with labels in `val`, by which the model is chosen.
        labelled: Prepared data sets of this road with any labelled pixels, which are learnt.
        to_label: Frames most worth labelling that are listed; 0 for none.
        predict: Whether the footage is segmented at the end.
        seed: Of training.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        ignore_mask: A picture of what is not the scene, white there, or `auto` to find it in each input.
        console: Where messages go; None for nowhere.

    Returns:
        What `summary.json` in `out` holds: `seconds`, `frames`, `start`, `iterations`, `chosen`...

    Raises:
        IccldError: Something is wrong with the footage or the model, or the folder holds something else.
        KeyboardInterrupt: Interrupted; what was finished is kept, and the same call goes on.
    """
    from rich.console import Console

    from iccld_cli.footage.options import FootageOptions
    from iccld_cli.footage.run import adapt_footage as run

    given = [footage] if isinstance(footage, Path | str) else footage
    paths = [Path(each) for each in given]
    options = FootageOptions(
        paths,
        Path(out),
        _file(ckpt),
        minutes,
        iterations,
        _folder(val),
        predict,
        seed,
        device,
        ignore_mask,
        _folders(labelled),
        to_label,
        stage2,
        answers,
    )
    return run(options, console or Console(quiet=True))


def _file(ckpt: Path | str | None) -> Path | None:
    from iccld_cli.inference.model import find_model

    return None if ckpt is None else find_model(ckpt)


def _common(
    batch_size: int | None, crop: tuple[int, int] | None, seed: int | None, device: str | None
) -> dict[str, Any]:
    return {"data.batch_size": batch_size, "data.crop": crop, "run.seed": seed, "run.device": device}


def _folders(given: Sequence[DataSet] | DataSet) -> list[Path]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [folder for each in given if (folder := _folder(each)) is not None]
    folder = _folder(given)
    return [] if folder is None else [folder]


def _folder(given: DataSet | None) -> Path | None:
    return None if given is None else Path(given) if isinstance(given, Path | str) else given.root


def _options(
    out: Path | str, resume: bool, on_log: OnLog | None, on_step: OnProgress | None, console: Console | None
) -> Any:
    from rich.console import Console

    from iccld_cli.train.run import RunOptions

    return RunOptions(Path(out), resume, console or Console(quiet=True), on_log=on_log, on_step=on_step)
