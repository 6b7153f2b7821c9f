"""`iccld adapt-adv`: stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli import training
from iccld_cli.cli.hints import after_training, say_next
from iccld_cli.errors import IccldError


def adapt_adv(
    ckpt: Annotated[
        Path, typer.Option(help="stage1.safetensors of adapt-seg; or a stage-2 file, whose UNet is trained further.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run folder; the checkpoint's own by default.")] = None,
    source: Annotated[list[Path] | None, typer.Option(help="Replaces the sources named in the checkpoint.")] = None,
    target: Annotated[list[Path] | None, typer.Option(help="Replaces the targets named in the checkpoint.")] = None,
    labelled: training.Labelled = None,
    val: training.Val = None,
    classes: training.Classes = None,
    recipe: training.Recipe = None,
    iterations: training.Iterations = None,
    batch_size: training.BatchSize = None,
    crop: training.Crop = None,
    seed: training.Seed = None,
    device: training.Device = None,
    precision: training.Precision = None,
    resume: training.Resume = False,
    save_every: training.SaveEvery = None,
    select: training.Select = None,
    compile: training.Compile = False,
    config: training.ConfigFile = None,
    assignments: training.Assignments = None,
    dry_run: training.DryRun = False,
) -> None:
    """Stage 2: adversarial learning on the denoising UNet, from a model file alone."""
    from iccld_cli.config import load_config
    from iccld_cli.recipe import chosen_recipe
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import RunOptions, adapt_adv
    from iccld_cli.train.start import open_start

    file = training.start_file(ckpt)
    start = open_start(file)
    assert file is not None and start.header is not None
    if out is None and (training.is_shipped(ckpt) or not ckpt.exists()):
        raise IccldError(f"{ckpt} is no file here", "name the run folder with --out")
    given = dict(
        encoder=None, iterations=iterations, batch_size=batch_size, crop=crop, seed=seed, device=device,
        precision=precision, save_every=save_every, select=select, compile=compile,
    )  # fmt: skip
    resolved = load_config(
        file=config,
        base=start.header.config,
        recipe=chosen_recipe(recipe, stage2=True),
        overrides=training.overrides("adv", **given),
        assignments=assignments,
    )
    start.check(resolved)
    data = open_data(
        source or start.datasets("source"), target or start.datasets("target"), val=val, start=start.header,
        names=training.class_names(classes), labelled=labelled or start.datasets("labelled"),
    )  # fmt: skip
    if dry_run:
        from iccld_cli.train.dry_run import print_plan

        print_plan(resolved, data, adversarial=True, backbone=start.header.backbone)
        return
    options = RunOptions(out or file.parent, resume, auto_batch=training.wants_auto(batch_size))
    model = adapt_adv(resolved, data, options, start)
    if not options.console.quiet:  # of several processes the first speaks
        say_next(after_training(model, data.held_back(), data.targets))
