"""Hugging Face vision models as feature pyramids.

Three kinds are understood: `AutoBackbone` models (ConvNeXt V2, Swin, PVT v2, DINOv2...), models whose hidden
states are feature maps of falling resolution (SegFormer's MiT, MobileNetV2), and plain transformers whose
backbone maps share one resolution (they are resampled to a pyramid).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.errors import IccldError
from iccld_cli.models.encoder import PYRAMID_STRIDES

_PROBE_SIDE = 224  # a multiple of 32 and of the usual patch sizes 14 and 16


@dataclass(frozen=True)
class BackboneSpec:
    """What rebuilds a Hugging Face encoder without its hub entry; it travels in every model file.

    Attributes:
        model_type: Architecture name in `transformers`.
        config: The architecture's configuration as a dictionary.
        mean: Per-channel mean that inputs in [0, 1] are normalised with.
        std: Per-channel standard deviation of the same.
    """

    model_type: str
    config: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"model_type": self.model_type, "config": self.config, "mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> BackboneSpec:
        """Read a description written by `to_json`."""
        return cls(raw["model_type"], raw["config"], tuple(raw["mean"]), tuple(raw["std"]))


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
        self.patch = int(spec.config.get("patch_size") or 1) if _is_plain_transformer(spec) else 1
        _drop_unused_head(model)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.picks, self.channels = self._probe()

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
        if hasattr(self.model, "out_features"):
            return list(self.model(pixels).feature_maps)
        states = self.model(pixels, output_hidden_states=True).hidden_states
        return [state for state in states if state.ndim == 4]

    @torch.no_grad()
    def _probe(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Run once to learn which map has which stride; the deepest map of each stride is taken."""
        training = self.model.training
        self.model.eval()
        maps = self._maps(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        self.model.train(training)
        if not maps:
            raise IccldError(
                f"encoder type {self.spec.model_type!r} gives no feature maps",
                "choose one with a pyramid, such as SegFormer, ConvNeXt V2, Swin, PVT v2, DINOv2 or MobileNetV2",
            )
        strides = [_PROBE_SIDE / m.shape[-1] for m in maps]
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
        return tuple(picks), tuple(maps[i].shape[1] for i in picks)


def load_backbone(source: str) -> HuggingFaceBackbone:
    """Load a pretrained encoder.

    Args:
        source: Hub id or local folder with `config.json` and safetensors weights.

    Returns:
        The encoder in float32.

    Raises:
        IccldError: Nothing can be loaded from there.
    """
    from transformers import AutoBackbone, AutoConfig, AutoModel

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(source)
            spec = BackboneSpec(config.model_type, config.to_dict(), *_normalisation(source, config.model_type))
            options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
            if _has_backbone(spec):
                options["out_indices"] = _out_indices(config)
                model = AutoBackbone.from_pretrained(source, **options)
            else:
                model = AutoModel.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        where = "folder" if Path(source).is_dir() else "hub id or folder"
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise IccldError(
            f"cannot load encoder {source!r} ({first})",
            f"give a {where} with config.json and model.safetensors; without a connection, download it elsewhere first",
        ) from None
    return HuggingFaceBackbone(model, spec)


def rebuild_backbone(spec: BackboneSpec) -> HuggingFaceBackbone:
    """The same architecture with random weights, which a model file then fills."""
    from transformers import AutoBackbone, AutoConfig, AutoModel

    values = {k: v for k, v in spec.config.items() if k not in ("model_type", "dtype", "transformers_version")}
    with _quiet():
        if _has_backbone(spec):  # the stages to give out are set anew: both spellings at once would be refused
            values.pop("out_features", None)
            values.pop("out_indices", None)
            config = AutoConfig.for_model(spec.model_type, **values)
            config.out_indices = _out_indices(config)
            model = AutoBackbone.from_config(config)
        else:
            model = AutoModel.from_config(AutoConfig.for_model(spec.model_type, **values))
    return HuggingFaceBackbone(model.float(), spec)


def _normalisation(source: str, model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std from the model's own preprocessor file, else its architecture's published default."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    with contextlib.suppress(OSError, ValueError, KeyError):
        raw, _ = transformers.ImageProcessingMixin.get_image_processor_dict(source)
        return tuple(raw["image_mean"]), tuple(raw["image_std"])
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    if names is None:
        raise IccldError(
            f"encoder {source!r} does not say how its input is normalised", "add its preprocessor_config.json"
        )
    # The Pillow variant carries the same numbers and needs no torchvision.
    processor = getattr(transformers, names["pil"] if isinstance(names, dict) else names[0])()
    return tuple(processor.image_mean), tuple(processor.image_std)


def _has_backbone(spec: BackboneSpec) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return spec.model_type in MODEL_FOR_BACKBONE_MAPPING_NAMES


def _is_plain_transformer(spec: BackboneSpec) -> bool:
    return "num_hidden_layers" in spec.config and "depths" not in spec.config and _has_backbone(spec)


def _out_indices(config: Any) -> tuple[int, ...]:
    last = len(config.stage_names) - 1
    if last <= 4:
        return tuple(range(max(last - 3, 0), last + 1))
    return tuple(round(last * share / 4) for share in (1, 2, 3, 4))


def _drop_unused_head(model: nn.Module) -> None:
    """Layers behind the pyramid would cost time and memory and never see a gradient."""
    for name in ("conv_1x1", "pooler"):
        if getattr(model, name, None) is not None:
            setattr(model, name, nn.Identity() if name == "conv_1x1" else None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's loading bars and reports out of this program's output."""
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        hf_logging.enable_progress_bar()
