"""The whole of figure 2 as one function of image and noise, for other runtimes.

The sampler becomes a few sums with constant factors, so that the graph holds no loop and no scheduler.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from iccld_cli.diffusion.sampler import sample, seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.models.segmenter import Segmenter

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


class LogitsGraph(nn.Module):
    """`Segmenter.logits` for one noise, which comes from outside, without anything that depends on the size."""

    def __init__(self, segmenter: Segmenter, steps: int) -> None:
        """Work out the sampler's factors.

        Args:
            segmenter: The model, on the CPU.
            steps: Sampling steps.

        Raises:
            IccldError: The sampler is not linear with that number of steps.
        """
        super().__init__()
        self.segmenter = segmenter
        self.updates = linear_updates(segmenter.scheduler, steps) if steps else []

    def forward(self, images: Tensor, *noises: Tensor) -> Tensor:
        """Segment images.

        Args:
            images: float32 (1, 3, H, W), RGB in [0, 1], sides multiples of the model's.
            noises: (1, C_z, H/8, W/8) of each resolution; not used without sampling steps.

        Returns:
            Logits (1, K, H/4, W/4).
        """
        model = self.segmenter
        latents, skips = [], []
        for view, noise in zip(model.at_resolutions(images), noises, strict=True):
            z_0, skip, _ = model.encoder(view)
            z = noise if self.updates else z_0
            for t, of_clean, of_noisy in self.updates:
                assert model.denoiser is not None
                clean = model.denoiser(z, torch.full((1,), t, dtype=torch.int64), z_0)
                z = of_clean * clean + of_noisy * z
            latents.append(z)
            skips.append(skip)
        return model.decode(latents, skips)

    @torch.no_grad()
    def noise_shapes(self, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Shapes (1, C_z, H/8, W/8) of the noises, one a resolution, for images of fitting (height, width)."""
        channels = self.segmenter.config.model.latent_channels
        views = self.segmenter.at_resolutions(torch.zeros(1, 3, *size))
        return [(1, channels, view.shape[-2] // 8, view.shape[-1] // 8) for view in views]


def linear_updates(scheduler: DDIMScheduler, steps: int) -> list[tuple[int, float, float]]:
    """A sampler's steps as numbers: z_next = a * clean + b * z_t, since DDIM without added noise is linear.

    They are taken from the scheduler itself, so that there is no second formula that could differ, and
    then compared with a whole run of the sampler.

    Args:
        scheduler: From `build_scheduler`.
        steps: Sampling steps; 0 gives none.

    Returns:
        (t, a, b) of each step.

    Raises:
        IccldError: The scheduler's steps are not linear, or depend on the steps before.
    """
    if not steps:
        return []
    scheduler = copy.copy(scheduler)  # it keeps its time steps in itself
    scheduler.set_timesteps(steps)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    updates = []
    for t in scheduler.timesteps.tolist():
        a, b = (
            float(scheduler.step(clean, t, noisy, eta=0.0).prev_sample) for clean, noisy in ((one, zero), (zero, one))
        )
        updates.append((t, a, b))
    z = noise = 3 * seeded_noise((1, 4, 8, 8), 0).double()
    for t, a, b in updates:
        z = a * _bent(z, t) + b * z
    wanted = sample(lambda z_t, t: _bent(z_t, int(t[0])), scheduler, noise, steps)
    if not torch.allclose(z, wanted, rtol=1e-4, atol=1e-4):
        raise IccldError(
            f"the sampler {type(scheduler).__name__} of this model is not linear with {steps} steps, and an exported "
            "graph has linear steps",
            "export with --steps 0, or use the .safetensors file",
        )
    return updates


def _bent(z: Tensor, t: int) -> Tensor:
    """An estimate that depends on latent and time step, and not linearly."""
    return 2 * torch.tanh(z) * (1 - t / 2000) + t / 1000
