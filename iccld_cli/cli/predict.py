"""`iccld predict`: images and videos into overlays, labels and confidence maps."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iccld_cli.cli.hints import after_predict, say_next
from iccld_cli.cli.options import (
    MAX_SAMPLES,
    Average,
    Backend,
    Engine,
    Flip,
    Height,
    IgnoreMask,
    Merge,
    PartOption,
    Parts,
    RayAddress,
    Scales,
    WorkerCpus,
    parse_fleet,
    parse_height,
    parse_part,
    parse_scales,
    parse_time,
    refuse_stored,
)
from iccld_cli.cli.terminal import progress_bar, say
from iccld_cli.errors import IccldError
from iccld_cli.parts import FOLDER
from iccld_cli.storage import local_path, shown_address, url_of

if TYPE_CHECKING:
    from iccld_cli.fleet.work import Fleet
    from iccld_cli.inference.inputs import Input
    from iccld_cli.inference.predict_options import PredictOptions, Summary
    from iccld_cli.parts import Part

_SHOWN_PROBLEMS = 20


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Images, videos, folders, quoted globs, .txt lists, - for a list on standard input, http(s):// files, "
            "rtsp:// streams, or the number of a camera.",
        ),
    ] = None,
    ckpt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Model file (.safetensors, .onnx, .xml), or a shipped one: small (default), roads, free, whatever "
            "else has that name.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("predictions"),
    steps: Annotated[int | None, typer.Option(min=0, help="Denoising steps; 0 decodes the latent directly.")] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=MAX_SAMPLES, help="Noise seeds: the first answers, the others say how sure it is.")
    ] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Noise seed (default: the model's, 0).")] = None,
    scales: Scales = "1",
    flip: Flip = False,
    average: Average = False,
    save: Annotated[
        str,
        typer.Option(
            metavar="KIND,KIND",
            help="What to write: overlay, side (input beside overlay), labels (trainIds), palette (same, in colour), "
            "labelIds (for the Cityscapes server), color, confidence, uncertainty, probabilities, frames (numbers of "
            "each frame), dataset (predictions to train on).",
        ),
    ] = "overlay",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, metavar="P", help="Least confidence of a label in `dataset`; others are 255.")
    ] = 0.9,
    to_label: Annotated[
        int, typer.Option(min=0, metavar="N", help="List the N frames most worth labelling in DIR/to_label.jsonl.")
    ] = 0,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay's colours.")] = 0.5,
    legend: Annotated[bool, typer.Option(help="Name the classes at the foot of overlays.")] = True,
    height: Height = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images a pass (default: by device). With --part, 1, 2, 4, 8 and 16 give one run's results to the "
            "last bit.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or mps (untested).")] = "auto",
    backend: Backend = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many images, and frames of each video.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Of videos and streams: only every N-th frame.")] = 1,
    start: Annotated[
        str | None, typer.Option(metavar="T", help="Of videos: begin here, in seconds or HH:MM:SS.")
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="T", help="Of videos and streams: end here.")] = None,
    smooth: Annotated[
        bool | None,
        typer.Option("--smooth/--no-smooth", help="Steady the answers of videos along the motion (default: yes)."),
    ] = None,
    ignore_mask: IgnoreMask = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose results exist.")
    ] = False,
    part: PartOption = None,
    merge: Merge = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    parts: Parts = None,
    worker_cpus: WorkerCpus = None,
) -> None:
    """Segment images and videos. Results go to DIR/<kind>/<name>, with the folders of the inputs kept."""
    from iccld_cli.inference.outputs import KINDS

    factors, rows = parse_scales(scales), parse_height(height)
    begin, finish = parse_time(start, "--start"), parse_time(end, "--end")
    if smooth and average:
        raise typer.BadParameter("--average answers without it", param_hint="--smooth")
    if finish is not None and finish <= (begin or 0):
        raise typer.BadParameter(f"{end!r} does not lie after the start", param_hint="--end")
    share = parse_part(part, merge)
    fleet = parse_fleet(engine, ray_address, parts, worker_cpus, {"--part": share is not None, "--merge": merge})
    if merge:
        _merge(inputs or [], out, limit, overwrite, skip_existing)
        return
    if not inputs:
        raise typer.BadParameter("name at least one image, video or folder", param_hint="INPUT")
    if share is not None and "-" in inputs:
        raise typer.BadParameter("a list on standard input cannot be cut; write it to a .txt file", param_hint="--part")
    kinds = tuple(dict.fromkeys(word.strip() for word in save.split(",") if word.strip()))
    if not kinds or not set(kinds) <= set(KINDS):
        raise typer.BadParameter(f"{save!r}: choose one of {', '.join(KINDS)}", param_hint="--save")

    from iccld_cli.inference.inputs import collect
    from iccld_cli.inference.model import Sampling, find_model, load_model
    from iccld_cli.inference.predict import Stopped
    from iccld_cli.inference.predict import predict as run
    from iccld_cli.inference.predict_options import PredictOptions

    out, ckpt = local_path(out), None if ckpt is None else local_path(ckpt)
    inputs = [str(local_path(Path(given))) if given.startswith("file://") else given for given in inputs]
    if fleet is None:
        refuse_stored({"--out": out, "--ckpt": ckpt})
    left_out: dict[Path, str] = {}
    items = collect(inputs, out, left_out)
    for path, reason in left_out.items():
        say(f"warning: {path} {reason} and is left out", stderr=True)
    file = None if fleet is not None else find_model(ckpt)
    once = len(items) == 1 and not items[0].is_video
    sampling = Sampling(steps, seed, samples, factors, flip, rows, once, average)
    more = flip or samples > 1 or len(factors) > 1
    if more and not average and "uncertainty" not in kinds:
        _note("warning: --flip, --scales and --samples change no result here: add uncertainty to --save, or --average")
    model = None
    if fleet is None:
        model = load_model(file, device, backend=backend, sampling=sampling, tell=_note)
    if ckpt is None:
        file = file or find_model(None)
        say(
            f"using the model that comes with iccld, {file.name}: for research, see {file.stem}.md; --ckpt takes "
            "another",
            stderr=True,
        )
    options = PredictOptions(
        out=out,
        save=kinds,
        sampling=sampling,
        alpha=alpha,
        legend=legend,
        batch_size=batch_size,
        limit=limit,
        every=every,
        start=begin,
        end=finish,
        smooth=not average if smooth is None else smooth,
        ignore=ignore_mask,
        overwrite=overwrite,
        skip_existing=skip_existing,
        threshold=threshold,
        to_label=to_label,
    )
    started = time.perf_counter()
    if model is None or file is None:
        assert fleet is not None
        _with_ray(items, ckpt, options, fleet, device, backend)
        return
    by = f"{model.backend} {model.precision} on {model.device}"
    try:
        with progress_bar("predict", "frames") as progress:
            done = run(model, items, options, progress, _note, share)
    except Stopped as stop:
        try:
            _tell(stop.summary, out, time.perf_counter() - started, len(items), by)
        except IccldError as problem:  # the interrupt decides how this ends
            say(f"not read in full: {problem}", stderr=True)
        left = f"; the same command goes on with the {stop.left} inputs left" if stop.left else ""
        say(f"interrupted; what was recorded is in {out}{left}", stderr=True)
        raise
    except KeyboardInterrupt:
        say(
            f"interrupted; finished results are in {out}, those of a video under work end in .partial.mp4 (labels: "
            ".partial); the same command goes on",
            stderr=True,
        )
        raise
    if share is not None:
        _tell_part(share, done, out)
        return
    _tell(done, out, time.perf_counter() - started, len(items), by)
    if once and backend == "auto":
        from iccld_cli.inference.backends import convert_for_next_time

        convert_for_next_time(file, model, sampling, _note)
    if done.images + done.frames:
        say_next(["inspect", done.dataset.root] if done.dataset is not None else after_predict(inputs, ckpt, file))


def _with_ray(
    items: list[Input], ckpt: Path | None, options: PredictOptions, fleet: Fleet, device: str, backend: str
) -> None:
    from iccld_cli.cli.fleet import fleet_bars
    from iccld_cli.fleet.predicting import predict_with_ray

    started, target = time.perf_counter(), url_of(options.out)
    where = options.out if target is None else shown_address(target)
    try:
        with fleet_bars("predict", "frames", "join", "inputs") as bars:
            done, count = predict_with_ray(
                items,
                ckpt,
                options,
                fleet,
                target=target,
                device=device,
                backend=backend,
                progress=bars.work,
                tell=bars.tell,
                joining=bars.join,
            )
    except KeyboardInterrupt:
        say("interrupted; finished parts are kept, the same command goes on", stderr=True)
        raise
    seconds, units = time.perf_counter() - started, done.images + done.frames
    rate = f" ({units / seconds:.2f} a second)" if units else ""
    say(f"{count} parts made and joined in {seconds:.1f} s: {_units(done)}{rate} -> {where}")
    total = units + done.skipped + len(done.problems)
    _tell(replace(done, images=0, frames=0), where, 0, total, "")


def _merge(inputs: list[str], out: Path, limit: int | None, overwrite: bool, skip_existing: bool) -> None:
    """Join the parts in the folders that are given, or in `--out`; other inputs must be those of the parts."""
    from iccld_cli.inference.inputs import collect
    from iccld_cli.inference.merge import holds_parts, merge

    folders = [Path(given) for given in inputs if holds_parts(Path(given))]
    others = [given for given in inputs if not holds_parts(Path(given))]
    expected = {item.name.as_posix() for item in collect(others, out)} if others and limit is None else None
    started = time.perf_counter()
    with progress_bar("join", "inputs") as progress:
        done, count = merge(
            out, folders, expected=expected, overwrite=overwrite, skip_existing=skip_existing, progress=progress
        )
    total = done.images + done.frames + done.skipped + len(done.problems)
    say(f"{count} parts joined in {time.perf_counter() - started:.1f} s: {_units(done)} -> {out}")
    _tell(replace(done, images=0, frames=0), out, 0, total, "")


def _tell_part(part: Part, done: Summary, out: Path) -> None:
    """What one part did. Inputs with a problem are told; that they are wrong is the joined result's to say."""
    for _, problem in done.problems[:_SHOWN_PROBLEMS]:
        say(f"not read in full: {problem}", stderr=True)
    if len(done.problems) > _SHOWN_PROBLEMS:
        say(f"... and {len(done.problems) - _SHOWN_PROBLEMS} more inputs not read in full", stderr=True)
    where = out / FOLDER / part.name
    if not (done.images or done.frames or done.resumed or done.skipped or done.problems):
        say(f"part {part} has nothing to do: there are fewer pieces of input than parts -> {where}")
        return
    words = [_units(done)] if done.images or done.frames else []
    if done.resumed:
        words.append(f"{done.resumed} inputs that an earlier run had finished")
    if done.skipped:
        words.append(f"{done.skipped} inputs left out, their results exist")
    say(f"part {part} is done: {', '.join(words) or 'nothing that could be read'} -> {where}")
    say("when all parts are done, the same command with --merge instead of --part joins them")


def _note(line: str) -> None:
    say(line, stderr=True)


def _units(done: Summary) -> str:
    parts = [
        f"{number} {one if number == 1 else many}"
        for number, one, many in ((done.images, "image", "images"), (done.frames, "video frame", "video frames"))
        if number
    ]
    return " and ".join(parts) or "nothing that could be read"


def _tell(done: Summary, out: Path | str, seconds: float, inputs: int, by: str) -> None:
    units = done.images + done.frames
    if units:
        say(f"{_units(done)} in {seconds:.1f} s ({units / seconds:.2f} a second, {by}) -> {out}")
    if done.dataset is not None:
        pixels = done.dataset.info.extra["pixels"]
        share = 1 - pixels.get("ignore", 0) / max(1, sum(pixels.values()))
        frames = done.dataset.info.extra["labelled"]
        where = done.dataset.root if isinstance(out, Path) else f"{out}/dataset"
        say(f"{frames} frames to train on, {100 * share:.0f} % of their pixels with a label -> {where}")
    if done.to_label:
        say(f"{len(done.to_label)} frames most worth labelling -> {out}/to_label.jsonl, first {done.to_label[0]}")
    for one in done.live:
        half, most = (1000 * seconds for seconds in one.latency)
        say(
            f"{one.where}: {one.frames} of {one.received} frames, the others were passed over; from arrival to result "
            f"{half:.0f} ms (p50), {most:.0f} ms (p99)"
        )
    if done.resumed:
        say(f"{done.resumed} inputs were finished by an earlier run that ended early")
    if done.skipped:
        say(f"{done.skipped} inputs left out, their results exist")
    if not done.problems:
        return
    if len(done.problems) == 1:
        raise done.problems[0][1]
    for _, problem in done.problems[:_SHOWN_PROBLEMS]:
        say(f"not read in full: {problem}", stderr=True)
    raise IccldError(
        f"{len(done.problems)} of {inputs} inputs could not be read in full", "the others are done, see above"
    )
