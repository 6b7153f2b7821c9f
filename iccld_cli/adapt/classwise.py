"""An adversary that tells latents of the domains apart class by class (FADA, Wang et al. 2020, section 3.2).

Its inputs carry the classes with them: latents (N, C_z, h, w) and, behind them in the same tensor, the class
probabilities of their cells (N, K, h, w), which get no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.adapt.adversary import Adversary
from iccld_cli.losses.adversarial import scored_as_classes
from iccld_cli.losses.reduced import Reduced

TEMPERATURE, MOST = 1.8, 0.9
"""Of the class probabilities, and the value that they are cut at (FADA's code)."""


def with_classes(latents: Tensor, logits: Tensor) -> Tensor:
    """Latents with the classes of their cells.

    Args:
        latents: (N, C_z, h, w).
        logits: (N, K, 2h, 2w).

    Returns:
        (N, C_z + K, h, w).
    """
    probabilities = (logits.detach().float() / TEMPERATURE).softmax(dim=1)
    cells = F.adaptive_avg_pool2d(probabilities, latents.shape[-2:]).clamp(max=MOST)
    return torch.cat([latents, cells.to(latents.dtype)], dim=1)


class ClassAdversary(Adversary):
    """See the head of this file."""

    def scores(self, estimates: Tensor) -> Tensor:
        """See `Adversary.scores`; the discriminator sees the latents alone."""
        return self.discriminator(estimates[:, : self.config.model.latent_channels])

    def as_source(self, scores: Tensor, estimates: Tensor) -> Reduced:
        """See `Adversary.as_source`."""
        return scored_as_classes(scores, self._classes(estimates), source=True)

    def as_other(self, scores: Tensor, estimates: Tensor) -> Reduced:
        """See `Adversary.as_other`."""
        return scored_as_classes(scores, self._classes(estimates), source=False)

    def taken_for_source(self, scores: Tensor) -> Tensor:
        """See `Adversary.taken_for_source`."""
        return scores.float().softmax(dim=1)[:, : scores.shape[1] // 2].sum(dim=1) > 0.5

    def _classes(self, estimates: Tensor) -> Tensor:
        return estimates[:, self.config.model.latent_channels :].detach().float()
