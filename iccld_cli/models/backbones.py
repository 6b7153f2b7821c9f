"""Hugging Face vision models as feature pyramids.

Three kinds are understood: `AutoBackbone` models (ConvNeXt V2, Swin, PVT v2, DINOv2...), models whose hidden
states are feature maps of falling resolution (SegFormer's MiT, MobileNetV2), and plain transformers whose
backbone maps share one resolution (they are resampled to a pyramid). `models.architectures` says which there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.errors import IccldError, reason_of
from iccld_cli.models.architectures import HIERA, LITE, SUGGESTION, check_architecture, config_class, plain_config
from iccld_cli.models.efficientnet_lite import EfficientNetLite, LiteConfig
from iccld_cli.models.encoder import PYRAMID_STRIDES, keep_statistics
from iccld_cli.models.hiera import hiera_maps

_PROBE = (64, 96)  # not square and of no training resolution: what depends on one size fails here, not in a run
_SKEW = 1.4  # height and width strides of one map may differ by this factor, which rounding explains at most


@dataclass(frozen=True)
class BackboneSpec:
    """What rebuilds an encoder without its hub entry; it travels in every model file.

    Attributes:
        model_type: Architecture name, one of `models.architectures.ARCHITECTURES`.
        config: The architecture's configuration as a dictionary.
        mean: Per-channel mean that inputs in [0, 1] are normalised with.
        std: Per-channel standard deviation of the same.
        out_indices: Stages that an `AutoBackbone` gives out; None for all others, and in files written before there
            was this field.
    """

    model_type: str
    config: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    out_indices: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready description, without the place that the weights came from."""
        described = {
            "model_type": self.model_type,
            "config": plain_config(self.model_type, self.config),
            "mean": self.mean,
            "std": self.std,
        }
        return described if self.out_indices is None else {**described, "out_indices": self.out_indices}

    @classmethod
    def from_json(cls, raw: Any) -> BackboneSpec:
        """Read a description written by `to_json`, which may come from anywhere.

        Raises:
            IccldError: The architecture is not known, or the description is not one.
        """
        if not isinstance(raw, dict):
            raise IccldError("the description of the encoder is no object")
        model_type = check_architecture(raw.get("model_type"))
        mean, std = (_triple(name, raw.get(name)) for name in ("mean", "std"))
        if min(std) <= 0:
            raise IccldError("the encoder's std must be positive")
        stages = raw.get("out_indices")
        if stages is not None:
            stages = _stages(stages)
        return cls(model_type, plain_config(model_type, raw.get("config")), mean, std, stages)


def _triple(name: str, value: Any) -> tuple[float, float, float]:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(type(v) in (int, float) and abs(v) <= 1000 for v in numbers):
        raise IccldError(f"the encoder's {name} needs three numbers")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _stages(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 64 or any(type(v) is not int for v in value):
        raise IccldError("the encoder's out_indices must be whole numbers")
    return tuple(value)


class HuggingFaceBackbone(nn.Module):
    """A `transformers` vision model that gives four feature maps at 1/4, 1/8, 1/16 and 1/32.

    Attributes:
        channels: Widths of the four maps.
        spec: What rebuilds the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        self.model = model
        self.patch = _side(spec.config.get("patch_size") or 1) if _is_plain_transformer(spec) else 1
        _drop_unused_head(model)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.picks, self.channels = self._probe()

    def train(self, mode: bool = True) -> HuggingFaceBackbone:
        """Switch to training, but keep the batch norms' pretrained statistics.

        A few crops, chosen for their rare classes, tell less of the statistics of driving scenes than what the encoder
        came with; 2 mIoU in trials (benchmarks/RESULTS.md). Their weights and biases are trained.
        """
        super().train(mode)
        keep_statistics(self)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1], sides multiples of 32 -> four maps at 1/4, 1/8, 1/16 and 1/32."""
        height, width = images.shape[-2:]
        features = self._maps((images - self.mean) / self.std)
        pyramid = []
        for stride, pick in zip(PYRAMID_STRIDES, self.picks, strict=True):
            x, size = features[pick], (height // stride, width // stride)
            if x.shape[-2:] != size:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            pyramid.append(x)
        return pyramid

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        if self.patch > 1:
            sides = [max(round(side / self.patch), 1) * self.patch for side in pixels.shape[-2:]]
            pixels = F.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)
        if isinstance(self.model, EfficientNetLite):
            return self.model(pixels)
        if self.spec.model_type == HIERA:
            return hiera_maps(self.model, pixels)
        if hasattr(self.model, "out_features"):
            return list(self.model(pixels).feature_maps)
        states = self.model(pixels, output_hidden_states=True).hidden_states
        return [state for state in states if state.ndim == 4]

    def _probe(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Run once to learn which map has which stride; the deepest map of each stride is taken.

        Parameters that no taken map depends on (mask tokens, layers behind the last map) are frozen: they would
        wait for a gradient for ever, which data parallelism refuses.
        """
        training = self.model.training
        self.model.eval()
        try:
            with torch.enable_grad():
                maps = self._maps(torch.zeros(1, 3, *_PROBE))
        except Exception as error:  # foreign code on an untested configuration
            first = reason_of(error)
            raise IccldError(
                f"encoder type {self.spec.model_type!r} cannot be used as a pyramid ({first})", SUGGESTION
            ) from None
        self.model.train(training)
        strides = [probe_stride(self.spec.model_type, m) for m in maps]
        if not maps:
            raise IccldError(f"encoder type {self.spec.model_type!r} gives no feature maps", SUGGESTION)
        if len(set(strides)) == 1:  # a plain transformer: shallow maps stand in for the fine levels
            picks = [round(i * (len(maps) - 1) / 3) for i in range(4)]
        else:
            picks = [
                max(
                    range(len(maps)),
                    key=lambda i, want=stride: (-abs(math.log2(strides[i] / want)), i),  # type: ignore[misc]
                )
                for stride in PYRAMID_STRIDES
            ]
        reached = _leaves([maps[i] for i in set(picks)])
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in reached)
        return tuple(picks), tuple(maps[i].shape[1] for i in picks)


def probe_stride(model_type: str, features: Tensor) -> float:
    """Stride of a map of the probe, the width's."""
    high, wide = (side / max(size, 1) for side, size in zip(_PROBE, features.shape[-2:], strict=True))
    if max(high, wide) > _SKEW * min(high, wide) or not 0.5 <= wide <= 96:
        raise IccldError(
            f"encoder type {model_type!r} cannot be used as a pyramid (a map of shape {tuple(features.shape)} for an "
            f"image of {_PROBE[0]} x {_PROBE[1]})",
            SUGGESTION,
        )
    return wide


def rebuild_backbone(spec: BackboneSpec) -> HuggingFaceBackbone:
    """The architecture with random weights, which a model file then fills; nothing else is read."""
    if spec.model_type == LITE:
        return HuggingFaceBackbone(EfficientNetLite(LiteConfig.from_json(spec.config)), spec)
    config = library_config(spec)
    model = model_class(spec.model_type)(config)
    spec = BackboneSpec(
        spec.model_type, plain_config(spec.model_type, config.to_dict()), spec.mean, spec.std, spec.out_indices
    )
    return HuggingFaceBackbone(model.float(), spec)


def library_config(spec: BackboneSpec) -> Any:
    """The configuration object of `transformers` that a description stands for."""
    config = config_class(spec.model_type)(**plain_config(spec.model_type, spec.config))
    if has_backbone(spec.model_type):
        stages = len(config.stage_names)
        indices = _old_out_indices(stages) if spec.out_indices is None else spec.out_indices
        if not all(0 <= index < stages for index in indices):
            raise IccldError(f"the encoder's out_indices {list(indices)} lie outside its {stages} stages")
        config.out_indices = indices
    return config


def model_class(model_type: str) -> Any:
    """The class of `transformers` that gives an architecture's maps."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    mapping = MODEL_FOR_BACKBONE_MAPPING if has_backbone(model_type) else MODEL_MAPPING
    return mapping[config_class(model_type)]


def has_backbone(model_type: str) -> bool:
    """Whether `transformers` has a class for an architecture that gives chosen stages out."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return model_type in MODEL_FOR_BACKBONE_MAPPING_NAMES and model_type != HIERA


def choose_out_indices(config: Any) -> tuple[int, ...]:
    """Stages to give out: the last four of a pyramid, and of a plain transformer's layers every fourth part's last."""
    last = len(config.stage_names) - 1
    if last <= 4 or hasattr(config, "depths"):
        return tuple(range(max(last - 3, 0), last + 1))
    return _old_out_indices(last + 1)


def _old_out_indices(stages: int) -> tuple[int, ...]:
    """What files without `out_indices` were trained with, whatever the architecture."""
    last = stages - 1
    if last <= 4:
        return tuple(range(max(last - 3, 0), last + 1))
    return tuple(round(last * share / 4) for share in (1, 2, 3, 4))


def _is_plain_transformer(spec: BackboneSpec) -> bool:
    return "num_hidden_layers" in spec.config and "depths" not in spec.config and has_backbone(spec.model_type)


def _side(patch_size: Any) -> int:
    """Side of a patch that may be given as height and width."""
    return int(patch_size[0] if isinstance(patch_size, list | tuple) else patch_size)


def _leaves(outputs: list[Tensor]) -> set[int]:
    """Ids of the parameters that outputs depend on, found in the autograd graph without a backward pass."""
    found: set[int] = set()
    seen = set()
    stack: list[Any] = [output.grad_fn for output in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def _drop_unused_head(model: nn.Module) -> None:
    """Layers behind the pyramid would cost time and memory and never see a gradient."""
    if getattr(model, "conv_1x1", None) is not None:
        model.conv_1x1 = nn.Identity()
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None  # one without parameters is a bare average, which its model calls without asking
    encoder = getattr(model, "encoder", None)
    for name in ("top_conv", "top_bn", "top_activation"):  # EfficientNet's
        if hasattr(encoder, name):
            setattr(encoder, name, nn.Identity())
