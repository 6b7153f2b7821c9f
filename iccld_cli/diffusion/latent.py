"""The clean latent that stage 2 generates.

Symbols: z_0 the encoder's latent, y a label, P_c the prototype of class c, s_c(y) the share of a cell that c covers.

The clean latent must carry the label: were it z_0 itself, the UNet, which sees z_0 as its condition, would learn
the identity. Here it is

    z* = normalise((1 - b) z_0 + b sum_c s_c(y) P_c)            b = `adv.label_strength`

so that the UNet learns p(semantics | image): where E confuses classes, z* lies with the right one.
(This project's decision; the paper leaves the target of the diffusion open.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.labels import IGNORE


def normalise_latent(latent: Tensor) -> Tensor:
    """Give every cell zero mean and unit variance over its channels.

    Args:
        latent: (B, C_z, h, w).

    Returns:
        float32 (B, C_z, h, w).
    """
    # In float32 whatever the autocast precision: the diffusion adds noise of exactly this scale.
    cells = F.layer_norm(latent.permute(0, 2, 3, 1).float(), latent.shape[1:2])
    return cells.permute(0, 3, 1, 2)


def class_shares(labels: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """How much of each cell each class covers.

    Args:
        labels: (B, H, W) int64 trainIds; ignored pixels belong to no class.
        classes: K.
        size: (h, w) of the cells; H and W are multiples of them.

    Returns:
        float32 (B, K, h, w) in [0, 1]; the sum over K is the labelled share of the cell.
    """
    batch, (rows, columns) = len(labels), size
    high, wide = labels.shape[-2] // rows, labels.shape[-1] // columns
    safe = labels.masked_fill(labels == IGNORE, classes)
    # Counted, for which no plane a class is made at the size of the labels: (B, h * w, pixels of a cell).
    cells = safe.view(batch, rows, high, columns, wide).transpose(2, 3).reshape(batch, rows * columns, high * wide)
    ones = torch.ones((), device=labels.device).expand_as(cells)
    counts = torch.zeros(batch, rows * columns, classes + 1, device=labels.device).scatter_add_(2, cells, ones)
    shares = counts[..., :classes] / (high * wide)
    return shares.transpose(1, 2).reshape(batch, classes, rows, columns)


def prototype_sums(latent: Tensor, shares: Tensor, purity: float = 0.6) -> tuple[Tensor, Tensor]:
    """Sums for the mean latent of each class over the cells that it mostly covers.

    Args:
        latent: (B, C_z, h, w).
        shares: (B, K, h, w) from `class_shares`.
        purity: A cell counts for a class from this share on.

    Returns:
        Sums (K, C_z) and counts (K,).
    """
    pure = (shares >= purity).to(latent.dtype)
    return torch.einsum("bkhw,bchw->kc", pure, latent), pure.sum(dim=(0, 2, 3))


def clean_latent(
    latent: Tensor, shares: Tensor, prototypes: Tensor, known: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """The clean latent z* of labelled images.

    Args:
        latent: z_0, (B, C_z, h, w); no gradient flows through it.
        shares: (B, K, h, w) from `class_shares`.
        prototypes: (K, C_z).
        known: (K,) bool, classes that have a prototype.
        strength: b in [0, 1].

    Returns:
        z* (B, C_z, h, w) of unit variance, and the weight of each cell (B, 1, h, w) in [0, 1]: the share of it
        that has a label with a prototype. Cells without one keep z_0.
    """
    latent = latent.detach().float()
    shares = shares * known.view(1, -1, 1, 1)
    weight = shares.sum(dim=1, keepdim=True)
    semantics = torch.einsum("bkhw,kc->bchw", shares, prototypes)
    blend = (1 - strength * weight) * latent + strength * semantics
    return normalise_latent(blend), weight
