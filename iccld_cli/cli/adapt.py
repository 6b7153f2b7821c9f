"""`iccld adapt`: own footage in, own model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli.hints import say_next
from iccld_cli.cli.options import IgnoreMask
from iccld_cli.cli.terminal import console as make_console
from iccld_cli.cli.terminal import say


def adapt(
    footage: Annotated[
        list[Path], typer.Argument(metavar="FOOTAGE", help="Videos, folders of images or prepared data sets.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the model, the page and everything else.")],
    ckpt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Model to start from: a file, or small, roads or free, the shipped ones (default: small).",
        ),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Minutes of training and, at most a third, of the answers before it; frames, town, choice on top.",
        ),
    ] = 20.0,
    iterations: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Steps of training, in place of --minutes.")
    ] = None,
    stage_2: Annotated[
        bool,
        typer.Option(
            "--stage-2",
            help="Adversarial learning on the UNet after stage 1: a third of --minutes, half as many --iterations.",
        ),
    ] = False,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers/--no-answers",
            help="Learn the start's own surest answers to the frames as labels, beside self-training.",
        ),
    ] = True,
    val: Annotated[
        Path | None, typer.Option(metavar="SET", help="Prepared set with labels in `val`: they choose the model.")
    ] = None,
    labelled: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SET",
            help="Prepared set of this road with any labels, even points, which are learnt; repeatable.",
        ),
    ] = None,
    to_label: Annotated[
        int, typer.Option(min=0, max=1000, metavar="N", help="List the N frames most worth labelling (0: none).")
    ] = 20,
    predict: Annotated[bool, typer.Option("--predict", help="Segment all of the footage with the result.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    ignore_mask: IgnoreMask = None,
) -> None:
    """Adapt a model to your own footage, without labels or with a few, and without a network.

    Chooses frames worth training on, has the start answer them, learns its surest answers beside self-training and the
    virtual town, and keeps the start, the adapted model or their average: what scores best on --val; without it the
    adapted one where it contradicts itself clearly less often than the start, else the average, and the start where
    that has broken. DIR/index.html shows before and after. The same command again goes on where it stopped.
    """
    from iccld_cli.data.prepared import INFO_NAME
    from iccld_cli.footage.options import FootageOptions
    from iccld_cli.footage.page import PAGE_NAME
    from iccld_cli.footage.run import MODEL_NAME, adapt_footage

    console = make_console()
    options = FootageOptions(
        footage,
        out,
        ckpt,
        minutes,
        iterations,
        val,
        predict,
        seed,
        device,
        ignore_mask,
        labelled or [],
        to_label,
        stage_2,
        answers,
    )
    summary = adapt_footage(options, console)
    console.rule("Done")
    kept = "stage-2" if summary["chosen"] == "stage2" else summary["chosen"]
    say(f"{kept} model kept after {summary['seconds']:.0f} s -> {out / MODEL_NAME}")
    say(f"open {out / PAGE_NAME}")
    model = out / MODEL_NAME
    done: list[str | Path] = ["export", "--ckpt", model, "--format", "openvino", "--out", f"{out.resolve().name}.xml"]
    frames = [path / "images" if (path / INFO_NAME).is_file() else path for path in footage]
    say_next(done if predict else ["predict", *frames, "--ckpt", model])
