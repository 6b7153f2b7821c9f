"""The ICCLD model, whole. Read this first.

One image through it (figure 2 of arXiv 2412.16859):

    x          (B, 3, H, W)          RGB in [0, 1], its sides multiples of `self.multiple`
    z_0, skip  = E(x)                (B, C_z, H/8, W/8), (B, S, H/4, W/4)
    z_T        ~ N(0, 1)             (B, C_z, H/8, W/8)
    z̄_0        = UNet^T(z_T ; z_0)   T denoising steps, (B, C_z, H/8, W/8)
    logits     = D(z̄_0, skip)        (B, K, H/4, W/4), upsampled to the size asked for

With `model.detail` the image passes twice, at half and at full size: `models.detail.TwoResolutions`.
With 0 steps D decodes z_0 itself: the stage-1 model, which every stage-2 file still contains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Segmentation:
    """What `Segmenter.segment` returns.

    Attributes:
        probabilities: float32 (B, K, h, w), mean over the noise seeds, scales and mirrored images.
        disagreement: float32 (B, h, w) in [0, 1]: mutual information between prediction and noise seed, divided
            by log K, mean over scales and mirrored images; None with a single seed.
    """

    probabilities: Tensor
    disagreement: Tensor | None


class Segmenter(nn.Module):
    """E, the denoising UNet and D.

    Attributes:
        resolutions: How many sizes of an image pass the networks.
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
        self.scheduler = build_scheduler(config.diffusion)
        self.multiple = math.lcm(32, 8 * (denoiser.multiple if denoiser else 1)) * self.resolutions

    @property
    def default_steps(self) -> int:
        """Sampling steps when none are asked for: 0 for a stage-1 model, else the configuration's."""
        return 0 if self.denoiser is None else self.config.diffusion.steps

    def forward(self, images: Tensor, keep_skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E, then D on z_0: the path that stage 1 trains.

        Args:
            images: (V, 3, H, W) in [0, 1], sides multiples of 32: images, or views of them (`view`).
            keep_skip: (V,) bool, see `Decoder.forward`.

        Returns:
            Logits (V, K, H/4, W/4), and the backbone's deepest features (V, C, H/32, W/32).
        """
        z_0, skip, deepest = self.encoder(images)
        return self.decoder(z_0, skip, keep_skip), deepest

    def view(self, images: Tensor, rngs: Sequence[np.random.Generator]) -> View:
        """Training crops as they pass the networks.

        Args:
            images: (B, 3, H, W) in [0, 1].
            rngs: One generator a crop, for whatever is random about the view.
        """
        return View(images)

    @torch.no_grad()
    def segment(
        self,
        images: Tensor,
        steps: int | None = None,
        seed: int = 0,
        samples: int = 1,
        size: tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> Segmentation:
        """Segment images of any size.

        The noise depends on the seed and the latent's size only, so the result does not depend on how images are
        put into batches.

        Args:
            images: float32 (B, 3, H, W), RGB in [0, 1].
            steps: Denoising steps; 0 decodes z_0; None takes the model's own default.
            seed: Seed of the noise.
            samples: Number of noise seeds to average over.
            size: (height, width) of the result; None for the images' own.
            scales: Factors on the images' size; the results of all are averaged.
            flip: Whether to average with the result of the mirrored images.

        Raises:
            IccldError: Steps are asked of a model without UNet, or a number is out of range.
        """
        steps = self.default_steps if steps is None else steps
        if steps < 0 or samples < 1:
            raise IccldError("steps must be 0 or more and samples 1 or more")
        if not scales or not all(0.1 <= scale <= 8 for scale in scales):
            raise IccldError(f"scales {list(scales)} are not possible", "each must lie between 0.1 and 8")
        if steps > 0 and self.denoiser is None:
            raise IccldError(
                "this model has no denoising UNet: it is of stage 1, or was trained without one",
                "use --steps 0, or a stage2.safetensors made by `iccld adapt-adv`",
            )
        size = (images.shape[-2], images.shape[-1]) if size is None else size
        views = []
        for scale in scales:
            view = images
            if scale != 1:
                wanted = [max(1, round(side * scale)) for side in images.shape[-2:]]
                view = F.interpolate(images, wanted, mode="bilinear", align_corners=False, antialias=scale < 1)
            views.append(self._segment_once(view, steps, seed, samples, size))
            if flip:
                mirrored = self._segment_once(view.flip(-1), steps, seed, samples, size)
                gap = mirrored.disagreement
                gap = None if gap is None else gap.flip(-1)
                views.append(Segmentation(mirrored.probabilities.flip(-1), gap))
        if len(views) == 1:
            return views[0]
        gaps = [view.disagreement for view in views if view.disagreement is not None]
        return Segmentation(
            torch.stack([view.probabilities for view in views]).mean(dim=0),
            torch.stack(gaps).mean(dim=0) if gaps else None,
        )

    def _segment_once(self, images: Tensor, steps: int, seed: int, samples: int, size: tuple[int, int]) -> Segmentation:
        encoded = [self.encoder(view)[:2] for view in self.views(images)]
        total: Tensor | None = None
        entropy = torch.zeros(())
        draws = samples if steps else 1  # without noise all draws are the same
        for draw in range(draws):
            latents = [z_0 if steps == 0 else self.denoise(z_0, steps, seed, draw) for z_0, _ in encoded]
            logits = self.decode_views(latents, [skip for _, skip in encoded])
            if not torch.isfinite(logits).all():  # their argmax would be one class everywhere
                raise IccldError("the model's answers are not finite numbers", "its weights are too large; train it again")
            probabilities = resize_logits(logits, size).softmax(dim=1)
            total = probabilities if total is None else total + probabilities
            if draws > 1:
                entropy = entropy + _entropy(probabilities)
        assert total is not None
        mean = total / draws
        if draws == 1:
            return Segmentation(mean, None if samples == 1 else torch.zeros_like(mean[:, 0]))
        gap = (_entropy(mean) - entropy / draws).clamp_(min=0) / math.log(mean.shape[1])
        return Segmentation(mean, gap)

    def denoise(self, z_0: Tensor, steps: int, seed: int, draw: int = 0) -> Tensor:
        """z_T ~ N(0, 1), then `steps` denoising steps conditioned on z_0 (B, C_z, h, w) -> z̄_0 of that shape."""
        denoiser = self.denoiser
        assert denoiser is not None
        noise = seeded_noise((1, *z_0.shape[1:]), seed, draw).to(z_0).expand_as(z_0)
        return sample(lambda z_t, t: denoiser(z_t, t, z_0), self.scheduler, noise, steps)

    def views(self, images: Tensor) -> list[Tensor]:
        """Images as the networks see them: of sides that fit."""
        return [self.fit(images)]

    def decode_views(self, latents: Sequence[Tensor], skips: Sequence[Tensor | None]) -> Tensor:
        """float32 logits (B, K, H/4, W/4) of what `views` gave."""
        (z,), (skip,) = latents, skips
        return self.decoder(z, skip).float()

    def fit(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) to the nearest multiples of `self.multiple`.

        Not padded: a border that is none of the scene is answered with some class, and the answer spreads into the
        image. Rows repeated below a road were a car to models that had not seen the like, which cost them up to 9 mIoU
        (benchmarks/RESULTS.md).
        """
        wanted = [max(round(side / self.multiple), 1) * self.multiple for side in images.shape[-2:]]
        if wanted == list(images.shape[-2:]):
            return images
        return F.interpolate(images, wanted, mode="bilinear", align_corners=False)


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, h, w) at (height, width)."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=1)
