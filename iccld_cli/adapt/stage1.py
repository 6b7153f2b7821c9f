"""Stage 1, segmentation-based adaptation of E and D.

One step (x^s, y^s source; x^t target; x^{s+t}, y^{s+t} their ClassMix):

    1. x^s takes the colours of x^t                                             `stage.to_device`
    2. teacher labels x^t, and says how far to believe it                       `pseudo.pseudo_label`
    3. ClassMix pastes half of the classes of x^s onto x^t                      `stage.mix`
    4. L = CE(D(E(x^s)), y^s) + w CE(D(E(x^{s+t})), y^{s+t}) + options
    5. student steps, teacher averages it

During the burn-in only the source term counts, so that pseudo-labels start from a teacher that knows the rare classes.
"""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from iccld_cli.adapt.augment import jitter_images, mask_blocks
from iccld_cli.adapt.pseudo import ConfidenceGate, PseudoLabels, pseudo_label
from iccld_cli.adapt.stage import (
    DeviceBatch,
    apply_gradients,
    draw_detail_windows,
    draw_keep_skip,
    fused_loss,
    mix,
    optimizer_of,
    set_learning_rate,
    thing_mask,
)
from iccld_cli.adapt.teacher import Teacher, ema_decay
from iccld_cli.config import Config
from iccld_cli.labels import THINGS, LabelSpace
from iccld_cli.losses.segmentation import feature_distance
from iccld_cli.models.detail import split_images, split_labels
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import mean_over_ranks, share_batch_norm
from iccld_cli.parallel.sharding import is_sharded, prepare, shard_networks


class SegStage:
    """Stage 1, or the source-only baseline."""

    def __init__(
        self,
        config: Config,
        space: LabelSpace,
        student: Segmenter,
        accelerator: Accelerator,
        source_only: bool = False,
    ) -> None:
        """Set up networks and optimizer.

        Args:
            config: The configuration.
            space: Classes of the output.
            student: The model to train, without UNet.
            accelerator: Device, precision and gradient sync.
            source_only: Train on the source alone.
        """
        self.name = "source_only" if source_only else "stage1"
        self.config = config
        self.iterations = config.seg.iterations
        self.accelerator = accelerator
        device = accelerator.device
        shards = is_sharded(config)
        self.student = (student if shards else student.to(device, memory_format=torch.channels_last)).train()
        share_batch_norm(self.student, device)
        self.teacher = Teacher(self.student, ema_decay(config.seg.ema_horizon, self.iterations))
        self.gate = ConfidenceGate(config.seg, len(space)).to(device)
        self.burn_in = self.iterations if source_only else round(config.seg.burn_in * self.iterations)
        pretrained = config.model.encoder != "tiny"
        self.reference = self._frozen_backbone() if config.seg.feature_distance_weight > 0 and pretrained else None
        if shards:
            self.teacher.expect_shards()
            shard_networks([self.student, self.teacher.model, self.reference], accelerator)
        lr, head_lr = config.optim.lr, config.optim.lr * config.optim.head_lr_factor
        self.optimizer = optimizer_of(
            [(student.encoder.backbone, lr if pretrained else head_lr), (student, head_lr)], config.optim, device
        )
        self.things = thing_mask(space.names, THINGS).to(device)
        self.network, self.optimizer = prepare(accelerator, self.student, self.optimizer, config)
        self.modules: dict[str, nn.Module] = {
            "student": self.student,
            "teacher": self.teacher.model,
            "gate": self.gate,
        }
        self.optimizers = {"student": self.optimizer}

    def result(self) -> Segmenter | None:
        """The teacher, whole, on rank 0; all ranks together."""
        return self.teacher.whole()

    def step(self, step: int, batch: DeviceBatch) -> dict[str, Tensor]:
        """One step, as the head of this file tells it."""
        cfg = self.config
        set_learning_rate(self.optimizer, step, self.iterations, cfg.optim.warmup)
        adapting = step >= self.burn_in and batch.target is not None
        images, labels, weights = [jitter_images(batch.source, batch.jitter_source)], [batch.label], None
        pseudo: PseudoLabels | None = None
        if adapting:
            assert batch.target is not None
            with self.accelerator.autocast():
                pseudo = pseudo_label(self.teacher.model, self.gate, batch)
            mixed, mixed_labels, weights = mix(batch, pseudo.labels, pseudo.weights)
            images.append(mixed)
            labels.append(mixed_labels)
            if cfg.seg.masked_weight > 0:
                images.append(
                    mask_blocks(
                        jitter_images(batch.target, batch.jitter_source),
                        batch.rngs,
                        cfg.seg.masked_block,
                        cfg.seg.masked_ratio,
                    )
                )
                labels.append(pseudo.labels)
        keep = draw_keep_skip(batch, cfg.model.skip_dropout, len(images))
        windows = draw_detail_windows(batch, cfg, len(images))
        out = self.network(torch.cat(images), keep, windows, self.reference is not None)
        parts = {name: out[name].split(len(batch.label)) for name in ("logits", "detail") if name in out}
        places = windows.split(len(batch.label)) if windows is not None else [None] * len(images)

        def loss_of(part: int, labels: Tensor, weights: Tensor | None, count: Tensor | None = None) -> Tensor:
            found = {name: rows[part] for name, rows in parts.items()}
            return fused_loss(found, labels, weights, count, places[part], cfg)

        stats = {"loss_source": loss_of(0, batch.label, None, batch.labelled)}
        loss = stats["loss_source"]
        if pseudo is not None:
            stats["loss_mixed"] = loss_of(1, labels[1], weights)
            loss = loss + cfg.seg.mixed_weight * stats["loss_mixed"]
            stats["pseudo_believed"] = pseudo.weights.mean()
            if cfg.seg.masked_weight > 0:
                stats["loss_masked"] = loss_of(2, labels[2], pseudo.weights)
                loss = loss + cfg.seg.masked_weight * stats["loss_masked"]
        if self.reference is not None:
            stats["loss_feature"] = self._feature_distance(out["features"], images[0], batch.label, places[0])
            loss = loss + cfg.seg.feature_distance_weight * stats["loss_feature"]
        stats |= apply_gradients(self.accelerator, loss, self.optimizer, self.network, cfg.optim.grad_clip, batch.micro)
        if batch.completes:
            self.teacher.update(self.student, step)
        return {"loss": loss.detach(), **{k: v.detach() for k, v in stats.items()}}

    def _frozen_backbone(self) -> nn.Module:
        return copy.deepcopy(self.student.encoder.backbone).requires_grad_(False).eval()

    def _feature_distance(self, features: Tensor, source: Tensor, labels: Tensor, windows: Tensor | None) -> Tensor:
        """Distance of the source's rows of `features` to those of the frozen encoder."""
        assert self.reference is not None
        rows = features[: len(source)]
        if windows is not None:  # contexts of all images stand before the details of all
            rows = torch.cat([rows, features[len(features) // 2 :][: len(source)]])
            source, labels = split_images(source, windows), split_labels(labels, windows)
        with torch.no_grad(), self.accelerator.autocast():
            reference = self.reference(source)[-1]
        return feature_distance(rows, reference, labels, self.things, pool=mean_over_ranks)
