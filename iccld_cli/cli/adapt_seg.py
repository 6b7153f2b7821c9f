"""`iccld adapt-seg`: stage 1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli import training
from iccld_cli.cli.hints import after_training, say_next


def adapt_seg(
    source: Annotated[list[Path], typer.Option(help="Labelled prepared data set; repeatable.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    target: Annotated[list[Path] | None, typer.Option(help="Prepared target data set; labels not needed.")] = None,
    ckpt: Annotated[
        Path | None, typer.Option(help="Model file of any stage to start from, or a shipped one: small, roads, free.")
    ] = None,
    labelled: training.Labelled = None,
    val: training.Val = None,
    classes: training.Classes = None,
    source_only: Annotated[bool, typer.Option("--source-only", help="Train the baseline on the source alone.")] = False,
    preset: training.Preset = None,
    recipe: training.Recipe = None,
    encoder: training.Encoder = None,
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
    """Stage 1: adapt encoder and decoder from labelled source frames to unlabelled target frames."""
    from iccld_cli.config import load_config
    from iccld_cli.recipe import chosen_recipe
    from iccld_cli.train.data import open_data
    from iccld_cli.train.run import RunOptions, adapt_seg
    from iccld_cli.train.start import open_start

    start = open_start(training.start_file(ckpt))
    header = start.header
    given = dict(
        encoder=encoder, iterations=iterations, batch_size=batch_size, crop=crop, seed=seed, device=device,
        precision=precision, save_every=save_every, select=select, compile=compile,
    )  # fmt: skip
    method = chosen_recipe(recipe)
    resolved = load_config(
        preset, file=config, recipe=method, base=header.config if header else None,
        sizes=header.config.model if header else None,
        overrides=training.overrides("seg", **given), assignments=assignments,
    )  # fmt: skip
    start.check(resolved)
    data = open_data(
        source, target or [], val=val, start=header, names=training.class_names(classes), labelled=labelled or []
    )
    if dry_run:
        from iccld_cli.train.dry_run import print_plan

        print_plan(resolved, data, adversarial=False, backbone=header.backbone if header else None)
        return
    options = RunOptions(out, resume, auto_batch=training.wants_auto(batch_size))
    alone = source_only or (method is not None and method.source_only)
    model = adapt_seg(resolved, data, options, alone, start)
    if not options.console.quiet:  # of several processes the first speaks
        say_next(after_training(model, data.held_back(), data.targets) if alone else ["adapt-adv", "--ckpt", model])
