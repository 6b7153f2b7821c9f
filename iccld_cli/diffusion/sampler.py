"""From noise to a clean latent in a few steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from iccld_cli.errors import IccldError

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(z_t (B, C, h, w), t (B,) int64) -> estimate of the clean latent (B, C, h, w)."""


def seeded_noise(shape: tuple[int, ...], seed: int, index: int = 0) -> torch.Tensor:
    """Standard normal noise that depends on nothing but its arguments.

    It is drawn on the CPU, so that a seed means the same on every device.

    Args:
        shape: Shape of the noise.
        seed: Seed of the run.
        index: Which of several draws of this seed.

    Returns:
        float32 tensor of `shape`, on the CPU.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(shape, generator=generator)


def sample(denoise: Denoise, scheduler: DDIMScheduler, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Deterministic DDIM sampling (Song et al. 2021, equation 12, eta = 0).

    Args:
        denoise: The denoiser, conditioned already.
        scheduler: From `build_scheduler`.
        noise: z_T, (B, C, h, w).
        steps: Number of denoising steps, from 1 to T.

    Returns:
        The clean latent z̄_0, (B, C, h, w).

    Raises:
        IccldError: `steps` is out of range.
    """
    total = int(scheduler.config["num_train_timesteps"])
    if not 1 <= steps <= total:
        raise IccldError(f"{steps} sampling steps are not possible", f"choose 1 to {total}")
    scheduler = copy.copy(scheduler)  # it keeps its time steps in itself, and belongs to every thread that samples
    scheduler.set_timesteps(steps)
    z_t = noise
    for t in scheduler.timesteps.tolist():
        clean = denoise(z_t, torch.full((noise.shape[0],), t, dtype=torch.int64, device=noise.device))
        z_t = scheduler.step(clean, t, z_t, eta=0.0).prev_sample
    return z_t
