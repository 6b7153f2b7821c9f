"""Noise on the model's own answer, and the same without one part after the other."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from stage2.frames import Draws, Frames, Frozen
from stage2.trial import Passes, Trial, cross_entropy
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """What the second network is given.

    Attributes:
        condition: `imagenet`, features of an encoder that saw no label; `own`, z_0 and the inter-coder features of the
            frozen model; empty for none.
        answer: Whether it is given the first answer, and changes it. Without, it answers by itself.
        noise: Whether a noised answer and its time step come beside the answer.
    """

    condition: str
    answer: bool = True
    noise: bool = True


VARIANTS = {
    "full": Variant("imagenet"),
    "plain": Variant("imagenet", noise=False),
    "plain-own": Variant("own", noise=False),
    "own": Variant("own"),
    "no-features": Variant(""),
    "features-alone": Variant("imagenet", answer=False, noise=False),
}


class Repairer(nn.Module):
    """(noised answer, t; answer; features) -> a better answer, as a change of the old one's logarithms."""

    WIDTHS, EMBEDDING, CONDITION = (96, 160, 224), 64, 128

    def __init__(self, classes: int, features: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.embed = nn.Conv2d(4 * classes, self.EMBEDDING, 1) if variant.answer else None
        self.condition = None
        if variant.condition:
            self.condition = nn.Sequential(nn.BatchNorm2d(features), nn.Conv2d(features, self.CONDITION, 1))
        self.unet = UNet2DModel(
            in_channels=self.EMBEDDING * (variant.answer + variant.noise) + self.CONDITION * bool(variant.condition),
            out_channels=4 * classes,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            block_out_channels=self.WIDTHS,
            layers_per_block=2,
            norm_num_groups=8,
            add_attention=False,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, answer: Tensor, features: Tensor | None, share: Tensor, noise: Tensor | None) -> Tensor:
        """Logits (B, K, h/4, w/4).

        Args:
            answer: Probabilities of the model (B, K, h/4, w/4).
            features: (B, F, h/8, w/8).
            share: (B,) of noise, in [0, 1].
            noise: Standard normal (B, EMBEDDING, h/8, w/8).
        """
        given = []
        if self.embed is not None:
            given.append(self.embed(F.pixel_unshuffle(answer, 2)))
        if self.variant.noise:
            of_noise = share.view(-1, 1, 1, 1)
            given.insert(0, (1 - of_noise).sqrt() * given[0] + of_noise.sqrt() * noise)
        if self.condition is not None:
            given.append(self.condition(features))
        timesteps = (999 * share).long() if self.variant.noise else torch.zeros_like(share, dtype=torch.int64)
        change = F.pixel_shuffle(self.unet(torch.cat(given, dim=1), timesteps).sample.float(), 2)
        return answer.float().clamp(min=1e-4).log() + change if self.variant.answer else change

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their rates."""
        return [{"params": [*self.parameters()], "lr": 1e-3}]


def condition_of(variant: Variant, frames: Frames) -> Tensor | None:
    """The features (B, F, h/8, w/8) that a variant is given of frames."""
    if variant.condition == "own":
        return torch.cat([frames.z, F.pixel_unshuffle(frames.skip, 2)], dim=1)
    return frames.features if variant.condition else None


def new_repairer(variant: Variant, frozen: Frozen) -> Repairer:
    """A network of the sizes that the frozen model's frames have, with random weights."""
    blank = torch.zeros(1, 3, 64, 64, device=frozen.device)
    frames = frozen.encoded(blank, blank[:, 0], blank[:, 0])
    features = condition_of(variant, frames)
    return Repairer(frames.answer.shape[1], 0 if features is None else features.shape[1], variant)


class RepairTrial(Trial):
    """Noise on the model's own answer."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.variant = VARIANTS[options.variant]
        super().__init__(options)

    def encoder(self, options: argparse.Namespace) -> str | None:
        return options.encoder if self.variant.condition == "imagenet" else None

    def network(self) -> nn.Module:
        return new_repairer(self.variant, self.frozen)

    @torch.no_grad()
    def _worse(self, frames: Frames, draws: Draws) -> Tensor:
        """The frozen model's answer to evidence with holes."""
        mask = draws.blocks((frames.z.shape[-2], frames.z.shape[-1]), draws.uniform(len(frames)) * 0.5)
        keep = (draws.uniform(len(frames)) < 0.5).float().view(-1, 1, 1, 1).to(self.device)
        return self.frozen.model.decoder(frames.z * (1 - mask[:, None].float()), frames.skip * keep).float().softmax(1)

    def loss(self, network: nn.Module, labelled: Frames, target: Frames, draws: Draws) -> Tensor:
        both = Frames.joined([labelled, target])
        answer = self._worse(both, draws)
        share = draws.uniform(len(both)).to(self.device)
        noise = draws.normal(len(both), Repairer.EMBEDDING, *both.z.shape[-2:])
        with self.autocast():
            logits = network(answer, condition_of(self.variant, both), share, noise)
        return cross_entropy(logits, both)

    def more(self, network: nn.Module, encoded: Frames) -> Passes:
        found: Passes = {}
        features = condition_of(self.variant, encoded)
        for share in (0.0, 0.5) if self.variant.noise else (0.0,):
            passes = 4 if share else 1
            noise = Draws(0, self.device).normal(passes, Repairer.EMBEDDING, *encoded.z.shape[-2:])
            of = torch.full((passes,), share, device=self.device)
            many = None if features is None else features.expand(passes, -1, -1, -1)
            first, *others = network(encoded.answer.expand(passes, -1, -1, -1), many, of, noise).split(1)
            found[f"repaired, {share:.0%} noise"] = (first, {"four noises": others})
        return found
