"""What a run would do, for `--dry-run`."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from torch import nn

from iccld_cli.adapt.baselines import stage2_class
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.config import Config
from iccld_cli.models.build import build_discriminator, build_segmenter
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.blocks import checkpoint_activations
from iccld_cli.train.data import TrainingData
from iccld_cli.train.memory import format_bytes, saved_for_backward


def print_plan(
    config: Config, data: TrainingData, *, adversarial: bool, backbone: dict[str, Any] | None = None
) -> None:
    """Print the resolved configuration, the classes, the parameter counts and an estimate of the memory.

    Args:
        config: The configuration.
        data: The data sets.
        adversarial: Whether it is stage 2.
        backbone: Encoder description of the model file that the run starts from.
    """
    console = Console(highlight=False)
    classes = len(data.space)
    model = build_segmenter(config, classes, denoiser=adversarial and config.adv.generate, backbone=backbone)
    print(config.to_toml())
    parts: list[tuple[str, nn.Module]] = [("encoder", model.encoder), ("decoder", model.decoder)]
    if model.denoiser is not None:
        parts.append(("denoising UNet", model.denoiser))
    if adversarial:
        parts.append(("discriminator", build_discriminator(config, classes)))
    for name, part in parts:
        console.print(f"# {name}: {_count(part) / 1e6:.2f} M parameters")
    console.print(f"# classes: {', '.join(data.space.names_of(data.classes))}", soft_wrap=True)
    weights, activations = estimate_memory(config, model, adversarial, labelled=bool(data.labelled or data.answers))
    console.print(
        f"# memory: about {format_bytes(weights + activations)} besides the libraries' own: {format_bytes(weights)} "
        f"weights, gradients, optimizer and teacher, {format_bytes(activations)} activations of a batch "
        f"(in fp32; bf16 halves them)",
        soft_wrap=True,
    )


def estimate_memory(config: Config, model: Segmenter, adversarial: bool, labelled: bool = False) -> tuple[int, int]:
    """Memory of a training step at fp32, without what the libraries themselves take.

    Weights, gradients, two moments and the teacher are five copies of the trained parameters. Activations are counted
    in one forward pass of two images and scaled to the images of a batch.

    Args:
        config: The configuration.
        model: Networks of that configuration; they are used up.
        adversarial: Whether it is stage 2.
        labelled: Whether a step also has labelled target crops.

    Returns:
        Bytes of weights, and bytes of activations.
    """
    weights = 5 * 4 * _count(model)
    if config.run.checkpointing:
        checkpoint_activations(model)
    width, height = config.data.crop
    model.train()
    views = 1 + config.model.detail
    images = torch.rand(2 * views, 3, height // views, width // views)

    def forward() -> torch.Tensor:
        z_0, skip, _ = model.encoder(images)
        logits = model.decoder(z_0, skip)
        if model.denoiser is None:
            return logits.float().mean()
        estimate = model.denoiser(torch.randn_like(z_0), torch.zeros(len(z_0), dtype=torch.int64), z_0)
        return logits.float().mean() + model.decoder(estimate, skip).float().mean()

    stage = stage2_class(config) if adversarial else Stage1
    images_a_sample = stage.trained_images(config) + labelled
    return weights, saved_for_backward(forward) // 2 * images_a_sample * config.data.batch_size


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
