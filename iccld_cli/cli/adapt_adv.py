"""`iccld adapt-adv`: stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli import training
from iccld_cli.errors import IccldError


def adapt_adv(
    ckpt: Annotated[Path, typer.Option(help="stage1.safetensors that adapt-seg wrote.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; the checkpoint's own by default.")] = None,
    source: Annotated[list[Path] | None, typer.Option(help="Replaces the sources named in the checkpoint.")] = None,
    target: Annotated[list[Path] | None, typer.Option(help="Replaces the targets named in the checkpoint.")] = None,
    iterations: training.Iterations = None,
    batch_size: training.BatchSize = None,
    crop: training.Crop = None,
    seed: training.Seed = None,
    device: training.Device = None,
    precision: training.Precision = None,
    resume: training.Resume = False,
    save_every: training.SaveEvery = None,
    compile: training.Compile = False,
    config: training.ConfigFile = None,
    assignments: training.Assignments = None,
    dry_run: training.DryRun = False,
) -> None:
    """Stage 2: adversarial learning on the denoising UNet, from a stage-1 file alone."""
    from iccld_cli.config import load_config
    from iccld_cli.train.run import RunOptions, adapt_adv, data_of_header, open_data, resume_header

    header = resume_header(ckpt)
    given = dict(
        encoder=None, iterations=iterations, batch_size=batch_size, crop=crop, seed=seed, device=device,
        precision=precision, save_every=save_every, compile=compile,
    )  # fmt: skip
    resolved = load_config(
        file=config, base=header.config, overrides=training.overrides("adv", **given), assignments=assignments
    )
    frozen = (
        "encoder",
        "tiny_channels",
        "latent_channels",
        "fuse_channels",
        "skip_channels",
        "decoder_channels",
        "detail",
    )
    for name in frozen:
        if getattr(resolved.model, name) != getattr(header.config.model, name):
            raise IccldError(f"model.{name} is fixed by {ckpt}", "change it in stage 1")
    sources, targets = data_of_header(header, ckpt)
    data = open_data(source or sources, target or targets)
    if dry_run:
        from iccld_cli.train.dry_run import print_plan

        print_plan(resolved, data, adversarial=True, backbone=header.backbone)
        return
    options = RunOptions(out or ckpt.parent, resume, auto_batch=training.wants_auto(batch_size))
    adapt_adv(resolved, data, options, ckpt)
