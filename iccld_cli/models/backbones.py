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
from safetensors import SafetensorError
from torch import Tensor, nn

from iccld_cli.errors import IccldError
from iccld_cli.models.encoder import PYRAMID_STRIDES, keep_statistics

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PROBE = (64, 96)  # not square and of no training resolution: what depends on one size fails here, not in a run
_HUB_TIMEOUT = 10  # seconds
_MISSING_SHARE = 0.05  # a backbone's output norms are missing from most files; more than that is another model


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
        """A JSON-ready description, without the place that the weights came from."""
        config = {key: value for key, value in self.config.items() if key != "_name_or_path"}
        return {"model_type": self.model_type, "config": config, "mean": self.mean, "std": self.std}

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
        except (ValueError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise IccldError(
                f"encoder type {self.spec.model_type!r} does not take images of any size ({first})",
                "choose a pyramid such as SegFormer, ConvNeXt V2, Swin, PVT v2, DINOv2 or MobileNetV2",
            ) from None
        self.model.train(training)
        if not maps:
            raise IccldError(
                f"encoder type {self.spec.model_type!r} gives no feature maps",
                "choose one with a pyramid, such as SegFormer, ConvNeXt V2, Swin, PVT v2, DINOv2 or MobileNetV2",
            )
        strides = [_PROBE[1] / m.shape[-1] for m in maps]
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


def load_backbone(source: str) -> HuggingFaceBackbone:
    """Load a pretrained encoder.

    Args:
        source: Hub id or local folder with `config.json` and safetensors weights.

    Returns:
        The encoder in float32.

    Raises:
        IccldError: Nothing can be loaded from there.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    local = _only_local(source)
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(source, local_files_only=local)
            spec = BackboneSpec(config.model_type, config.to_dict(), *_normalisation(source, config.model_type, local))
            options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": local}
            kind = AutoModel
            if _has_backbone(spec):
                # Not through `AutoBackbone`: transformers 5.x asks the hub for the name first and so refuses folders.
                kind, options["out_indices"] = MODEL_FOR_BACKBONE_MAPPING[type(config)], _out_indices(config)
            model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        where = "folder" if Path(source).is_dir() else "hub id or folder"
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        offline = "; the hub cannot be reached, download it elsewhere first" if local and where != "folder" else ""
        raise IccldError(
            f"cannot load encoder {source!r} ({first})",
            f"give a {where} with config.json and model.safetensors{offline}",
        ) from None
    values = model.state_dict()
    missing = [name for name in report["missing_keys"] if name in values]
    if sum(values[name].numel() for name in missing) > _MISSING_SHARE * sum(v.numel() for v in values.values()):
        raise IccldError(
            f"the weights of encoder {source!r} lack {len(missing)} tensors of a {spec.model_type!r} model",
            f"{min(missing)} among them; give weights of the architecture that config.json names",
        )
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


def _only_local(source: str) -> bool:
    """Whether to look on this machine alone: for a folder, and where the hub does not answer.

    The library itself would retry an unreachable hub for half a minute, file by file.
    """
    if Path(source).is_dir():
        return True
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(source, timeout=_HUB_TIMEOUT)
    except HFValidationError:
        raise IccldError(
            f"there is no encoder folder {source!r}",
            "give a folder with config.json and model.safetensors, or a hub id",
        ) from None
    except HfHubHTTPError:  # it answers: what it refuses is explained where the files are asked for
        return False
    except Exception:  # no name, no route, a time-out, offline mode: their types change with the transport library
        return True
    return False


def _normalisation(source: str, model_type: str, local: bool) -> tuple[Any, Any]:
    """Mean and std from the model's own preprocessor file, else those of the architecture's published weights.

    The library's processor classes are no help there: their defaults (0.5 for ConvNeXt and Swin, CLIP's for DINOv2)
    are not what the published weights of these architectures were trained with.
    """
    from transformers import ImageProcessingMixin

    with contextlib.suppress(OSError, ValueError, KeyError):
        raw, _ = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=local)
        return tuple(raw["image_mean"]), tuple(raw["image_std"])
    return _HALF if model_type.startswith("mobilenet") else _IMAGENET


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
