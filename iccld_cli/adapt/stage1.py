"""Stage 1, segmentation-based adaptation of E and D.

One step (x^s, y^s source; x^t target; x^{s+t}, y^{s+t} their ClassMix), after x^s has taken the colours of x^t
(`batch.to_device`):

    1. the teacher labels x^t; the gate weighs the labels                       `pseudo.pseudo_label`
    2. ClassMix pastes half of the classes of x^s onto x^t                      `batch.mix`
    3. forward pass of source, mixed and, with masked consistency, masked target images; with `--labelled`, of x^l
    4. L = CE(D(E(x^s)), y^s) + w CE(D(E(x^{s+t})), y^{s+t}) + options
       with labelled target crops (x^l, y^l): + w_l CE(D(E(x^l)), y^l), from the first step on
    5. optimizer step of the student, EMA update of the teacher

During the burn-in there is only the source term, so that the teacher knows the rare classes before it gives labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.adapt.augment import jitter_images, mask_blocks
from iccld_cli.adapt.batch import Crops, DeviceBatch, annotated_crops, draw_keep_skip, mix, source_crops
from iccld_cli.adapt.boundaries import edge_factor, edge_nearness, without_edges
from iccld_cli.adapt.optim import apply_gradients, optimizer_of, set_learning_rate
from iccld_cli.adapt.pseudo import ConfidenceGate, PseudoLabels, pseudo_label
from iccld_cli.adapt.teacher import Teacher, ema_decay
from iccld_cli.adapt.terms import Term, cross_entropy, total
from iccld_cli.config import Config
from iccld_cli.labels import IGNORE, THINGS, LabelSpace
from iccld_cli.losses.reduced import Reduced
from iccld_cli.losses.segmentation import feature_distance, prototype_distance
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.models.views import View, join_views, split_rows
from iccld_cli.parallel.layout import layout_of
from iccld_cli.parallel.ranks import synchronise_batch_norm


class Stage1:
    """Stage 1, or the source-only baseline."""

    def __init__(
        self,
        config: Config,
        space: LabelSpace,
        student: Segmenter,
        accelerator: Accelerator,
        source_only: bool = False,
        reference: nn.Module | None = None,
    ) -> None:
        """Set up networks and optimizer.

        Args:
            config: The configuration.
            space: Classes of the output.
            student: The model to train, without UNet.
            accelerator: Device, precision and gradient sync.
            source_only: Train on the source alone.
            reference: The pretrained backbone that feature distance measures from, which is frozen; None where
                `seg.feature_distance_weight` is 0 or the encoder starts from random weights.
        """
        self.name = "source_only" if source_only else "stage1"
        self.config = config
        self.iterations = config.seg.iterations
        self.accelerator = accelerator
        self.layout = layout_of(config, accelerator)
        self.student = student.train()
        synchronise_batch_norm(self.student, accelerator.device)
        self.teacher = Teacher(self.student, ema_decay(config.seg.ema_horizon, self.iterations), self.layout)
        self.reference = None if reference is None else reference.requires_grad_(False).eval()
        self.layout.place([self.student, self.teacher.model, self.reference])
        self.gate = ConfidenceGate(config.pseudo, len(space)).to(accelerator.device)
        self.things = torch.tensor([name in THINGS for name in space.names]).to(accelerator.device)  # (K,)
        self.burn_in = self.iterations if source_only else round(config.seg.burn_in * self.iterations)
        head_lr = config.optim.lr * config.optim.head_lr_factor
        backbone_lr = config.optim.lr if config.model.encoder != "tiny" else head_lr
        optimizer = optimizer_of(
            [(student.encoder.backbone, backbone_lr), (student, head_lr)], config.optim, accelerator.device
        )
        self.network, self.optimizer = self.layout.prepare(self.student, optimizer)
        self.modules: dict[str, nn.Module] = {
            "student": self.student,
            "teacher": self.teacher.model,
            "gate": self.gate,
        }
        self.optimizers = {"student": self.optimizer}

    @staticmethod
    def trained_images(config: Config) -> int:
        """Images a sample that pass the networks with a gradient: source, mixed and masked ones."""
        return 2 + (config.seg.masked_weight > 0)

    def result(self) -> Segmenter | None:
        """The teacher, whole, on rank 0; all ranks together."""
        return self.teacher.whole()

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """One step, numbered as in the head of this file."""
        seg = self.config.seg
        set_learning_rate(self.optimizer, step, self.iterations, self.config.optim.warmup)
        crops = [source_crops(batch)]  # images (B, 3, h, w), labels and weights (B, h, w)
        pseudo: PseudoLabels | None = None
        if step >= self.burn_in and batch.target is not None:
            # 1. pseudo-labels and their weights, (B, h, w)
            with self.accelerator.autocast():
                pseudo = pseudo_label(self.teacher.model, self.gate, batch)
            # 2. x^{s+t}, y^{s+t}
            mixed = mix(batch, pseudo.labels, pseudo.weights)
            if seg.boundary_weight > 0:
                factor = edge_factor(edge_nearness(batch.paste), seg.boundary_weight)
                mixed = replace(mixed, weights=mixed.weights * factor)
            crops.append(mixed)
            if seg.masked_weight > 0:
                crops.append(Crops(self._masked(batch), pseudo.labels, pseudo.weights))
        if batch.annotated is not None:
            crops.append(annotated_crops(batch))
        # 3. logits (V, K, h/4, w/4) of each, z_0 (V, C_z, h/8, w/8), deepest features (V, C, h/32, w/32)
        keep_skip = draw_keep_skip(batch, self.config.model.skip_dropout, len(crops)).split(len(batch.label))
        views = [self.student.view(part.images, batch.rngs) for part in crops]
        keep_rows = torch.cat([view.rows(rows) for view, rows in zip(views, keep_skip, strict=True)])
        logits, latents, features = self.network(join_views(views), keep_rows)
        losses = [
            cross_entropy(view, rows, part.labels, part.weights, part.groups)
            for view, rows, part in zip(views, split_rows(logits, views), crops, strict=True)
        ]
        # 4. the loss
        terms = [Term("source", 1.0, losses[0].over(batch.labelled))]
        if pseudo is not None:
            terms.append(Term("mixed", seg.mixed_weight, losses[1]))
            if seg.masked_weight > 0:
                terms.append(Term("masked", seg.masked_weight, losses[2]))
            if seg.prototype_weight > 0:
                distance = self._prototype_distance(batch, pseudo, views, latents)
                terms.append(Term("prototype", seg.prototype_weight, distance))
        if batch.annotated is not None:  # a mean over crops of the means over their labelled pixels
            count = torch.full_like(batch.labelled, len(batch.annotated))
            terms.append(Term("labelled", seg.labelled_weight, losses[-1].over(count)))
        if self.reference is not None:
            distance = self._feature_distance(views[0], features, batch.label)
            terms.append(Term("feature", seg.feature_distance_weight, distance))
        loss, stats = total(terms)
        # 5. optimizer step and EMA update
        stats |= apply_gradients(
            self.layout, self.accelerator, loss, self.optimizer, self.network, self.config.optim.grad_clip, batch.micro
        )
        if batch.completes:
            self.teacher.update(self.student, step)
        if pseudo is not None:
            stats["pseudo_label_weight"] = pseudo.weights.mean()
        return {"loss": loss.detach(), **stats}

    def _masked(self, batch: DeviceBatch) -> Tensor:
        """Target images with masked blocks, (B, 3, h, w) (MIC, section 3)."""
        assert batch.target is not None
        images = jitter_images(batch.target, batch.jitter_source)
        return mask_blocks(images, batch.rngs, self.config.seg.masked_block, self.config.seg.masked_ratio)

    def _prototype_distance(
        self, batch: DeviceBatch, pseudo: PseudoLabels, views: Sequence[View], latents: Tensor
    ) -> Reduced:
        """Distance of the classes' mean latents in the source and in what mixed images show of the target."""
        source, mixed = split_rows(latents, views)[:2]
        unsure = pseudo.weights == 0
        if self.config.pseudo.gate == "threshold":  # it weighs a whole image by its share of confident pixels
            unsure = unsure | (pseudo.confidence < self.config.pseudo.threshold)
        certain = pseudo.labels.masked_fill(unsure | batch.paste, IGNORE)
        labels = without_edges(batch.label), without_edges(certain, batch.paste)
        return prototype_distance(source, views[0].maps(labels[0]), mixed, views[1].maps(labels[1]), len(self.things))

    def _feature_distance(self, source: View, features: Tensor, labels: Tensor) -> Reduced:
        """Distance of the source's rows of `features` to those of the frozen encoder."""
        assert self.reference is not None
        with torch.no_grad(), self.accelerator.autocast():
            reference = self.reference(source.images)[-1]
        return feature_distance(features[: len(source)], reference, source.maps(labels), self.things)
