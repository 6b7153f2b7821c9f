"""Hiera for images of any size.

The library's own backbone (`HieraBackbone`, transformers 5) neither interpolates the learnt positions nor brings its
tokens into the order that Hiera's attention and pooling count on, so its maps are scrambled. `HieraModel` does both,
but rolls its tokens back into maps of one size only, which is set here for each image.

Hiera: Ryali et al. 2023, section 3; tokens are ordered so that each pooling takes neighbours in memory ("unroll").
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

STRIDE = 32
"""Sides of images must be multiples of this: mask units are whole, and pooling leaves nothing over."""


def hiera_maps(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """Maps of a `HieraModel`.

    Args:
        model: The `HieraModel`.
        pixels: (B, 3, H, W), normalised, sides multiples of `STRIDE`.

    Returns:
        One map a stage, (B, C, H/4, W/4) to (B, 8C, H/32, W/32).
    """
    encoder: Any = model.encoder
    encoder.schedule = _roll_schedule(model.config, (pixels.shape[-2], pixels.shape[-1]))
    out = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    return [states.permute(0, 3, 1, 2) for states in out.reshaped_hidden_states[1:]]


def _roll_schedule(config: Any, size: tuple[int, int]) -> dict[int, tuple[list[Any], list[int]]]:
    """For each stage, which poolings its tokens are still ordered for, and the sides of its map.

    As `HieraEncoder.__init__`, for images of another size than `config.image_size`.
    """
    sides = [side // stride for side, stride in zip(size, config.patch_stride, strict=True)]
    poolings = [list(config.query_stride)] * (len(config.depths) - 1)
    schedule = {}
    for stage in range(len(config.depths)):
        schedule[stage] = poolings, sides
        if stage < config.num_query_pool:
            sides = [side // stride for side, stride in zip(sides, config.query_stride, strict=True)]
            poolings = poolings[1:]
    return schedule
