"""`iccld demo`: everything on the built-in virtual town."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli.hints import say_next
from iccld_cli.cli.options import parse_size
from iccld_cli.cli.terminal import console as make_console
from iccld_cli.cli.terminal import say


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything the demo makes.")] = Path(
        "iccld-demo"
    ),
    frames: Annotated[int, typer.Option(min=8, max=1_000_000, help="Training frames of each look.")] = 160,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of a frame.")] = "384x192",
    iterations: Annotated[
        int, typer.Option(min=1, help="Steps of the burn-in and of each training after it; stage 2 takes half as many.")
    ] = 150,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the video.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the town and of training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """The whole path in minutes: render a town, adapt to its other look, score, make a video and a page."""
    from iccld_cli.demo import DRIVE_NAME, RUNS, DemoOptions, run_demo
    from iccld_cli.header import FILE_NAMES

    console = make_console()
    wanted = parse_size(size)
    assert wanted is not None
    summary = run_demo(DemoOptions(out, frames, wanted, iterations, seconds, seed, device), console)
    console.rule("Done")
    console.print(
        f"source only {summary['source_only']:.1f} -> stage 1 {summary['stage1']:.1f} -> stage 2 "
        f"{summary['stage2']:.1f}, with labels {summary['labelled']:.1f} mIoU on the unseen look, "
        f"in {summary['seconds']:.0f} s"
    )
    say(f"open {out / 'index.html'}")
    say_next(["predict", out / DRIVE_NAME, "--ckpt", out / "runs" / RUNS["stage2"] / FILE_NAMES["stage2"]])
