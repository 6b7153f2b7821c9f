"""Stage 2, adversarial learning on the denoising UNet.

One step:

    1. the teacher (E, UNet, D) labels x^t; ClassMix makes x^{s+t}, y^{s+t}
    2. z_0 = E(x) of source, mixed and target images
    3. z* = clean latent of (z_0, y) for source and mixed                        `diffusion.latent`
    4. z_t = noised z*; for the target, and at random for the others, t = T: pure noise
    5. z̄_0 = UNet(z_t, t ; z_0)
    6. L = latent(z̄_0, z*) + CE(D(z̄_0), y) + CE(D(z_0), y) + w adversarial(z̄_0 of mixed and target)
    7. optimizer step of the UNet (and, at a lower rate, E and D), EMA update of the teacher
    8. the discriminator learns to tell z̄_0 of the source from the others
    9. the class prototypes of the clean latent are updated with the source's z_0

Labelled target crops (`--labelled`) pass after the mixed ones, from pure noise as in inference; L then also has their
CE(D(z̄_0), y) + CE(D(z_0), y). They have no clean latent, for which most of their cells lack a label, and the adversary
does not see them.

The adversarial term uses only estimates from pure noise, as in inference: a noised clean latent reveals the domain.

Variants for comparison are in `adapt.baselines`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.adapt.adversary import Adversary
from iccld_cli.adapt.batch import Crops, DeviceBatch, annotated_crops, draw_keep_skip, mix, source_crops
from iccld_cli.adapt.optim import apply_gradients, optimizer_of, set_learning_rate
from iccld_cli.adapt.prototypes import Prototypes
from iccld_cli.adapt.pseudo import ConfidenceGate, pseudo_label
from iccld_cli.adapt.teacher import Teacher, ema_decay
from iccld_cli.adapt.terms import Term, cross_entropy, total
from iccld_cli.config import Config
from iccld_cli.diffusion.latent import class_shares, clean_latent
from iccld_cli.diffusion.schedule import add_noise, terminal_timestep
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.losses.latent import latent_error
from iccld_cli.losses.reduced import Reduced
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import View, join_views, split_rows
from iccld_cli.parallel.layout import layout_of


class Inputs(NamedTuple):
    """Input of the forward pass of a step. V views of labelled images (source, then mixed), V_t of target images.

    Attributes:
        images: (V, 3, h, w).
        target: (V_t, 3, h, w).
        noise: (V + V_t, C_z, h/8, w/8), standard normal.
        timesteps: int64 (V + V_t,).
        keep_skip: bool (V,), which keep their inter-coder features.
        shares: (V, K, h/8, w/8), class shares of the cells.
        prototypes: (K, C_z).
        known: bool (K,), which classes have a prototype.
    """

    images: Tensor
    target: Tensor
    noise: Tensor
    timesteps: Tensor
    keep_skip: Tensor
    shares: Tensor
    prototypes: Tensor
    known: Tensor


class Outputs(NamedTuple):
    """Output of the forward pass.

    Attributes:
        latent: z_0 of the labelled views, (V, C_z, h/8, w/8).
        direct: D(z_0), logits (V, K, h/4, w/4).
        adversary_input: Input of the discriminator, one row per view, (V + V_t, C, ...): here z̄_0.
        clean: z*, (V, C_z, h/8, w/8); None without a UNet, as are the next three.
        weight: Labelled share of its cells, (V, 1, h/8, w/8).
        estimate: z̄_0, (V + V_t, C_z, h/8, w/8).
        decoded: D(z̄_0), logits (V, K, h/4, w/4).
    """

    latent: Tensor
    direct: Tensor
    adversary_input: Tensor
    clean: Tensor | None = None
    weight: Tensor | None = None
    estimate: Tensor | None = None
    decoded: Tensor | None = None


class Generator(nn.Module):
    """The whole forward pass with a gradient in one module, as data parallelism needs it."""

    def __init__(self, segmenter: Segmenter, config: Config) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config

    def forward(self, given: Inputs) -> Outputs:
        """Steps 2 to 5, and D."""
        model, count = self.segmenter, len(given.images)
        assert model.denoiser is not None
        # 2. z_0 and inter-coder features; of the target as a condition only
        z_0, skip, _ = model.encoder(given.images)
        with torch.no_grad():
            z_target = model.encoder(given.target)[0]
        # 3. z*; an image without a label starts from pure noise, whatever is noised
        clean, weight = clean_latent(z_0, given.shares, given.prototypes, given.known, self.config.adv.label_strength)
        # 4. z_t
        z_t = add_noise(model.scheduler, torch.cat([clean, z_target.float()]), given.noise, given.timesteps)
        # 5. z̄_0
        estimate = model.denoiser(z_t.to(z_0.dtype), given.timesteps, torch.cat([z_0, z_target]))
        direct, decoded = (
            model.decoder(z_0, skip, given.keep_skip),
            model.decoder(estimate[:count], skip, given.keep_skip),
        )
        return Outputs(z_0, direct, estimate, clean, weight, estimate, decoded)


def without_ignored(parts: Sequence[Tensor], target: View, ignored: Tensor | None) -> Sequence[Tensor]:
    """Inputs of the adversary with 0 where the target is not the scene.

    The same holes are made in all domains, row by row, so that they do not tell the domains apart.

    Args:
        parts: (V, C, h, w) a domain, all of as many rows.
        target: The views of the target crops.
        ignored: bool (B, H, W) of the target crops, or None.
    """
    if ignored is None:
        return parts
    scene = target.maps((~ignored).float()).unsqueeze(1)  # (V, 1, h, w)
    scene = F.adaptive_avg_pool2d(scene, parts[-1].shape[-2:]) > 0.5
    return [part * scene.to(part.dtype) for part in parts]


class Stage2:
    """Stage 2, the method.

    Attributes:
        domains: Names of the domains of a step, the labelled ones first, the target last.
    """

    name = "stage2"
    domains: tuple[str, ...] = ("source", "mixed", "target")

    def __init__(self, config: Config, space: LabelSpace, student: Segmenter, accelerator: Accelerator) -> None:
        """Set up networks and optimizers.

        Args:
            config: The configuration.
            space: Classes of the output.
            student: Stage 1's teacher with a UNet.
            accelerator: Device, precision and gradient sync.
        """
        self.config, adv = config, config.adv
        self.classes = len(space)
        self.iterations = adv.iterations
        self.accelerator = accelerator
        self.layout = layout_of(config, accelerator)
        device = accelerator.device
        # E and D keep the statistics that stage 1 measured: here D meets z_0 and z̄_0, source, mixed and target images
        # in turn, and statistics of such a blend would fit none of them.
        student.encoder.keep_statistics()
        student.decoder.keep_statistics()
        self.student = student.train()
        self.teacher = Teacher(self.student, ema_decay(adv.ema_horizon, self.iterations), self.layout)
        self.layout.place([self.student, self.teacher.model])
        self.gate = ConfidenceGate(config.pseudo, self.classes).to(device)
        self.prototypes = Prototypes(self.classes, config.model.latent_channels).to(device)
        self.adversary = self.make_adversary()
        self.network, self.optimizer = self.layout.prepare(self.generator(), self._optimizer())
        self.modules: dict[str, nn.Module] = {
            "student": self.student,
            "teacher": self.teacher.model,
            "gate": self.gate,
            "prototypes": self.prototypes,
            "discriminator": self.adversary.discriminator,
        }
        self.optimizers = {"student": self.optimizer, "discriminator": self.adversary.optimizer}

    @staticmethod
    def trained_images(config: Config) -> int:
        """Images a sample that pass E and D with a gradient: source and mixed ones."""
        return 2

    def generator(self) -> nn.Module:
        """What makes `Outputs` of `Inputs`."""
        return Generator(self.student, self.config)

    def make_adversary(self) -> Adversary:
        """What tells the domains apart."""
        return Adversary(self.config, self.classes, self.domains, self.layout, self.accelerator)

    def result(self) -> Segmenter | None:
        """The teacher, whole, on rank 0; all ranks together."""
        return self.teacher.whole()

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """One step, numbered as in the head of this file."""
        adv = self.config.adv
        set_learning_rate(self.optimizer, step, self.iterations, self.config.optim.warmup)
        self.adversary.set_learning_rate(step)
        assert batch.target is not None
        # 1. source and mixed: images (B, 3, h, w), labels and weights (B, h, w)
        crops, stats = self.labelled(step, batch)
        if batch.annotated is not None:
            crops.append(annotated_crops(batch))
        # 2. to 5. z_0, z*, z̄_0 (V, C_z, h/8, w/8) and logits (V, K, h/4, w/4)
        views = [self.student.view(images, batch.rngs) for images in (*(part.images for part in crops), batch.target)]
        shares = self._shares(views, crops)  # (V, K, h/8, w/8)
        prototypes, known = self._prototypes(step, batch, views[0], shares)  # (K, C_z), (K,)
        noise, timesteps, pure = self.draw_noise(batch, views)
        keep_skip = self._keep_skip(batch, views)
        out: Outputs = self.network(
            Inputs(join_views(views[:-1]), views[-1].images, noise, timesteps, keep_skip, shares, prototypes, known)
        )
        # 6. the loss
        inputs = self.adversary_inputs(out, views, pure, batch.ignored)  # one (N, C, ...) a domain
        terms = self.terms(batch, crops, views, out)
        if adv.adversarial_weight > 0:
            terms.append(Term("adversarial", adv.adversarial_weight, self.adversary.fooled(inputs)))
        loss, losses = total(terms)
        # 7. the UNet, and gently E and D
        stats |= losses | apply_gradients(
            self.layout, self.accelerator, loss, self.optimizer, self.network, self.config.optim.grad_clip, batch.micro
        )
        # 8. the discriminator
        if adv.adversarial_weight > 0:
            stats |= self.adversary.learn(inputs, batch.micro)
        # 9. the prototypes
        self.prototypes.update(out.latent[: len(views[0])].detach(), shares[: len(views[0])])
        if batch.completes:
            self.teacher.update(self.student, step)
        return {"loss": loss.detach(), **stats}

    def labelled(self, step: int, batch: DeviceBatch) -> tuple[list[Crops], dict[str, Tensor]]:
        """Source and mixed images with their labels, and the statistics of the pseudo-labels for the log."""
        with self.accelerator.autocast():
            steps = int(self.student.denoiser is not None)
            pseudo = pseudo_label(self.teacher.model, self.gate, batch, steps, seed=step)
        crops = [source_crops(batch), mix(batch, pseudo.labels, pseudo.weights)]
        return crops, {"pseudo_label_weight": pseudo.weights.mean()}

    def terms(self, batch: DeviceBatch, crops: Sequence[Crops], views: Sequence[View], out: Outputs) -> list[Term]:
        """The terms of the loss without the adversarial one."""
        adv = self.config.adv
        assert out.estimate is not None and out.clean is not None and out.weight is not None
        assert out.decoded is not None
        labelled = zip(views[: len(crops)], crops, strict=True)
        maps = torch.cat([view.maps(part.weights) for view, part in labelled])  # (V, h, w)
        weight = out.weight * F.adaptive_avg_pool2d(maps.unsqueeze(1), out.weight.shape[-2:])  # (V, 1, h/8, w/8)
        few = [] if batch.annotated is None else [self.annotated_term(crops, views, [out.direct, out.decoded])]
        return [
            *few,
            Term("direct", adv.direct_weight, self.cross_entropy(batch, crops, views, out.direct)),
            Term("latent", adv.latent_weight, latent_error(out.estimate[: len(out.clean)], out.clean, weight)),
            Term("decoded", adv.decoded_weight, self.cross_entropy(batch, crops, views, out.decoded)),
        ]

    def cross_entropy(
        self, batch: DeviceBatch, crops: Sequence[Crops], views: Sequence[View], logits: Tensor
    ) -> Reduced:
        """Cross-entropy of D's output for the labelled views, over all pixels with a label."""
        rows = split_rows(logits, views[: len(crops)])
        count = len(self.domains) - 1  # annotated crops, behind these, have a term of their own
        source, *others = [
            cross_entropy(view, of, part.labels, part.weights)
            for view, of, part in zip(views[:count], rows[:count], crops[:count], strict=True)
        ]
        pixels = batch.labelled
        for other in others:
            source, pixels = source.plus(other), pixels + other.count
        return source.over(pixels)

    def annotated_term(self, crops: Sequence[Crops], views: Sequence[View], logits: Sequence[Tensor]) -> Term:
        """Cross-entropy of the labelled target crops, the last of `crops`: the mean over them.

        Args:
            crops: All labelled crops.
            views: Their views, and the target's.
            logits: D(z_0) and, with a UNet, D(z̄_0) for the labelled views, (V, K, h/4, w/4) each.
        """
        part, view, adv = crops[-1], views[len(crops) - 1], self.config.adv
        losses = [
            cross_entropy(view, split_rows(each, views[: len(crops)])[-1], part.labels, part.weights, part.groups)
            for each in logits
        ]
        loss = losses[0].scaled(adv.direct_weight)
        for decoded in losses[1:]:
            loss = loss.plus(decoded.scaled(adv.decoded_weight))
        return Term("labelled", adv.labelled_weight, loss.over(torch.full_like(loss.count, len(part.labels))))

    def adversary_inputs(
        self, out: Outputs, views: Sequence[View], pure: Sequence[Tensor], ignored: Tensor | None
    ) -> list[Tensor]:
        """Input of the adversary, one tensor per domain: estimates from pure noise.

        Neither network learns where a target is not the scene, see `without_ignored`.
        """
        parts = without_ignored(self.of_domains(split_rows(out.adversary_input, views)), views[-1], ignored)
        return [part.index_select(0, rows) for part, rows in zip(parts, self.of_domains(pure), strict=True)]

    def of_domains(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """One part a domain, of one part a view: without the annotated crops."""
        return [*parts[: len(self.domains) - 1], parts[-1]]

    def draw_noise(self, batch: DeviceBatch, views: Sequence[View]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Noise (V + V_t, C_z, h/8, w/8), time steps (V + V_t,), and by domain which rows are pure noise."""
        size = [side // 8 for side in views[0].images.shape[-2:]]
        shape = (self.config.model.latent_channels, *size)
        last, chance = terminal_timestep(self.student.scheduler), self.config.adv.terminal_probability
        rngs = batch.rngs * (len(views[0]) // len(batch.rngs))
        noise = np.stack([rng.standard_normal(shape, np.float32) for _ in views for rng in rngs])
        noised = range(len(self.domains) - 1)
        steps = [[last if rng.random() < chance else int(rng.integers(last)) for rng in rngs] for _ in noised]
        steps += [[last] * len(rngs)] * (len(views) - len(steps))  # annotated and target crops
        device = batch.label.device
        pure = [torch.tensor(row).eq(last).nonzero().flatten().to(device, non_blocking=True) for row in steps]
        timesteps = torch.tensor(steps).flatten().to(device, non_blocking=True)
        return torch.from_numpy(noise).to(device, non_blocking=True), timesteps, pure

    def _shares(self, views: Sequence[View], crops: Sequence[Crops]) -> Tensor:
        """Class shares of the cells of the labelled views, (V, K, h/8, w/8)."""
        parts = [view.maps(part.labels) for view, part in zip(views[: len(crops)], crops, strict=True)]
        if len(parts) == len(self.domains):  # annotated crops are not noised, and groups are no classes
            parts[-1] = torch.full_like(parts[-1], IGNORE)
        labels = torch.cat(parts)
        return class_shares(labels, self.classes, (labels.shape[-2] // 8, labels.shape[-1] // 8))

    def _prototypes(self, step: int, batch: DeviceBatch, source: View, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes; before the first step they come from the teacher's latents of the first source batch."""
        if step == 0 and batch.micro[0] == 0:
            with torch.no_grad(), self.accelerator.autocast():
                latent = self.teacher.model.encoder(source.of(batch.source))[0]
            self.prototypes.update(latent, shares[: len(source)])
        return self.prototypes.means()

    def _keep_skip(self, batch: DeviceBatch, views: Sequence[View]) -> Tensor:
        """Which labelled views keep their inter-coder features, bool (V,)."""
        copies = sum(len(view) for view in views[:-1]) // len(batch.label)
        return draw_keep_skip(batch, self.config.model.skip_dropout, copies)

    def _optimizer(self) -> torch.optim.Optimizer:
        config, adv = self.config, self.config.adv
        head_lr = config.optim.lr * config.optim.head_lr_factor * adv.coder_lr_factor
        pretrained = config.model.encoder != "tiny"
        backbone_lr = config.optim.lr * adv.coder_lr_factor if pretrained else head_lr
        unet = [] if self.student.denoiser is None else [(self.student.denoiser, adv.unet_lr)]
        groups = [*unet, (self.student.encoder.backbone, backbone_lr), (self.student, head_lr)]
        return optimizer_of(groups, config.optim, self.accelerator.device)
