"""`iccld predict`: images and videos into overlays, labels and confidence maps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iccld_cli.cli.bars import progress_bar
from iccld_cli.cli.options import MAX_SAMPLES, Flip, Scales, parse_scales
from iccld_cli.cli.terminal import say
from iccld_cli.errors import IccldError

if TYPE_CHECKING:
    from iccld_cli.inference.predict import Prediction

_SHOWN_PROBLEMS = 20


def predict(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, videos, folders or quoted globs.")],
    ckpt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model file (default: the one that is shipped).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("predictions"),
    steps: Annotated[int | None, typer.Option(min=0, help="Denoising steps; 0 decodes the latent directly.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=MAX_SAMPLES, help="Noise seeds to average.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Noise seed.")] = 0,
    scales: Scales = "1",
    flip: Flip = False,
    save: Annotated[
        str, typer.Option(help="Any of overlay,labels,color,confidence,uncertainty, separated by commas.")
    ] = "overlay",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay's colours.")] = 0.5,
    legend: Annotated[bool, typer.Option(help="Name the classes at the foot of overlays.")] = True,
    height: Annotated[
        int | None,
        typer.Option(min=32, max=16384, help="Height the network works at, for speed; results keep the input's size."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a pass (default: by device).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many images, and frames of each video.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose results exist.")
    ] = False,
) -> None:
    """Segment images and videos. Results go to DIR/<kind>/<name>, with the folders of the inputs kept."""
    from iccld_cli.inference.outputs import KINDS

    factors = parse_scales(scales)
    kinds = tuple(dict.fromkeys(word.strip() for word in save.split(",") if word.strip()))
    if not kinds or not set(kinds) <= set(KINDS):
        raise typer.BadParameter(f"{save!r}: choose of {', '.join(KINDS)}", param_hint="--save")

    from iccld_cli.inference.device import load_for_inference, pick_device
    from iccld_cli.inference.inputs import collect
    from iccld_cli.inference.predict import PredictOptions
    from iccld_cli.inference.predict import predict as run

    left_out: dict[Path, str] = {}
    jobs = collect(inputs, out, left_out)
    for path, reason in left_out.items():
        say(f"warning: {path} {reason} and is left out", stderr=True)
    where = pick_device(device)
    segmenter, header = load_for_inference(_checkpoint(ckpt), where)
    options = PredictOptions(
        out=out,
        save=kinds,
        steps=steps,
        samples=samples,
        seed=seed,
        scales=factors,
        flip=flip,
        alpha=alpha,
        legend=legend,
        height=height,
        batch_size=batch_size,
        limit=limit,
        overwrite=overwrite,
        skip_existing=skip_existing,
    )
    started = time.perf_counter()
    try:
        with progress_bar("predict", "frames") as progress:
            done = run(segmenter, header, jobs, options, device=where, progress=progress)
    except KeyboardInterrupt:
        say(
            f"interrupted; finished results are in {out}, those of a video under work end in .partial.mp4 (labels: "
            ".partial); the same command goes on",
            stderr=True,
        )
        raise
    _tell(done, out, time.perf_counter() - started, len(jobs))


def _checkpoint(given: Path | None) -> Path:
    from iccld_cli.inference.shipped import default_checkpoint

    if given is not None:
        return given
    path = default_checkpoint()
    if path is None:
        raise IccldError(
            "this installation comes without a model file", "name one with --ckpt, such as RUN/stage2.safetensors"
        )
    say(
        f"using the model that comes with iccld, {path.name}: for research, see {path.stem}.md; --ckpt takes another",
        stderr=True,
    )
    return path


def _tell(done: Prediction, out: Path, seconds: float, inputs: int) -> None:
    parts = [
        f"{number} {one if number == 1 else many}"
        for number, one, many in ((done.images, "image", "images"), (done.frames, "video frame", "video frames"))
        if number
    ]
    units = done.images + done.frames
    if units:
        say(f"{' and '.join(parts)} in {seconds:.1f} s ({units / seconds:.2f} a second) -> {out}")
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
