"""The adversary of stage 2: the discriminator, its optimizer and its training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from iccld_cli.adapt.optim import apply_gradients, has_fused_kernels, set_learning_rate
from iccld_cli.adapt.terms import divide, pooled_counts
from iccld_cli.config import Config
from iccld_cli.losses.adversarial import gradient_penalty, scored_as_other, scored_as_source
from iccld_cli.losses.reduced import Reduced
from iccld_cli.models.build import build_discriminator
from iccld_cli.parallel.layout import Layout


class Adversary:
    """A discriminator of the source and the other domains, and its training.

    Its inputs are tensors (N, C, h, w), one a domain, the source first: latents or class probabilities.

    Attributes:
        discriminator: The network.
        optimizer: Steps it.
        domains: Names of the domains, for the log.
    """

    def __init__(
        self, config: Config, classes: int, domains: Sequence[str], layout: Layout, accelerator: Accelerator
    ) -> None:
        """Build the discriminator with random weights.

        Args:
            config: The configuration.
            classes: K.
            domains: Names of the domains, the source first.
            layout: Averages gradients.
            accelerator: Device and precision.
        """
        self.config = config
        self.domains = tuple(domains)
        self.layout, self.accelerator = layout, accelerator
        self.discriminator = build_discriminator(config, classes).to(accelerator.device)
        rate = config.adv.discriminator_lr
        optimizer = torch.optim.Adam(
            [{"params": list(self.discriminator.parameters()), "lr": rate, "base_lr": rate}],
            betas=(0.9, 0.99),
            fused=has_fused_kernels(accelerator.device),
        )
        # The network is not wrapped for data parallelism, which would wait for ranks that have no input for it.
        self.optimizer = accelerator.prepare(optimizer)

    def set_learning_rate(self, step: int) -> None:
        """Follow the schedule of the generator's optimizer."""
        set_learning_rate(self.optimizer, step, self.config.adv.iterations, self.config.optim.warmup)

    def fooled(self, estimates: Sequence[Tensor]) -> Reduced:
        """The generator's loss: how far the other domains are from being scored as the source.

        Its gradient flows through the discriminator and leaves none in it.
        """
        self.discriminator.requires_grad_(False)
        other = torch.cat(list(estimates[1:]))
        scores = self.scores(other)
        self.discriminator.requires_grad_(True)
        return self.as_source(scores, other)

    def scores(self, estimates: Tensor) -> Tensor:
        """What the discriminator says of its inputs."""
        return self.discriminator(estimates)

    def as_source(self, scores: Tensor, estimates: Tensor) -> Reduced:
        """How far scores are from those of source estimates."""
        return scored_as_source(scores)

    def as_other(self, scores: Tensor, estimates: Tensor) -> Reduced:
        """How far scores are from those of other estimates."""
        return scored_as_other(scores)

    def taken_for_source(self, scores: Tensor) -> Tensor:
        """Where scores speak for the source, bool."""
        return scores > 0.5

    def learn(self, estimates: Sequence[Tensor], micro: tuple[int, int] = (0, 1)) -> dict[str, Tensor]:
        """One step of the discriminator.

        Args:
            estimates: Its inputs, one tensor per domain; they get no gradient.
            micro: Number of the micro-batch and how many make a step.

        Returns:
            `disc_loss`, the accuracy on each domain, and the gradient's norm once it steps.
        """
        weight = self.config.adv.gradient_penalty
        source = estimates[0].detach().float().requires_grad_(weight > 0)
        other = torch.cat([part.detach().float() for part in estimates[1:]])
        scores = self.scores(torch.cat([source, other])).split([len(part) for part in estimates])
        losses = [self.as_source(scores[0], source), self.as_other(torch.cat(scores[1:]), other)]
        counts = pooled_counts(losses)
        on_source, on_other = divide(losses, counts)
        # Without source rows there is nothing to compare the others with.
        loss = 0.5 * (on_source + on_other) * (counts[0] > 0)
        stats = {"disc_loss": loss.detach()}
        for domain, part in zip(self.domains, scores, strict=True):
            if len(part):
                right = self.taken_for_source(part) == (domain == "source")
                stats[f"disc_acc_{domain}"] = right.float().mean()
        if weight > 0 and len(source):
            scores_each = scores[0].numel() / len(source)  # so that a latent counts as its scores do
            penalty = gradient_penalty(scores[0], source).scaled(weight * scores_each)
            loss = loss + divide([penalty], counts[:1])[0]
        done = apply_gradients(
            self.layout, self.accelerator, loss, self.optimizer, self.discriminator,
            self.config.optim.grad_clip, micro,
        )  # fmt: skip
        return stats | {f"disc_{name}": value for name, value in done.items()}
