"""The noise process: how a clean latent becomes noise.

    z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) e,  e ~ N(0, 1)        (a_t is "alpha bar" of DDPM, equation 4)

The schedule has zero terminal SNR (a_T = 0, Lin et al. 2023, section 3.1), so the last step is pure noise and
training meets exactly what sampling starts from. The networks predict the clean latent, never the noise:
at t = T the noise says nothing about the clean latent and predicting it would divide by zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from iccld_cli.sections import DiffusionConfig

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def build_scheduler(config: DiffusionConfig) -> DDIMScheduler:
    """diffusers' DDIM scheduler for clean-latent prediction with trailing time steps.

    Trailing spacing starts every run at t = T, whatever the number of steps (Lin et al. 2023, section 3.3).
    """
    from diffusers import DDIMScheduler  # see `models.denoiser.Denoiser`

    return DDIMScheduler(
        num_train_timesteps=config.train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def terminal_timestep(scheduler: DDIMScheduler) -> int:
    """The time step t = T of pure noise, counted from 0."""
    return int(scheduler.config["num_train_timesteps"]) - 1


def add_noise(
    scheduler: DDIMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """z_t (B, C, h, w) of clean latents of unit variance, standard normal noise and time steps (B,) in [0, T]."""
    return scheduler.add_noise(clean, noise, timesteps)
