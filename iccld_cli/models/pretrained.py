"""Pretrained encoders: from a folder, or from the hub by an id that the user typed.

From the hub come JSON files and safetensors, nothing else, and everything after the download works on that folder
alone. Its configuration is filtered by `models.architectures` before the library sees it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iccld_cli.errors import IccldError, is_out_of_memory
from iccld_cli.models.architectures import (
    LITE,
    SUGGESTION,
    TIMM_REASON,
    check_architecture,
    config_class,
    describe_timm,
    plain_config,
)
from iccld_cli.models.backbones import (
    BackboneSpec,
    HuggingFaceBackbone,
    choose_out_indices,
    has_backbone,
    library_config,
    model_class,
)
from iccld_cli.models.bundled import BUNDLED, load_bundled
from iccld_cli.models.efficientnet_lite import EfficientNetLite, lite_of_efficientnet
from iccld_cli.plainjson import parse_json

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_REVERSED = ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229))
_UNTOUCHED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_BLUE_FIRST = ("pp_lcnet", "pp_lcnet_v3")  # their processor flips the channels whatever its file says
_HUB_TIMEOUT = 10  # seconds
_MISSING_SHARE = 0.05  # a backbone's output norms are missing from most files; more than that is another model
_DESCRIPTIONS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


def load_backbone(source: str) -> HuggingFaceBackbone:
    """Load a pretrained encoder; what has to be downloaded is said on the standard error stream beforehand.

    Args:
        source: Name of an encoder that comes with the program, hub id, or local folder with `config.json` and
            safetensors weights.

    Returns:
        The encoder in float32.

    Raises:
        IccldError: Nothing can be loaded from there, or it is no encoder that works here.
    """
    local = Path(source).is_dir()
    if source in BUNDLED and not local:
        return load_bundled(source)
    reachable = local or _is_reachable(source)
    told = describe_download(source) if reachable else None
    if told is not None and os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        print(told, file=sys.stderr, flush=True)
    try:
        with _quiet():
            folder = Path(source) if local else _fetch(source, _DESCRIPTIONS, reachable)
            raw = _read_object(folder / "config.json")
            name = describe_timm(raw)
            if name is not None:
                raise IccldError(f"encoder {source!r} is the timm model {name!r}, which {TIMM_REASON}", SUGGESTION)
            model_type = check_architecture(raw.get("model_type"))
            if model_type == LITE:
                raise IccldError(
                    f"encoder {source!r} is not stored as others store EfficientNet-Lite",
                    "give an EfficientNetModel whose gates are saturated",
                )
            folder = folder if local else _fetch(source, _WEIGHTS, reachable)
            _check_weights(folder)
            return _build(source, folder, model_type, raw)
    except IccldError:
        raise
    except Exception as error:  # the library's code for an architecture raises what it likes on odd files
        if is_out_of_memory(error):
            raise
        raise _explain(source, error, local, reachable) from None


def describe_download(source: str) -> str | None:
    """What loading an encoder of the hub will download.

    Args:
        source: See `load_backbone`.

    Returns:
        A sentence; None where nothing has to be downloaded, or the hub does not say.
    """
    if source in BUNDLED or Path(source).is_dir():
        return None
    from huggingface_hub import HfApi, try_to_load_from_cache

    patterns = (*_DESCRIPTIONS, *_WEIGHTS)
    try:
        found = HfApi().model_info(source, timeout=_HUB_TIMEOUT, files_metadata=True)
        wanted = [s for s in found.siblings or () if any(fnmatch.fnmatch(s.rfilename, p) for p in patterns)]
        new = [s for s in wanted if not isinstance(try_to_load_from_cache(source, s.rfilename), str)]
    except Exception:  # whatever is wrong is explained where the encoder is loaded
        return None
    size = sum(s.size or 0 for s in new)
    if not size:
        return None
    return f"encoder {source}: downloading {size / 1e6:.0f} MB from the Hugging Face hub, once"


def _build(source: str, folder: Path, model_type: str, raw: dict[str, Any]) -> HuggingFaceBackbone:
    processor = _read_processor(folder)
    mean, std = _normalisation(processor, model_type)
    whole = config_class(model_type)(**plain_config(model_type, raw))
    stages = choose_out_indices(whole) if has_backbone(model_type) else None
    spec = BackboneSpec(model_type, plain_config(model_type, whole.to_dict()), mean, std, stages)
    spec = BackboneSpec.from_json(spec.to_json())
    config = library_config(spec)
    model, report = model_class(model_type).from_pretrained(
        str(folder),
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    _check_report(source, model_type, model, report)
    if _takes_blue_first(processor, model_type):
        _flip_channels(model)
    lite = lite_of_efficientnet(config, model) if model_type == "efficientnet" else None
    if lite is None:
        return HuggingFaceBackbone(model, spec)
    sizes, weights = lite
    network = EfficientNetLite(sizes)
    network.load_state_dict(weights)
    return HuggingFaceBackbone(network, BackboneSpec(LITE, sizes.to_json(), mean, std))


def _check_report(source: str, model_type: str, model: nn.Module, report: dict[str, Any]) -> None:
    values = model.state_dict()
    missing = [name for name in report["missing_keys"] if name in values]
    if sum(values[name].numel() for name in missing) > _MISSING_SHARE * sum(v.numel() for v in values.values()):
        raise IccldError(
            f"the weights of encoder {source!r} lack {len(missing)} tensors of a {model_type!r} model",
            f"{min(missing)} among them; give weights of the architecture that config.json names",
        )


def _explain(source: str, error: Exception, local: bool, reachable: bool) -> IccldError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = f"cannot load encoder {source!r} ({textwrap.shorten(lines[0], 200, placeholder=' ...')})"
    if isinstance(error, ImportError):
        return IccldError(message, "install that package, or choose another encoder")
    if not reachable:
        return IccldError(
            f"cannot load encoder {source!r}: it is not in the cache, and the hub cannot be reached",
            f"{' and '.join(BUNDLED)} need no network; or download it elsewhere and give the folder",
        )
    where = "folder" if local else "hub id or folder"
    return IccldError(message, f"give a {where} with config.json and model.safetensors")


def _is_reachable(source: str) -> bool:
    """Whether the hub can be reached. The library itself would retry for half a minute, file by file."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(source, timeout=_HUB_TIMEOUT)
    except HFValidationError:
        raise IccldError(
            f"there is no encoder folder {source!r}",
            "give a folder with config.json and model.safetensors, or a hub id",
        ) from None
    except HfHubHTTPError:  # it can be reached: what it refuses is explained where the files are requested
        return True
    except Exception:  # no name, no route, a time-out, offline mode: their types change with the transport library
        return False
    return True


def _fetch(source: str, patterns: tuple[str, ...], reachable: bool) -> Path:
    """Download some files of a hub entry, or find them in the cache."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=list(patterns), local_files_only=not reachable))


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise OSError(f"there is no {path.name}")
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: it holds no object")
    return value


def _check_weights(folder: Path) -> None:
    """Refuse what would make the library look elsewhere."""
    if (folder / "adapter_config.json").exists():
        raise ValueError("it is an adapter to another model, its weights are not all here")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if not index.is_file():
        raise OSError("there is no model.safetensors")
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise ValueError(f"{index.name} names files outside the folder")


def _read_processor(folder: Path) -> dict[str, Any]:
    """How the model's own processor prepares images; empty where no file says it."""
    with contextlib.suppress(OSError):
        return _read_object(folder / "preprocessor_config.json")
    with contextlib.suppress(OSError):
        inner = _read_object(folder / "processor_config.json").get("image_processor")
        return inner if isinstance(inner, dict) else {}
    return {}


def _normalisation(processor: dict[str, Any], model_type: str) -> tuple[Any, Any]:
    """Mean and std from the model's own preprocessor file, else those of the architecture's published weights.

    The library's processor classes are no help there: their defaults (0.5 for ConvNeXt and Swin, CLIP's for DINOv2)
    are not what the published weights of these architectures were trained with.
    """
    if "image_mean" in processor and "image_std" in processor:
        mean, std = processor["image_mean"], processor["image_std"]
        if model_type == "efficientnet" and processor.get("include_top") is True and isinstance(std, list):
            std = [v * v for v in std]  # google/efficientnet-*: their processor divides by it twice
        return mean, std
    if model_type.startswith("mobilevit"):
        return _UNTOUCHED
    if model_type in _BLUE_FIRST:
        return _REVERSED
    return _HALF if model_type.startswith(("mobilenet", "beit")) else _IMAGENET


def _takes_blue_first(processor: dict[str, Any], model_type: str) -> bool:
    """Whether published weights want their channels as blue, green, red."""
    for key in ("do_flip_channel_order", "do_flip_channels"):
        if isinstance(processor.get(key), bool):
            return bool(processor[key])
    return model_type.startswith("mobilevit") or model_type in _BLUE_FIRST


def _flip_channels(model: nn.Module) -> None:
    """Let a network for blue, green, red take red, green, blue: once in its first layer, so no file has to say it."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's loading bars and reports out of this program's output."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        hf_logging.enable_progress_bar()
        enable_progress_bars()
