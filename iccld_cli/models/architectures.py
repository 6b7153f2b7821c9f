"""Which encoders there are, and what their configurations may say: one list for `--encoder` and for model files.

A `config.json` of the hub, and the header of a model file, are data from elsewhere. `transformers` follows what they
name: code to run (`auto_map`), kernels to load (`attn_implementation`), further models to fetch (`backbone`). So no
such dictionary ever reaches it. Only the fields that the configuration class of a known architecture declares itself
are taken, with plain values of sensible size; everything else is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from iccld_cli.errors import IccldError

LITE = "efficientnet_lite"
"""This program's own architecture, see `models.efficientnet_lite`; all others are of `transformers`."""

HIERA = "hiera"
"""Of `transformers`, but not through its backbone class, see `models.hiera`."""

ARCHITECTURES = (
    "beit",
    "bit",
    "convnext",
    "convnextv2",
    "cvt",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "efficientnet",
    LITE,
    "focalnet",
    "glpn",
    "hgnet_v2",
    HIERA,
    "maskformer-swin",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "mobilevitv2",
    "pixio",
    "poolformer",
    "pp_lcnet",
    "pp_lcnet_v3",
    "pvt_v2",
    "regnet",
    "resnet",
    "rt_detr_resnet",
    "sapiens2",
    "segformer",
    "swiftformer",
    "swin",
    "swinv2",
    "textnet",
    "tipsv2_vision_model",
    "vitdet",
)
"""`model_type` of every encoder that works; each is tested on a small random model."""

TIMM_REASON = "needs the timm library, which needs torchvision, and this program works without both"


def _each(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED = {
    **_each(
        "vit deit vit_msn vit_mae ijepa vitpose_backbone clip_vision_model siglip_vision_model aimv2_vision_model "
        "sam_vision_model sam3_vit_model levit pvt donut-swin lw_detr_vit rf_detr_dinov2 vjepa2 "
        "metaclip_2_vision_model eomt",
        "does not take images of any size",
    ),
    **_each(
        "clip siglip siglip2 aimv2 sam sam2 sam2_video sam3 detr rt_detr maskformer mask2former oneformer upernet "
        "depth_anything dpt vitpose vitmatte zoedepth",
        "is a whole model around an encoder, give the encoder inside it",
    ),
    **_each("timm_wrapper timm_backbone tinyvit", TIMM_REASON),
    **_each("dinat nat", "needs the natten library, which has no build for the torch of today"),
    **_each("van efficientformer", "was removed from transformers"),
    **_each("data2vec-vision radio", "gives no feature maps"),
    **_each("uvdoc_backbone pp_lcnet_v4", "is made for lines of text, its strides differ between height and width"),
    "siglip2_vision_model": "takes lists of patches, not images",
    "sam2_vision_model": "gives its maps with the channels last, and is published as a part of whole video models only",
    "sam2_hiera_det_model": "gives its maps with the channels last",
}
"""Architectures that users try, and what keeps each from working."""

SUGGESTION = (
    "choose one such as SegFormer, ConvNeXt V2, Swin, PVT v2, DINOv2, DINOv3, EfficientNet or MobileNetV2 "
    "(docs/presets.md lists all)"
)

_MAX_INTEGER = 100_000
_MAX_LAYERS = 1024
_MAX_STEP = 1024
_MAX_PADDING = 64
_MAX_FLOAT = 1e9
_MAX_TEXT = 64
_MAX_ITEMS = 2048
_MAX_NESTING = 6
_LAYERS = re.compile(r"depths?|num_.*layers|num_block_repeats|stage_num.*|n_attn_blocks|num_encoder_blocks|num_stages")


def check_architecture(model_type: Any) -> str:
    """The same name, where the encoder is one that works.

    Raises:
        IccldError: It is not; the reason is named.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return model_type
    if not isinstance(model_type, str):
        raise IccldError("no encoder type is named", SUGGESTION)
    reason = REFUSED.get(model_type, "is not one of those that work here")
    raise IccldError(f"encoder type {model_type[:60]!r} {reason}", SUGGESTION)


def describe_timm(config: Mapping[str, Any]) -> str | None:
    """The name of the timm model that a `config.json` is of, None where it is of no such."""
    if "pretrained_cfg" in config or str(config.get("model_type", "")).startswith("timm_"):
        return str(config.get("architecture", "timm_wrapper"))[:60]
    return None


@functools.cache
def config_fields(model_type: str) -> frozenset[str]:
    """Fields that an architecture's own configuration class declares, without nested configurations."""
    from transformers import PreTrainedConfig

    kind = config_class(model_type)
    own: set[str] = set()
    for parent in kind.__mro__:
        if parent is PreTrainedConfig:
            break
        own |= set(inspect.get_annotations(parent))
    fields = {field.name for field in dataclasses.fields(kind)}
    return frozenset(name for name in own & fields if not name.startswith("_") and name not in kind.sub_configs)


def config_class(model_type: str) -> Any:
    """The configuration class of an architecture of `transformers`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[check_architecture(model_type)]


def plain_config(model_type: str, raw: Any) -> dict[str, Any]:
    """The part of a configuration that an architecture is built from.

    Args:
        model_type: One of `ARCHITECTURES`.
        raw: The configuration, as JSON gives it.

    Returns:
        Known fields with plain values; everything else is left out.

    Raises:
        IccldError: The architecture is not known, or a known field has a value that cannot be.
    """
    check_architecture(model_type)
    if not isinstance(raw, Mapping):
        raise IccldError(f"the configuration of encoder type {model_type!r} is no object", "give a whole config.json")
    if model_type == LITE:
        from iccld_cli.models.efficientnet_lite import LiteConfig

        known, aliases = frozenset(field.name for field in dataclasses.fields(LiteConfig)), {}
    else:
        known, aliases = config_fields(model_type), config_class(model_type).attribute_map
    values = {}
    for key, value in raw.items():
        name = key if key in known else aliases.get(key)
        if name not in known or (name != key and name in raw):
            continue
        problem = _problem(name, value)
        if problem:
            raise IccldError(f"{name} of encoder type {model_type!r} {problem}", "use the config.json of its authors")
        values[name] = value
    return values


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with a value, None where it is plain and of sensible size."""
    limit = _MAX_INTEGER
    if "padding" in name:
        limit = _MAX_PADDING
    elif _LAYERS.fullmatch(name):
        limit = _MAX_LAYERS
    elif any(word in name for word in ("stride", "kernel", "patch", "window")):
        limit = _MAX_STEP
    items, level = 0, [value]
    for _ in range(_MAX_NESTING):
        below: list[Any] = []
        for item in level:
            items += 1
            if isinstance(item, list | tuple):
                below += item
            elif isinstance(item, Mapping):
                below += [*item.keys(), *item.values()]
            elif problem := _scalar_problem(item, limit):
                return problem
        if items + len(below) > _MAX_ITEMS:
            return f"has more than {_MAX_ITEMS} values"
        if not below:
            return None
        level = below
    return f"is nested more than {_MAX_NESTING} deep"


def _scalar_problem(item: Any, limit: int) -> str | None:
    if item is None or isinstance(item, bool):
        return None
    if isinstance(item, int):
        return None if abs(item) <= limit else f"is {str(item)[:20]}, more than {limit}"
    if isinstance(item, float):
        return None if math.isfinite(item) and abs(item) <= _MAX_FLOAT else f"is {item}"
    if isinstance(item, str):
        plain = len(item) <= _MAX_TEXT and re.fullmatch(r"[\w.-]*", item)
        return None if plain else f"is {item[:_MAX_TEXT]!r}, which is no plain word"
    return f"is of type {type(item).__name__}"
