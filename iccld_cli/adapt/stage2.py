"""Stage 2, adversarial learning on the denoising UNet.

One step:

    1. teacher (E, UNet, D) labels x^t; ClassMix makes x^{s+t}, y^{s+t}
    2. z_0 = E(x) of source, mixed and target images
    3. z* = clean latent of (z_0, y) for source and mixed                        `diffusion.latent`
    4. z_t = noised z*; for the target, and for a share of the others, t = T: pure noise
    5. z̄_0 = UNet(z_t, t ; z_0)
    6. L = latent(z̄_0, z*) + CE(D(z̄_0), y) + CE(D(z_0), y) + w adversarial(z̄_0 of mixed and target)
    7. UNet (and gently E and D) step, teacher averages
    8. the discriminator learns to tell z̄_0 of the source from the others

The adversarial term sees only estimates made from pure noise, the ones that inference makes; elsewhere the noised
clean latent would give the domain away.

Variants for comparison, all off by default: the discriminator may see D's class probabilities instead of z̄_0
(`adv.adversary`), its gradient may reach E (`adv.align_encoder`), the UNet may be left out (`adv.generate`; z̄_0 is then
z_0, steps 3 to 5 fall away), and so may the mixed images (`adv.self_training`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.adapt.augment import jitter_images
from iccld_cli.adapt.pseudo import ConfidenceGate, pseudo_label
from iccld_cli.adapt.stage import (
    DeviceBatch,
    apply_gradients,
    draw_detail_windows,
    draw_keep_skip,
    fused_loss,
    mix,
    optimizer_of,
    set_learning_rate,
)
from iccld_cli.adapt.teacher import Teacher, ema_decay
from iccld_cli.config import AdvConfig, Config
from iccld_cli.diffusion.latent import class_shares, clean_latent, prototype_sums
from iccld_cli.diffusion.schedule import add_noise, terminal_timestep
from iccld_cli.labels import LabelSpace
from iccld_cli.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty
from iccld_cli.losses.latent import latent_loss
from iccld_cli.losses.segmentation import segmentation_loss
from iccld_cli.models.build import build_discriminator
from iccld_cli.models.detail import fuse, split_images, split_labels
from iccld_cli.models.encoder import keep_statistics
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import mean_over_ranks, sum_over_ranks
from iccld_cli.parallel.sharding import is_sharded, prepare, shard_networks

_PROTOTYPE_MEMORY = 0.99


class Prototypes(nn.Module):
    """Running mean latent of each class over labelled source cells."""

    sums: Tensor
    counts: Tensor

    def __init__(self, classes: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(classes, latent))
        self.register_buffer("counts", torch.zeros(classes))

    @torch.no_grad()
    def update(self, latent: Tensor, shares: Tensor) -> None:
        """Take in source latents (B, C_z, h, w) and the class shares (B, K, h, w) of their cells."""
        sums, counts = (sum_over_ranks(t) for t in prototype_sums(latent.float(), shares))
        self.sums.mul_(_PROTOTYPE_MEMORY).add_(sums)
        self.counts.mul_(_PROTOTYPE_MEMORY).add_(counts)

    def means(self) -> tuple[Tensor, Tensor]:
        """Prototypes (K, C_z), and which classes have been seen, bool (K,)."""
        return self.sums / self.counts.clamp(min=1e-3).unsqueeze(1), self.counts >= 1


class _Generator(nn.Module):
    """One call per step through everything with a gradient, as data parallelism wants it."""

    def __init__(self, segmenter: Segmenter, config: AdvConfig) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.aligns = config.align_encoder or not config.generate

    def forward(
        self, images: Tensor, target: Tensor, noise: Tensor, timesteps: Tensor, keep: Tensor, shares: Tensor, means: Any
    ) -> dict[str, Tensor]:
        """`images` are the labelled ones, source and mixed; `noise` and `timesteps` are for them and `target`.

        With two resolutions all of them are views (see `models.detail`), and so is what is returned.
        """
        model, count = self.segmenter, len(images)
        z_0, skip = model.encoder(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.aligns):
            z_target, skip_target = model.encoder(target)
        out = {"latent": z_0, "direct": model.decoder(z_0, skip, keep)}
        estimate = torch.cat([z_0, z_target])
        if model.denoiser is not None:
            prototypes, known = means
            out["clean"], out["weight"] = clean_latent(z_0, shares, prototypes, known, self.config.label_strength)
            start = torch.cat([out["clean"], z_target.float()])
            z_t = add_noise(model.scheduler, start, noise, timesteps).to(z_0.dtype)
            out["estimate"] = estimate = model.denoiser(z_t, timesteps, estimate)
            out["decoded"] = model.decoder(estimate[:count], skip, keep)
        if self.config.adversary == "latent":
            out["judged"] = estimate
        else:
            on_target = model.decoder(estimate[count:], skip_target)
            logits = torch.cat([out["direct"] if model.denoiser is None else out["decoded"], on_target]).float()
            out["judged"] = (logits[:, :-1] if model.detail else logits).softmax(dim=1)
        return out


@dataclass(frozen=True)
class _Views:
    """What passes the networks in a step.

    Attributes:
        images: Source and mixed images (N, 3, h, w).
        target: Target images.
        source: Source images without jitter.
        labels: Labels of `images`.
        weights: Weights of their pixels.
        windows: Detail windows of source, mixed and target crops; None where the model has one resolution.
    """

    images: Tensor
    target: Tensor
    source: Tensor
    labels: Tensor
    weights: Tensor
    windows: Tensor | None


class AdvStage:
    """Stage 2."""

    name = "stage2"

    def __init__(self, config: Config, space: LabelSpace, student: Segmenter, accelerator: Accelerator) -> None:
        """Set up networks and optimizers.

        Args:
            config: The configuration.
            space: Classes of the output.
            student: Stage 1's teacher with a fresh UNet, or without one where `adv.generate` is off.
            accelerator: Device, precision and gradient sync.
        """
        assert (student.denoiser is not None) == config.adv.generate
        self.config, adv = config, config.adv
        self.domains = ("source", "mixed", "target") if adv.self_training else ("source", "target")
        self.iterations = adv.iterations
        self.accelerator = accelerator
        device = accelerator.device
        shards = is_sharded(config)
        self.student = (student if shards else student.to(device, memory_format=torch.channels_last)).train()
        # E and D hand on what stage 1 measured: here D meets z_0 and z̄_0, source, mixed and target images in turn, and
        # statistics of such a blend would fit none of them.
        keep_statistics(self.student.encoder)
        keep_statistics(self.student.decoder)
        self.teacher = Teacher(self.student, ema_decay(adv.ema_horizon, self.iterations))
        if shards:
            self.teacher.expect_shards()
            shard_networks([self.student, self.teacher.model], accelerator)
        self.gate = ConfidenceGate(config.seg, len(space)).to(device)
        self.prototypes = Prototypes(len(space), config.model.latent_channels).to(device)
        self.critic = build_discriminator(config, len(space)).to(device)
        self.generator = _Generator(self.student, adv)
        lr, head_lr = config.optim.lr * adv.coder_lr_factor, config.optim.lr * config.optim.head_lr_factor
        coder_lr = head_lr * adv.coder_lr_factor
        unet = [] if student.denoiser is None else [(student.denoiser, adv.unet_lr)]
        self.optimizer = optimizer_of(
            [
                *unet,
                (student.encoder.backbone, lr if config.model.encoder != "tiny" else coder_lr),
                (student, coder_lr),
            ],
            config.optim,
            device,
        )
        self.critic_optimizer = torch.optim.Adam(
            [{"params": list(self.critic.parameters()), "lr": adv.discriminator_lr, "base_lr": adv.discriminator_lr}],
            betas=(0.9, 0.99),
        )
        self.network, self.optimizer = prepare(accelerator, self.generator, self.optimizer, config)
        # Not wrapped for data parallelism, which would wait for ranks whose batch has nothing for the discriminator.
        self.critic_optimizer = accelerator.prepare(self.critic_optimizer)
        self.modules: dict[str, nn.Module] = {
            "student": self.student,
            "teacher": self.teacher.model,
            "gate": self.gate,
            "prototypes": self.prototypes,
            "discriminator": self.critic,
        }
        self.optimizers = {"student": self.optimizer, "discriminator": self.critic_optimizer}

    def result(self) -> Segmenter | None:
        """The teacher, whole, on rank 0; all ranks together."""
        return self.teacher.whole()

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """One step, as the head of this file tells it."""
        adv, warmup = self.config.adv, self.config.optim.warmup
        set_learning_rate(self.optimizer, step, self.iterations, warmup)
        set_learning_rate(self.critic_optimizer, step, self.iterations, warmup)
        assert batch.target is not None
        images, labels, weights, believed = self._labelled(step, batch)
        views = self._views(batch, images, labels, weights)
        size = (views.labels.shape[-2] // 8, views.labels.shape[-1] // 8)
        shares = class_shares(views.labels, len(self.gate.histogram), size)
        own = len(views.source)  # the source's rows stand first
        means = self._means(step, batch, views.source, shares[:own])
        noise, timesteps, pure = self._draw_noise(batch, size)
        keep = draw_keep_skip(batch, self.config.model.skip_dropout, len(views.labels) // len(batch.label))
        out = self.network(views.images, views.target, noise, timesteps, keep, shares, means)
        count = batch.labelled
        if count is not None and adv.self_training:
            count = count + batch.label.numel()  # mixed images have no gaps

        def loss_of(answers: Tensor) -> Tensor:
            if views.windows is None:
                return segmentation_loss(answers, labels, weights, count)
            windows = views.windows[: len(labels)]
            by_domain = zip(answers.split(own), windows.split(len(batch.label)), strict=True)
            fused, detail = (torch.cat(rows) for rows in zip(*(fuse(a, w) for a, w in by_domain), strict=True))
            return fused_loss({"logits": fused, "detail": detail}, labels, weights, count, windows, self.config)

        stats = {"loss_direct": loss_of(out["direct"])}
        loss = adv.direct_weight * stats["loss_direct"]
        if adv.generate:
            cell_weights = out["weight"] * nn.functional.adaptive_avg_pool2d(views.weights.unsqueeze(1), size)
            cells = mean_over_ranks(cell_weights.sum())
            stats["loss_latent"] = latent_loss(out["estimate"][: len(views.images)], out["clean"], cell_weights, cells)
            stats["loss_decoded"] = loss_of(out["decoded"])
            loss = loss + adv.latent_weight * stats["loss_latent"] + adv.decoded_weight * stats["loss_decoded"]
        parts = list(out["judged"].chunk(len(self.domains)))
        if adv.generate:
            parts = [part.index_select(0, rows) for part, rows in zip(parts, pure, strict=True)]
        if adv.adversarial_weight > 0:
            self.critic.requires_grad_(False)
            scores = self.critic(torch.cat(parts[1:]))
            share = len(scores) / mean_over_ranks(torch.full((), len(scores), device=scores.device))
            stats["loss_adversarial"] = generator_loss(scores) * share
            loss = loss + adv.adversarial_weight * stats["loss_adversarial"]
            self.critic.requires_grad_(True)
        stats |= apply_gradients(
            self.accelerator, loss, self.optimizer, self.network, self.config.optim.grad_clip, batch.micro
        )
        if adv.adversarial_weight > 0:
            stats |= self._train_critic([p.detach() for p in parts], batch.micro)
        self.prototypes.update(out["latent"][:own].detach(), shares[:own])
        if batch.completes:
            self.teacher.update(self.student, step)
        if believed is not None:
            stats["pseudo_believed"] = believed
        return {"loss": loss.detach(), **{k: v.detach() for k, v in stats.items()}}

    def _labelled(self, step: int, batch: DeviceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Images, labels and pixel weights of the source, and of the mixed images where they are trained on.

        And the mean weight of the pseudo-labels, where there are any.
        """
        source, certain = jitter_images(batch.source, batch.jitter_source), torch.ones_like(batch.label).float()
        if not self.config.adv.self_training:
            return source, batch.label, certain, None
        with self.accelerator.autocast():
            steps = int(self.config.adv.generate)
            pseudo = pseudo_label(self.teacher.model, self.gate, batch, steps=steps, seed=step)
        mixed, labels, weights = mix(batch, pseudo.labels, pseudo.weights)
        together = ((source, mixed), (batch.label, labels), (certain, weights))
        images, labels, weights = (torch.cat(pair) for pair in together)
        return images, labels, weights, pseudo.weights.mean()

    def _views(self, batch: DeviceBatch, images: Tensor, labels: Tensor, weights: Tensor) -> _Views:
        """What passes the networks: the images themselves, or their views at two resolutions, domain by domain."""
        assert batch.target is not None
        windows = draw_detail_windows(batch, self.config, len(self.domains))
        if windows is None:
            return _Views(images, batch.target, batch.source, labels, weights, None)
        count = len(batch.label)
        places = windows.split(count)

        def split(cut: Callable[[Tensor, Tensor], Tensor], maps: Tensor) -> Tensor:
            return torch.cat([cut(part, place) for part, place in zip(maps.split(count), places[:-1], strict=True)])

        return _Views(
            split(split_images, images),
            split_images(batch.target, places[-1]),
            split_images(batch.source, places[0]),
            split(split_labels, labels),
            split(split_labels, weights),
            windows,
        )

    def _means(self, step: int, batch: DeviceBatch, source: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes; before the first step they come from the teacher's latents of the first source batch."""
        if step == 0 and batch.micro[0] == 0:
            with torch.no_grad(), self.accelerator.autocast():
                latent, _ = self.teacher.model.encoder(source)
            self.prototypes.update(latent, shares)
        return self.prototypes.means()

    def _draw_noise(self, batch: DeviceBatch, size: tuple[int, int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Noise (N, C_z, h, w) and time steps (N,) of all domains in turn, and which rows of each are pure noise."""
        shape = (self.config.model.latent_channels, *size)
        last, chance = terminal_timestep(self.student.scheduler), self.config.adv.terminal_probability
        rngs = batch.rngs * (1 + self.config.model.detail)
        noise = np.stack([rng.standard_normal(shape, np.float32) for _ in self.domains for rng in rngs])
        steps = [
            [last if rng.random() < chance else int(rng.integers(last)) for rng in rngs] for _ in self.domains[:-1]
        ]
        steps.append([last] * len(rngs))
        device = batch.label.device
        pure = [torch.tensor(row).eq(last).nonzero().flatten().to(device, non_blocking=True) for row in steps]
        timesteps = torch.tensor(steps).flatten().to(device, non_blocking=True)
        return torch.from_numpy(noise).to(device, non_blocking=True), timesteps, pure

    def _train_critic(self, parts: list[Tensor], micro: tuple[int, int]) -> dict[str, Tensor]:
        """One discriminator step on what it judges, detached, one tensor a domain."""
        weight = self.config.adv.gradient_penalty
        source = parts[0].float().requires_grad_(weight > 0)
        other = torch.cat(parts[1:]).float()
        by_domain = self.critic(torch.cat([source, other])).split([len(p) for p in parts])
        on_source, on_other = by_domain[0], torch.cat(by_domain[1:])
        here = torch.tensor([on_source.numel(), on_other.numel()]).to(other.device, non_blocking=True)
        counts = mean_over_ranks(here)
        loss = discriminator_loss(on_source, on_other, counts)
        stats = {"disc_loss": loss}
        for domain, scores in zip(self.domains, by_domain, strict=True):
            if len(scores):
                right = scores > 0.5 if domain == "source" else scores <= 0.5
                stats[f"disc_acc_{domain}"] = right.float().mean()
        if weight > 0 and len(source):
            loss = loss + weight * gradient_penalty(on_source, source) * here[0] / counts[0]
        done = apply_gradients(
            self.accelerator, loss, self.critic_optimizer, self.critic, self.config.optim.grad_clip, micro
        )
        return stats | {f"disc_{k}": v for k, v in done.items()}
