"""What BAPA-Net does at the edges of what ClassMix pasted (Liu et al., ICCV 2021, abstract).

Pixels of a mixed image weigh more the nearer they are to an edge, and classes of the two domains are drawn together by
their mean latents, to which no pixel near an edge belongs. The paper's text was not at hand: `recipes/bapa.toml` says
what is rebuilt.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.labels import IGNORE

MARGIN = 3
"""Pixels around an edge that belong to no class's mean."""


def edge_nearness(paste: Tensor) -> Tensor:
    """How near each pixel is to an edge of what is pasted; computed on the CPU, for which a GPU's host waits.

    Args:
        paste: bool (B, H, W).

    Returns:
        float32 (B, H, W): 1 beside an edge, falling with the distance to 0 at the farthest pixel on either side; 0
        where an image has one side only.
    """
    return torch.from_numpy(np.stack([_nearness(image) for image in paste.cpu().numpy()])).to(paste.device)


def _nearness(paste: np.ndarray) -> np.ndarray:
    found = np.zeros(paste.shape, np.float32)
    if paste.all() or not paste.any():
        return found
    for side in (paste, ~paste):
        distance = cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 1
        far = float(distance.max())
        found[side] = 1 - distance[side] / far if far > 0 else 1
    return found


def edge_factor(nearness: Tensor, strength: float) -> Tensor:
    """Factors (B, H, W) on the weights of a mixed image's pixels: 1 + strength x nearness, over their mean."""
    factor = 1 + strength * nearness
    return factor / factor.mean(dim=(1, 2), keepdim=True)


def without_edges(labels: Tensor, paste: Tensor | None = None) -> Tensor:
    """Labels with 255 within `MARGIN` pixels of an edge between classes, and of what is pasted.

    Args:
        labels: int64 (B, H, W).
        paste: bool (B, H, W), or None.
    """
    maps = labels.float() if paste is None else labels.float() + 256 * paste.float()
    side = 2 * MARGIN + 1
    highest = F.max_pool2d(maps.unsqueeze(1), side, 1, MARGIN)
    lowest = -F.max_pool2d(-maps.unsqueeze(1), side, 1, MARGIN)
    return labels.masked_fill((highest != lowest).squeeze(1), IGNORE)
