"""Evidence masks: which cells of z_0 and of the inter-coder features are hidden, instead of noise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from stage2.frames import SIZE, Draws, Frames
from stage2.trial import Passes, Trial, copied, cross_entropy
from torch import Tensor, nn

from iccld_cli.models.denoiser import Denoiser
from iccld_cli.models.segmenter import Segmenter


class Masked(nn.Module):
    """The UNet that fills in hidden cells, and a decoder that learns with it."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        adv = model.config.model
        self.unet = Denoiser(adv.latent_channels, tuple(adv.unet_channels), adv.unet_layers, adv.unet_attention)
        self.decoder = copied(model.decoder)
        self.hidden_z = nn.Parameter(torch.zeros(1, adv.latent_channels, 1, 1))
        self.hidden_skip = nn.Parameter(torch.zeros(1, adv.skip_channels, 1, 1))

    def forward(self, z: Tensor, skip: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, K, h/4, w/4) of latents of which `hidden`, bool (B, h/8, w/8), is not shown."""
        mask = hidden[:, None].to(z.dtype)
        fine = F.interpolate(mask, scale_factor=2, mode="nearest")
        z = z * (1 - mask) + self.hidden_z * mask
        skip = skip * (1 - fine) + self.hidden_skip * fine
        timesteps = (999 * hidden.float().mean((1, 2))).long()
        return self.decoder(self.unet(mask.expand_as(z), timesteps, z), skip).float()

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their rates."""
        slow = [*self.decoder.parameters()]
        fast = [*self.unet.parameters(), self.hidden_z, self.hidden_skip]
        return [{"params": fast, "lr": 1e-3}, {"params": slow, "lr": 3e-4}]


def complementary(size: tuple[int, int], device: torch.device, side: int = 3) -> list[Tensor]:
    """Four masks, bool (1, h, w), that hide every cell once."""
    rows, columns = (torch.arange(count, device=device) // side for count in size)
    of = (rows[:, None] % 2) * 2 + columns[None] % 2
    return [(of == number)[None] for number in range(4)]


class MaskedTrial(Trial):
    """Evidence masks."""

    def network(self) -> nn.Module:
        return Masked(self.frozen.model)

    def loss(self, network: nn.Module, labelled: Frames, target: Frames, draws: Draws) -> Tensor:
        count = len(labelled) + len(target)
        share = draws.uniform(count) * 0.75
        share[draws.uniform(count) < 0.25] = 0  # the unmasked pass, which answers
        hidden = draws.blocks((SIZE[1] // 8, SIZE[0] // 8), share)
        with self.autocast():
            logits = network(torch.cat([labelled.z, target.z]), torch.cat([labelled.skip, target.skip]), hidden)
        known, unknown = logits[: len(labelled)], logits[len(labelled) :]
        agreed = F.cross_entropy(unknown, target.answer)
        return cross_entropy(known, labelled) + agreed

    def more(self, network: nn.Module, encoded: Frames) -> Passes:
        size = (SIZE[1] // 8, SIZE[0] // 8)
        nothing = torch.zeros(1, *size, dtype=torch.bool, device=self.device)
        hidden = [network(encoded.z, encoded.skip, mask) for mask in complementary(size, self.device)]
        return {"masked": (network(encoded.z, encoded.skip, nothing), {"four masks": hidden})}
