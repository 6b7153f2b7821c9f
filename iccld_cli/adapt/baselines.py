"""Variants of stage 2 to compare it with: common methods with the same networks, data and losses.

    adv.adversary = "output"     the discriminator sees D's class probabilities (AdaptSegNet, Tsai et al. 2018)
    adv.adversary = "entropy"    it sees the entropy of each class there (AdvEnt, Vu et al. 2019)
    adv.adversary = "class"      it tells the latents of each class apart (FADA, Wang et al. 2020)
    adv.align_encoder            the adversarial gradient reaches E through z_0 of target images
    adv.generate = false         no UNet: z̄_0 is z_0, and the adversary aligns E (and D)
    adv.self_training = false    no mixed images: only the source has labels

They can be combined in any way. None of them is the method; `--recipe` names the common ones, and
`benchmarks/carla-camvid.toml` trains and scores them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iccld_cli.adapt.adversary import Adversary
from iccld_cli.adapt.batch import Crops, DeviceBatch, source_crops
from iccld_cli.adapt.classwise import ClassAdversary, with_classes
from iccld_cli.adapt.stage2 import Inputs, Outputs, Stage2, without_ignored
from iccld_cli.adapt.terms import Term
from iccld_cli.config import Config
from iccld_cli.diffusion.latent import clean_latent
from iccld_cli.diffusion.schedule import add_noise
from iccld_cli.losses.adversarial import self_information
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import View, split_rows
from iccld_cli.sections import AdvConfig

SEE_OUTPUT = ("output", "entropy")
"""Adversaries that see what D computes."""


def is_baseline(adv: AdvConfig) -> bool:
    """Whether a configuration selects a variant of stage 2."""
    return adv.adversary != "latent" or adv.align_encoder or not adv.generate or not adv.self_training


class BaselineGenerator(nn.Module):
    """As `stage2.Generator`, with or without a UNet, for any adversary."""

    def __init__(self, segmenter: Segmenter, config: Config) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.aligns = config.adv.align_encoder or not config.adv.generate

    def forward(self, given: Inputs) -> Outputs:
        """z_0, with a UNet also z* and z̄_0, and the logits decoded from them."""
        model, count = self.segmenter, len(given.images)
        z_0, skip, _ = model.encoder(given.images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.aligns):
            z_target, skip_target, _ = model.encoder(given.target)
        direct = logits = model.decoder(z_0, skip, given.keep_skip)
        estimate = torch.cat([z_0, z_target])
        clean = weight = decoded = None
        if model.denoiser is not None:
            strength = self.config.adv.label_strength
            clean, weight = clean_latent(z_0, given.shares, given.prototypes, given.known, strength)
            z_t = add_noise(model.scheduler, torch.cat([clean, z_target.float()]), given.noise, given.timesteps)
            estimate = model.denoiser(z_t.to(z_0.dtype), given.timesteps, estimate)
            logits = decoded = model.decoder(estimate[:count], skip, given.keep_skip)
        adversary_input = estimate
        if self.config.adv.adversary in SEE_OUTPUT:
            adversary_input = torch.cat([logits, model.decoder(estimate[count:], skip_target)])
        elif self.config.adv.adversary == "class":
            with torch.no_grad():
                told = torch.cat([logits, model.decoder(estimate[count:], skip_target)])
            adversary_input = with_classes(estimate, told)
        return Outputs(z_0, direct, adversary_input, clean, weight, estimate if decoded is not None else None, decoded)


class Baseline(Stage2):
    """A variant of stage 2, as selected by its configuration."""

    def __init__(self, config: Config, *args: object) -> None:
        """See `Stage2`; the student has no UNet where `adv.generate` is off."""
        self.domains = Stage2.domains if config.adv.self_training else ("source", "target")
        super().__init__(config, *args)  # type: ignore[arg-type]

    @staticmethod
    def trained_images(config: Config) -> int:
        """See `Stage2.trained_images`; target images too where the adversary's gradient reaches D or E through them."""
        adv = config.adv
        return 1 + adv.self_training + (adv.align_encoder or not adv.generate or adv.adversary in SEE_OUTPUT)

    def make_adversary(self) -> Adversary:
        """See `Stage2.make_adversary`."""
        kind = ClassAdversary if self.config.adv.adversary == "class" else Adversary
        return kind(self.config, self.classes, self.domains, self.layout, self.accelerator)

    def generator(self) -> nn.Module:
        """See `Stage2.generator`."""
        return BaselineGenerator(self.student, self.config)

    def labelled(self, step: int, batch: DeviceBatch) -> tuple[list[Crops], dict[str, Tensor]]:
        """See `Stage2.labelled`; the source alone without self-training."""
        if not self.config.adv.self_training:
            return [source_crops(batch)], {}
        return super().labelled(step, batch)

    def terms(self, batch: DeviceBatch, crops: Sequence[Crops], views: Sequence[View], out: Outputs) -> list[Term]:
        """See `Stage2.terms`; without a UNet only the cross-entropy of D(z_0)."""
        if out.decoded is not None:
            return super().terms(batch, crops, views, out)
        few = [] if batch.annotated is None else [self.annotated_term(crops, views, [out.direct])]
        direct = self.cross_entropy(batch, crops, views, out.direct)
        return [*few, Term("direct", self.config.adv.direct_weight, direct)]

    def adversary_inputs(
        self, out: Outputs, views: Sequence[View], pure: Sequence[Tensor], ignored: Tensor | None
    ) -> list[Tensor]:
        """See `Stage2.adversary_inputs`; probabilities or entropies for what sees outputs; without a UNet, all rows."""
        parts = list(split_rows(out.adversary_input, views))
        if self.config.adv.adversary in SEE_OUTPUT:
            parts = [view.probabilities(part) for view, part in zip(views, parts, strict=True)]
        if self.config.adv.adversary == "entropy":
            parts = [self_information(part) for part in parts]
        parts = list(without_ignored(self.of_domains(parts), views[-1], ignored))
        if not self.config.adv.generate:
            return parts
        return [part.index_select(0, rows) for part, rows in zip(parts, self.of_domains(pure), strict=True)]


def stage2_class(config: Config) -> type[Stage2]:
    """Stage 2, or the variant of it that a configuration selects."""
    return Baseline if is_baseline(config.adv) else Stage2
