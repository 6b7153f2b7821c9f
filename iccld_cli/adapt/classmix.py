"""ClassMix on tensors: paste chosen classes of a source image onto a target image (Olsson et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def classmix(paste: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Source where `paste` is set, target elsewhere.

    Args:
        paste: (B, H, W) bool.
        source: (B, H, W) or (B, C, H, W).
        target: Of the same shape.
    """
    return torch.where(paste if source.ndim == 3 else paste.unsqueeze(1), source, target)
