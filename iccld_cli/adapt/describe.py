"""What a run would do, for `--dry-run`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from iccld_cli.adapt.inputs import TrainingData
from iccld_cli.config import Config
from iccld_cli.models.build import build_discriminator, build_segmenter


def print_plan(config: Config, data: TrainingData, *, denoiser: bool, backbone: dict[str, Any] | None = None) -> None:
    """Print the resolved configuration, the classes and the parameter counts.

    Args:
        config: The configuration.
        data: The data sets.
        denoiser: Whether the run has the UNet (stage 2).
        backbone: Encoder description of the model file that the run starts from.
    """
    console = Console(highlight=False)
    model = build_segmenter(config, len(data.space), denoiser=denoiser, backbone=backbone)
    print(config.to_toml())
    parts: list[tuple[str, Any]] = [("encoder", model.encoder), ("decoder", model.decoder)]
    if denoiser:
        parts += [("denoising UNet", model.denoiser), ("discriminator", build_discriminator(config))]
    for name, part in parts:
        console.print(f"# {name}: {sum(p.numel() for p in part.parameters()) / 1e6:.2f} M parameters")
    console.print(f"# classes: {', '.join(data.space.names_of(data.classes))}", soft_wrap=True)
