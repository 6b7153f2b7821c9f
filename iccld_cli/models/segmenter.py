"""The ICCLD model, whole. Read this first.

One image through it (figure 2 of arXiv 2412.16859), in `Segmenter.logits`:

    x          (B, 3, H, W)          RGB in [0, 1], its sides multiples of `self.multiple`
    z_0, skip  = E(x)                (B, C_z, H/8, W/8), (B, S, H/4, W/4)
    z_T        ~ N(0, 1)             (B, C_z, H/8, W/8)
    z̄_0        = UNet^T(z_T ; z_0)   T denoising steps, (B, C_z, H/8, W/8)
    logits     = D(z̄_0, skip)        (B, K, H/4, W/4)

With 0 steps D decodes z_0 itself: the stage-1 model, which every stage-2 file still contains. With `model.detail` the
image passes twice, at half and at full size: `models.detail.TwoResolutions`. Sizes, scales and what is averaged are
`inference.torch_model`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.config import Config
from iccld_cli.diffusion.sampler import sample, seeded_noise
from iccld_cli.diffusion.schedule import build_scheduler
from iccld_cli.errors import IccldError
from iccld_cli.models.decoder import Decoder
from iccld_cli.models.denoiser import Denoiser
from iccld_cli.models.encoder import Encoder
from iccld_cli.models.views import View

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


class Segmenter(nn.Module):
    """E, the denoising UNet and D.

    Attributes:
        resolutions: How many sizes of an image pass the networks.
        multiple: What the sides of an image must be multiples of.
    """

    resolutions = 1

    def __init__(self, encoder: Encoder, decoder: Decoder, denoiser: Denoiser | None, config: Config) -> None:
        """Join built parts (see `models.build`).

        Args:
            encoder: E.
            decoder: D.
            denoiser: The UNet; None for a stage-1 model.
            config: Configuration the parts were built from.
        """
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.denoiser = denoiser
        self.config = config
        self.multiple = math.lcm(32, 8 * (denoiser.multiple if denoiser else 1)) * self.resolutions

    @cached_property
    def scheduler(self) -> DDIMScheduler:
        """The noise process; built where it is used, since a model of stage 1 samples nothing."""
        return build_scheduler(self.config.diffusion)

    @torch.no_grad()
    def logits(self, images: Tensor, steps: int, seed: int = 0, draws: int = 1) -> Iterator[Tensor]:
        """Figure 2, for one noise after the other; E runs once.

        The noise depends on seed, draw and size only, so the result does not depend on how images are put into batches.

        Args:
            images: float32 (B, 3, H, W), RGB in [0, 1], of any size.
            steps: T, see `steps_of`.
            seed: Seed of the noise.
            draws: Number of noises.

        Yields:
            float32 logits (B, K, H'/4, W'/4) of each; H' and W' are `fitting_size(H, W)`.
        """
        # 1. Sides that the parts can halve; with two resolutions at both of them.
        views = self.views(images)  # a resolution: (B, 3, H', W')
        # 2. E.
        encoded = [self.encoder(view)[:2] for view in views]  # (B, C_z, H'/8, W'/8), (B, S, H'/4, W'/4)
        for draw in range(draws):
            # 3. and 4. Noise, and the UNet's steps conditioned on z_0.
            latents = [self.denoise(z_0, steps, seed, draw) for z_0, _ in encoded]  # (B, C_z, H'/8, W'/8)
            # 5. D.
            yield self.decode(latents, [skip for _, skip in encoded])  # (B, K, H'/4, W'/4)

    def denoise(self, z_0: Tensor, steps: int, seed: int, draw: int = 0) -> Tensor:
        """z_T ~ N(0, 1), then `steps` denoising steps conditioned on z_0 (B, C_z, h, w) -> z̄_0 of that shape."""
        if steps == 0:
            return z_0
        denoiser = self.denoiser
        assert denoiser is not None
        drawn = seeded_noise((1, *z_0.shape[1:]), seed, draw)
        noise = drawn.to(z_0.device, z_0.dtype, non_blocking=True).expand_as(z_0)
        return sample(lambda z_t, t: denoiser(z_t, t, z_0), self.scheduler, noise, steps)

    def views(self, images: Tensor) -> list[Tensor]:
        """Images as the networks see them: of sides that fit, at every resolution."""
        return self.at_resolutions(self.fit(images))

    def at_resolutions(self, images: Tensor) -> list[Tensor]:
        """Images whose sides are multiples of `multiple`, at every resolution."""
        return [images]

    def decode(self, latents: Sequence[Tensor], skips: Sequence[Tensor | None]) -> Tensor:
        """D on the latents of what `views` gave: float32 logits (B, K, H'/4, W'/4)."""
        (z,), (skip,) = latents, skips
        return self.decoder(z, skip).float()

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest sides that are multiples of `self.multiple`, at least one each."""
        rows, columns = (max(round(side / self.multiple), 1) * self.multiple for side in (height, width))
        return rows, columns

    def fit(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) to `fitting_size(H, W)`.

        Not padded: a border outside the scene gets some class, and that class spreads into the image. Models
        that were not trained with padding took rows repeated below a road for a car, which cost them up to 9 mIoU
        (benchmarks/RESULTS.md).
        """
        wanted = self.fitting_size(images.shape[-2], images.shape[-1])
        if wanted == tuple(images.shape[-2:]):
            return images
        return F.interpolate(images, wanted, mode="bilinear", align_corners=False)

    @property
    def default_steps(self) -> int:
        """Sampling steps when none are asked for: 0 for a stage-1 model, else the configuration's."""
        return 0 if self.denoiser is None else self.config.diffusion.steps

    def steps_of(self, asked: int | None) -> int:
        """The steps to take; None asks for the default.

        Raises:
            IccldError: More than 0 of a model without UNet, or more than there are noise levels.
        """
        steps = self.default_steps if asked is None else asked
        most = self.config.diffusion.train_timesteps
        if not 0 <= steps <= most:
            raise IccldError(f"{steps} sampling steps are not possible", f"choose 0 to {most}")
        if steps > 0 and self.denoiser is None:
            raise IccldError(
                "this model has no denoising UNet: it is of stage 1, or was trained without one",
                "use --steps 0, or a stage2.safetensors made by `iccld adapt-adv`",
            )
        return steps

    def probabilities(
        self, images: Tensor, steps: int | None = None, seed: int = 0, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Class probabilities of images as they are, for one noise: what labels crops in training.

        Args:
            images: float32 (B, 3, H, W), RGB in [0, 1].
            steps: Denoising steps; None takes the model's own default.
            seed: Seed of the noise.
            size: (height, width) of the result; None for the images' own.

        Returns:
            float32 (B, K, *size).

        Raises:
            IccldError: See `steps_of`.
        """
        (logits,) = self.logits(images, self.steps_of(steps), seed)
        # One plane a class: over channels that lie last, a CPU takes several times as long for the softmax.
        return resize_logits(logits.contiguous(), size or (images.shape[-2], images.shape[-1])).softmax(dim=1)

    def forward(self, images: Tensor, keep_skip: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """E, then D on z_0: the path that stage 1 trains.

        Args:
            images: (V, 3, H, W) in [0, 1], sides multiples of 32: images, or views of them (`view`).
            keep_skip: (V,) bool, see `Decoder.forward`.

        Returns:
            Logits (V, K, H/4, W/4), z_0 (V, C_z, H/8, W/8), and the backbone's deepest features (V, C, H/32, W/32).
        """
        z_0, skip, deepest = self.encoder(images)
        return self.decoder(z_0, skip, keep_skip), z_0, deepest

    def view(self, images: Tensor, rngs: Sequence[np.random.Generator]) -> View:
        """Training crops as they pass the networks.

        Args:
            images: (B, 3, H, W) in [0, 1].
            rngs: One generator a crop, for whatever is random about the view.
        """
        return View(images)


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, h, w) at (height, width)."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
