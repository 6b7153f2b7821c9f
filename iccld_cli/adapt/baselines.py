"""Relatives of stage 2 to compare it with: what the field does, from the same networks, data and losses.

    adv.adversary = "output"     the discriminator sees D's class probabilities (AdaptSegNet, Tsai et al. 2018)
    adv.align_encoder            the adversarial gradient reaches E through z_0 of target images
    adv.generate = false         no UNet: z̄_0 is z_0, and the adversary aligns E (and D)
    adv.self_training = false    no mixed images: the source is all that is labelled

They go together in any way. None of them is the method; `benchmarks/ablation.py` has their rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iccld_cli.adapt.batch import Crops, DeviceBatch, source_crops
from iccld_cli.adapt.stage2 import Inputs, Outputs, Stage2
from iccld_cli.adapt.terms import Term
from iccld_cli.config import Config
from iccld_cli.diffusion.latent import clean_latent
from iccld_cli.diffusion.schedule import add_noise
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import View, split_rows
from iccld_cli.sections import AdvConfig


def is_baseline(adv: AdvConfig) -> bool:
    """Whether a configuration asks for a relative of stage 2."""
    return adv.adversary != "latent" or adv.align_encoder or not adv.generate or not adv.self_training


class BaselineGenerator(nn.Module):
    """As `stage2.Generator`, with or without a UNet, for any adversary."""

    def __init__(self, segmenter: Segmenter, config: Config) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.aligns = config.adv.align_encoder or not config.adv.generate

    def forward(self, given: Inputs) -> Outputs:
        """z_0, and where there is a UNet z* and z̄_0, and what is decoded of them."""
        model, count = self.segmenter, len(given.images)
        z_0, skip, _ = model.encoder(given.images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.aligns):
            z_target, skip_target, _ = model.encoder(given.target)
        direct = logits = model.decoder(z_0, skip, given.keep)
        estimate = torch.cat([z_0, z_target])
        clean = weight = decoded = None
        if model.denoiser is not None:
            strength = self.config.adv.label_strength
            clean, weight = clean_latent(z_0, given.shares, given.prototypes, given.known, strength)
            z_t = add_noise(model.scheduler, torch.cat([clean, z_target.float()]), given.noise, given.timesteps)
            estimate = model.denoiser(z_t.to(z_0.dtype), given.timesteps, estimate)
            logits = decoded = model.decoder(estimate[:count], skip, given.keep)
        judged = estimate
        if self.config.adv.adversary == "output":
            judged = torch.cat([logits, model.decoder(estimate[count:], skip_target)])
        return Outputs(z_0, direct, judged, clean, weight, estimate if decoded is not None else None, decoded)


class Baseline(Stage2):
    """A relative of stage 2, as its configuration says."""

    def __init__(self, config: Config, *args: object) -> None:
        """See `Stage2`; the student has no UNet where `adv.generate` is off."""
        self.domains = Stage2.domains if config.adv.self_training else ("source", "target")
        super().__init__(config, *args)  # type: ignore[arg-type]

    @staticmethod
    def trained_images(config: Config) -> int:
        """See `Stage2.trained_images`; target images too where the adversary's gradient reaches D or E through them."""
        adv = config.adv
        return 1 + adv.self_training + (adv.align_encoder or not adv.generate or adv.adversary == "output")

    def generator(self) -> nn.Module:
        """See `Stage2.generator`."""
        return BaselineGenerator(self.student, self.config)

    def labelled(self, step: int, batch: DeviceBatch) -> tuple[list[Crops], dict[str, Tensor]]:
        """See `Stage2.labelled`; the source alone without self-training."""
        if not self.config.adv.self_training:
            return [source_crops(batch)], {}
        return super().labelled(step, batch)

    def terms(self, batch: DeviceBatch, crops: Sequence[Crops], views: Sequence[View], out: Outputs) -> list[Term]:
        """See `Stage2.terms`; without a UNet only what D makes of z_0."""
        if out.decoded is not None:
            return super().terms(batch, crops, views, out)
        return [Term("direct", self.config.adv.direct_weight, self.cross_entropy(batch, crops, views, out.direct))]

    def judged(self, out: Outputs, views: Sequence[View], pure: Sequence[Tensor]) -> list[Tensor]:
        """See `Stage2.judged`; class probabilities for an output adversary, and all rows where nothing is noised."""
        parts = list(split_rows(out.judged, views))
        if self.config.adv.adversary == "output":
            parts = [view.probabilities(part) for view, part in zip(views, parts, strict=True)]
        if not self.config.adv.generate:
            return parts
        return [part.index_select(0, rows) for part, rows in zip(parts, pure, strict=True)]


def stage2_class(config: Config) -> type[Stage2]:
    """Stage 2, or the relative of it that a configuration asks for."""
    return Baseline if is_baseline(config.adv) else Stage2
