"""What a run would do, for `--dry-run`."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from torch import nn

from iccld_cli.adapt.inputs import TrainingData
from iccld_cli.adapt.memory import checkpoint_activations, format_bytes, saved_for_backward
from iccld_cli.config import Config
from iccld_cli.models.build import build_discriminator, build_segmenter
from iccld_cli.models.segmenter import Segmenter


def print_plan(config: Config, data: TrainingData, *, denoiser: bool, backbone: dict[str, Any] | None = None) -> None:
    """Print the resolved configuration, the classes, the parameter counts and an estimate of the memory.

    Args:
        config: The configuration.
        data: The data sets.
        denoiser: Whether the run has the UNet (stage 2).
        backbone: Encoder description of the model file that the run starts from.
    """
    console = Console(highlight=False)
    model = build_segmenter(config, len(data.space), denoiser=denoiser, backbone=backbone)
    print(config.to_toml())
    parts: list[tuple[str, nn.Module]] = [("encoder", model.encoder), ("decoder", model.decoder)]
    if denoiser and model.denoiser is not None:
        parts += [("denoising UNet", model.denoiser), ("discriminator", build_discriminator(config))]
    for name, part in parts:
        console.print(f"# {name}: {_count(part) / 1e6:.2f} M parameters")
    console.print(f"# classes: {', '.join(data.space.names_of(data.classes))}", soft_wrap=True)
    weights, activations = estimate_memory(config, model)
    console.print(
        f"# memory: about {format_bytes(weights + activations)} besides the libraries' own: {format_bytes(weights)} "
        f"weights, gradients, optimizer and teacher, {format_bytes(activations)} activations of a batch "
        f"(in fp32; bf16 halves them)",
        soft_wrap=True,
    )


def estimate_memory(config: Config, model: Segmenter) -> tuple[int, int]:
    """Memory of a training step at fp32, without what the libraries themselves take.

    Weights, gradients, two moments and the teacher are five copies of the trained parameters. Activations are counted
    in one forward pass of two images and scaled to the images of a batch.

    Args:
        config: The configuration.
        model: Networks of that configuration; they are used up.

    Returns:
        Bytes of weights, and bytes of activations.
    """
    weights = 5 * 4 * _count(model)
    if config.run.checkpointing:
        checkpoint_activations(model)
    width, height = config.data.crop
    model.train()
    images = torch.rand(2, 3, height, width)

    def forward() -> torch.Tensor:
        z_0, skip = model.encoder(images)
        logits = model.decoder(z_0, skip)
        if model.denoiser is None:
            return logits.float().mean()
        estimate = model.denoiser(torch.randn_like(z_0), torch.zeros(len(z_0), dtype=torch.int64), z_0)
        return logits.float().mean() + model.decoder(estimate, skip).float().mean()

    return weights, saved_for_backward(forward) // 2 * _images(config, adversarial=model.denoiser is not None)


def _images(config: Config, adversarial: bool) -> int:
    """Images of a micro-batch that pass with a gradient: source, mixed, and masked targets."""
    copies = 3 if not adversarial and config.seg.masked_weight > 0 else 2
    return copies * config.data.batch_size


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
