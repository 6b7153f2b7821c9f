"""EfficientNet-Lite: EfficientNet for devices without fast gates (github.com/tensorflow/tpu, efficientnet/lite).

It is EfficientNet (Tan and Le 2019) without squeeze-and-excitation, with ReLU6, and with a stem that does not grow with
the rest. `transformers` does not have it. Its weights are stored as an `EfficientNetModel` whose gates are saturated,
so that each multiplies by one; `lite_of_efficientnet` takes the gates out.

Shapes: B batch, H x W image (multiples of 32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_SATURATED = 17.0
"""A gate's bias from which the sigmoid is 1 in float32: exp(-17) is half of the smallest step below 1."""

_PARTS = {
    "expansion.expand_conv": "expand.0",
    "expansion.expand_bn": "expand.1",
    "depthwise_conv.depthwise_conv": "depthwise.0",
    "depthwise_conv.depthwise_norm": "depthwise.1",
    "projection.project_conv": "project.0",
    "projection.project_bn": "project.1",
}


@dataclass(frozen=True)
class LiteConfig:
    """Sizes of an EfficientNet-Lite. Every tuple has one entry a stage.

    Attributes:
        stem: Width of the stem at 1/2.
        widths: Width that a stage gives.
        repeats: Blocks.
        strides: Stride of the first block, 1 or 2.
        kernels: Side of the depthwise kernels, odd.
        expansions: Factor on the width inside a block.
        symmetric: Numbers of the blocks of stride 2 that are padded alike on both sides; all others have less padding
            at the top and left, as TensorFlow's `SAME` does.
        norm_eps: Epsilon of the batch norms.
    """

    stem: int
    widths: tuple[int, ...]
    repeats: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    symmetric: tuple[int, ...] = ()
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        rows = (self.widths, self.repeats, self.strides, self.kernels, self.expansions)
        if not all(isinstance(row, tuple) and len(row) == len(self.widths) for row in rows):
            raise ValueError("every stage needs a width, repeats, a stride, a kernel and an expansion")
        if any(type(n) is not int or n < 1 for n in (self.stem, *(n for row in rows for n in row))):
            raise ValueError("sizes must be whole numbers from 1 on")
        if any(stride > 2 for stride in self.strides) or any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError("strides must be 1 or 2, kernels odd")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Width that each stage takes."""
        return (self.stem, *self.widths[:-1])

    def to_json(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LiteConfig:
        """Read a description in which tuples became lists.

        Raises:
            TypeError: A field is missing or unknown.
            ValueError: Sizes that do not fit.
        """
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        return cls(**fields)


class PaddedConv2d(nn.Conv2d):
    """A convolution that adds zeros around a map as TensorFlow's `SAME` does: less at the top and left at stride 2.

    Attributes:
        around: Columns and rows of zeros that are added before it runs, left, right, top, bottom; `models.folding` has
            none.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, symmetric: bool, groups: int = 1) -> None:
        """Without a bias.

        Args:
            inputs: Channels.
            outputs: Channels.
            kernel: Its side, odd.
            stride: 1 or 2.
            symmetric: At stride 2, zeros on all sides alike.
            groups: See `nn.Conv2d`.
        """
        after = kernel // 2
        alike = stride == 1 or symmetric
        super().__init__(inputs, outputs, kernel, stride, after if alike else 0, groups=groups, bias=False)
        self.around = (0, 0, 0, 0) if alike else (after - 1, after, after - 1, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        return super().forward(F.pad(x, self.around) if any(self.around) else x)


class _LiteBlock(nn.Module):
    """Inverted residual: widen, depthwise convolution, narrow; added to its input where the shapes are the same."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        symmetric: bool,
        residual: bool,
        eps: float,
    ) -> None:
        super().__init__()
        inside = inputs * expansion
        self.residual = residual
        self.expand = (
            nn.Sequential(nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside, eps), nn.ReLU6(inplace=True))
            if expansion > 1
            else nn.Identity()
        )
        self.depthwise = nn.Sequential(
            PaddedConv2d(inside, inside, kernel, stride, symmetric, groups=inside),
            nn.BatchNorm2d(inside, eps),
            nn.ReLU6(inplace=True),
        )
        self.project = nn.Sequential(nn.Conv2d(inside, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps))

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return out + x if self.residual else out


class EfficientNetLite(nn.Module):
    """The stages of an EfficientNet-Lite, without the layers behind them that classify."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            PaddedConv2d(3, config.stem, 3, stride=2, symmetric=False),
            nn.BatchNorm2d(config.stem, config.norm_eps),
            nn.ReLU6(inplace=True),
        )
        stages, number = [], 0
        for i, width in enumerate(config.widths):
            blocks = []
            for j in range(config.repeats[i]):
                blocks.append(
                    _LiteBlock(
                        width if j else config.inputs[i],
                        width,
                        config.kernels[i],
                        1 if j else config.strides[i],
                        config.expansions[i],
                        number in config.symmetric,
                        j > 0,
                        config.norm_eps,
                    )
                )
                number += 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> one map a stage, the first at 1/2, the last at 1/32."""
        x = self.stem(pixels)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def lite_of_efficientnet(config: Any, model: nn.Module) -> tuple[LiteConfig, dict[str, Tensor]] | None:
    """Take the gates out of an `EfficientNetModel` that stores an EfficientNet-Lite.

    Args:
        config: Its `EfficientNetConfig`.
        model: The model with its weights.

    Returns:
        Sizes and weights of the same network as an `EfficientNetLite`; None where a gate does something.
    """
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.top_")}
    if config.hidden_act != "relu6" or not _gates_are_open(weights):
        return None
    lite = LiteConfig(
        stem=int(weights["embeddings.convolution.weight"].shape[0]),
        widths=tuple(_rounded(config, width) for width in config.out_channels),
        repeats=tuple(math.ceil(config.depth_coefficient * n) for n in config.num_block_repeats),
        strides=tuple(config.strides),
        kernels=tuple(config.kernel_sizes),
        expansions=tuple(config.expand_ratios),
        symmetric=tuple(config.depthwise_padding),
        norm_eps=config.batch_norm_eps,
    )
    if lite.inputs != tuple(_rounded(config, width) for width in config.in_channels):
        return None
    places = [f"stages.{i}.{j}" for i, repeats in enumerate(lite.repeats) for j in range(repeats)]
    renamed = {}
    for name, value in weights.items():
        if name.startswith("embeddings."):
            part, leaf = name.removeprefix("embeddings.").split(".")
            renamed[f"stem.{0 if part == 'convolution' else 1}.{leaf}"] = value
        elif ".squeeze_excite." not in name:
            number, rest = name.removeprefix("encoder.blocks.").split(".", 1)
            part, leaf = rest.rsplit(".", 1)
            renamed[f"{places[int(number)]}.{_PARTS[part]}.{leaf}"] = value
    return lite, renamed


def _gates_are_open(weights: Mapping[str, Tensor]) -> bool:
    gates = [name.removesuffix("weight") for name in weights if name.endswith("squeeze_excite.expand.weight")]
    return bool(gates) and all(
        not weights[f"{gate}weight"].any() and bool((weights[f"{gate}bias"] >= _SATURATED).all()) for gate in gates
    )


def _rounded(config: Any, width: int) -> int:
    """Width after scaling, to the nearest multiple of the divisor that keeps nine tenths of it."""
    scaled, divisor = width * config.width_coefficient, config.depth_divisor
    near = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return int(near + divisor if near < 0.9 * scaled else near)
