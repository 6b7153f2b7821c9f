"""A judge of label latents: what the UNet makes of a real frame is to look like the latent of a label map.

A label encoder is trained first, so that the frozen D decodes its latents to the labels. Then the UNet generates, in
one step from pure noise, conditioned on z_0 of the frozen E, and a copy of D learns with it:

    cross-entropy of source and mixed frames
    + judge:        are the latents of target frames such as label latents of the source? Both are noised to one time
                    step, drawn anew each time, before the judge sees them; it takes two steps where the UNet takes one
    + calibration:  KL(mean of the probabilities of M samples || those of the frozen model) of every pixel of the target
                    (after Kassapis et al. 2020, arXiv 2006.13144)

The judge alone would pull the label statistics of the target to those of the source; the calibration holds them where
the frozen model sees them, and leaves to the samples how they differ.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
import torch.nn.functional as F
from stage2.frames import BATCH, Draws, Frames
from stage2.trial import Passes, Trial, copied, cross_entropy
from torch import Tensor, nn

from iccld_cli.diffusion.latent import class_shares, normalise_latent
from iccld_cli.labels import IGNORE
from iccld_cli.losses.adversarial import scored_as_other, scored_as_source
from iccld_cli.models.denoiser import Denoiser
from iccld_cli.models.discriminator import PatchDiscriminator
from iccld_cli.models.segmenter import Segmenter

SAMPLES = 4
JUDGE_STEPS, JUDGE_RATE = 2, 2e-4
LIKE_Z = 0.3  # weight of the distance between label latents and z_0 of the source, which is right there
LEAST, MOST = 20, 980  # time steps that the judge sees
GROUND = 4  # label maps are given to the label encoder at a quarter of their size


class LabelEncoder(nn.Module):
    """Label maps -> latents of unit variance."""

    def __init__(self, classes: int, latent: int, width: int = 128) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Conv2d(4 * classes, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, latent, 1),
        )  # fmt: skip

    def forward(self, labels: Tensor) -> Tensor:
        """uint8 (B, h, w) -> (B, C_z, h/8, w/8)."""
        size = (labels.shape[-2] // GROUND, labels.shape[-1] // GROUND)
        shares = class_shares(labels.long(), self.classes, size)
        return normalise_latent(self.layers(F.pixel_unshuffle(shares, 2)))


def filled(latents: Tensor, frames: Frames) -> Tensor:
    """Label latents (B, C_z, h/8, w/8) with z_0 where there is no label: no estimate looks like an ignored cell."""
    ignored = (frames.labels == IGNORE).float()[:, None]
    share = F.avg_pool2d(ignored, ignored.shape[-1] // latents.shape[-1])
    return normalise_latent((1 - share) * latents + share * frames.z)


class Judge(nn.Module):
    """Scores of noised latents, one a patch; it is told how much noise there is."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.scores = PatchDiscriminator(latent + 1, 64)

    def forward(self, noised: Tensor, timestep: int) -> Tensor:
        """(B, C_z, h, w) -> (B, 1, h/4, w/4), high = label latent."""
        level = noised.new_full((len(noised), 1, *noised.shape[-2:]), timestep / 1000)
        return self.scores(torch.cat([noised, level], dim=1))


class Generator(nn.Module):
    """The UNet in one step from pure noise, and a decoder that learns with it."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        adv = model.config.model
        self.unet = Denoiser(adv.latent_channels, tuple(adv.unet_channels), adv.unet_layers, adv.unet_attention)
        self.decoder = copied(model.decoder)
        self.decoder.keep_statistics()  # so that it begins with the frozen model's answers, which calibrate it

    def forward(self, z: Tensor, skip: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C_z, h/8, w/8), and logits (B, K, h/4, w/4)."""
        last = torch.full((len(z),), 999, device=z.device)
        latents = self.unet(noise, last, z)
        return latents, self.decoder(latents, skip).float()

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their rates."""
        return [{"params": [*self.unet.parameters()], "lr": 1e-3}, {"params": [*self.decoder.parameters()], "lr": 3e-4}]


class JudgeTrial(Trial):
    """The judge, the calibration, or both."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.weight, self.calibrated = options.judge_weight, not options.no_calibration
        self.alphas = self.frozen.model.scheduler.alphas_cumprod.to(self.device)
        self.labels: LabelEncoder | None = None
        self.judging: Judge | None = None
        self.said: dict[str, Tensor] = {}

    def network(self) -> nn.Module:
        adv, network = self.frozen.model.config.model, Generator(self.frozen.model)  # first: of the same start with or
        if self.weight:  # without the judge
            self.labels = self._label_encoder()
            self.judging = Judge(adv.latent_channels).to(self.device)
            self.judge_optimizer = torch.optim.AdamW(self.judging.parameters(), lr=JUDGE_RATE, betas=(0.5, 0.99))
        return network

    def _label_encoder(self) -> LabelEncoder:
        model, source, draws = self.frozen.model, self.frames.source, Draws(0, self.device)
        encoder = LabelEncoder(source.answer.shape[1], model.config.model.latent_channels).to(self.device)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
        steps = self.options.label_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for step in range(steps):
            frames = source.of(draws.rows(2 * BATCH, source))
            keep = (draws.uniform(len(frames)) < 0.5).float().view(-1, 1, 1, 1).to(self.device)
            with self.autocast():
                latents = encoder(frames.labels)
                logits = model.decoder(latents, frames.skip * keep).float()
            loss = cross_entropy(logits, frames) + LIKE_Z * (latents - frames.z).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 50 == 0 or step == steps - 1:
                print(f"  label encoder, step {step}  loss {float(loss.detach()):.3f}", flush=True)
        return encoder.eval().requires_grad_(False)

    def _noised(self, latents: Tensor, timestep: int, draws: Draws) -> Tensor:
        kept = self.alphas[timestep]
        return kept.sqrt() * latents.float() + (1 - kept).sqrt() * draws.normal(*latents.shape)

    def _judge_learns(self, fakes: Tensor, draws: Draws) -> None:
        assert self.judging is not None and self.labels is not None
        for _ in range(JUDGE_STEPS):
            source = self.frames.source.of(draws.rows(len(fakes), self.frames.source))
            timestep = int(torch.randint(LEAST, MOST, (), generator=draws.host))
            with torch.no_grad(), self.autocast():
                real = filled(self.labels(source.labels), source)
            both = torch.cat([self._noised(real, timestep, draws), self._noised(fakes, timestep, draws)])
            of_real, of_fakes = self.judging(both, timestep).split(len(fakes))
            loss = (scored_as_source(of_real).mean() + scored_as_other(of_fakes).mean()) / 2
            self.judge_optimizer.zero_grad()
            loss.backward()
            self.judge_optimizer.step()
            self.said |= {"label maps": of_real.detach().mean(), "estimates": of_fakes.detach().mean()}

    def loss(self, network: nn.Module, labelled: Frames, target: Frames, draws: Draws) -> Tensor:
        known = len(labelled)
        z, skip = (
            torch.cat([a, b.repeat_interleave(SAMPLES, 0)])
            for a, b in ((labelled.z, target.z), (labelled.skip, target.skip))
        )
        with self.autocast():
            latents, logits = network(z, skip, draws.normal(*z.shape))
        loss = cross_entropy(logits[:known], labelled)
        if self.calibrated:
            samples = logits[known:].log_softmax(1).unflatten(0, (len(target), SAMPLES))
            mean = samples.logsumexp(1) - math.log(SAMPLES)
            seen = target.answer.clamp(min=1e-5).log()
            distance = (mean.exp() * (mean - seen)).sum(1).mean()
            loss = loss + distance
            self.said |= {"calibration": distance.detach()}
        if self.judging is not None:
            fakes = latents[known:]
            self._judge_learns(fakes.detach(), draws)
            timestep = int(torch.randint(LEAST, MOST, (), generator=draws.host))
            self.judging.requires_grad_(False)
            scores = self.judging(self._noised(fakes, timestep, draws), timestep)
            self.judging.requires_grad_(True)
            loss = loss + self.weight * scored_as_source(scores).mean()
        return loss

    def told(self) -> str:
        return "".join(f"  {key} {float(value):.3f}" for key, value in self.said.items())

    def more(self, network: nn.Module, encoded: Frames) -> Passes:
        many = 2 * SAMPLES
        noise = Draws(0, self.device).normal(many, *encoded.z.shape[1:])
        z, skip = (part.expand(many, -1, -1, -1) for part in (encoded.z, encoded.skip))
        samples = network(z, skip, noise)[1].split(1)
        mean = torch.cat(samples).softmax(1).mean(0, keepdim=True).clamp(min=1e-8).log()
        return {
            "one sample": (samples[0], {f"{many - 1} more": list(samples[1:])}),
            f"mean of {many} samples": (mean, {"its samples": list(samples)}),
        }
