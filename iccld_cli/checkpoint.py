"""Model files: one safetensors file that rebuilds a model by itself.

The tensors are those of the teacher. The header holds, under the key `iccld`, one JSON object, see
`ModelHeader`. Nothing is ever unpickled. safetensors has no checksum, so the header carries a sha256 of all
tensors, and every load verifies it and that all values are finite.

A model file is data, whoever wrote it: opening one reads that file and nothing else, its header is checked field by
field, and the sizes in it are compared with its tensors before anything is built (`models.outline`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from iccld_cli import __version__
from iccld_cli.config import Config, config_from_dict
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.labels import LabelSpace
from iccld_cli.models.build import TINY, backbone_spec, build_segmenter
from iccld_cli.models.outline import TooLargeError, differences, outline
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.plainjson import parse_json
from iccld_cli.tensorfile import TensorFile, read_tensor_file

FORMAT_VERSION = 1
HEADER_KEY = "iccld"
_MAX_NAME = 200
_MAX_STEPS = 10**12
Stage = Literal["source_only", "stage1", "stage2"]


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says about itself.

    Attributes:
        stage: `source_only`, `stage1` or `stage2`.
        config: Configuration of the run that made it.
        label_space: Classes of the model's output.
        classes: TrainIds the model is trained for and scored on.
        datasets: Each data set's `role` (source or target), `name`, `path` and index `digest`.
        iterations: Training steps of this stage.
        metrics: Scores, where known.
        backbone: What rebuilds a Hugging Face encoder; None for the tiny one.
        tool_version: Version of iccld that wrote the file.
        sha256: Digest of the tensors.
    """

    stage: Stage
    config: Config
    label_space: LabelSpace
    classes: tuple[int, ...]
    datasets: list[dict[str, Any]] = field(default_factory=list)
    iterations: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] | None = None
    tool_version: str = __version__
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object stored in the file's metadata."""
        return {
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "config": self.config.model_dump(mode="json"),
            "label_space": self.label_space.to_json(),
            "classes": list(self.label_space.names_of(self.classes)),
            "datasets": self.datasets,
            "iterations": self.iterations,
            "metrics": self.metrics,
            "backbone": self.backbone,
            "tool_version": self.tool_version,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, raw: Any) -> ModelHeader:
        """Read an object written by `to_json`, which may come from anywhere.

        Raises:
            IccldError: The format is of another version, or the configuration or the classes are not possible.
            KeyError: A field is missing.
            ValueError: A field has a value that cannot be.
        """
        raw = _typed("the header", raw, dict)
        if raw["format_version"] != FORMAT_VERSION:
            version = str(raw["format_version"])[:20]
            raise IccldError(f"model format {version} is not supported", "use a matching iccld version")
        if raw["stage"] not in get_args(Stage):
            raise ValueError(f"stage {str(raw['stage'])[:40]!r}")
        space = LabelSpace.from_json(_typed("label_space", raw["label_space"], dict))
        if not all(0 <= value <= 255 for color in space.colors for value in color):
            raise ValueError("a colour beyond 0 to 255")
        if any(len(name) > _MAX_NAME for name in (space.name, *space.names)):
            raise ValueError(f"a class name of more than {_MAX_NAME} letters")
        return cls(
            stage=raw["stage"],
            config=config_from_dict(_typed("config", raw["config"], dict)),
            label_space=space,
            classes=space.ids_of(_typed("a class", name, str) for name in _typed("classes", raw["classes"], list)),
            datasets=[_dataset(row) for row in _typed("datasets", raw["datasets"], list)],
            iterations=_count(raw["iterations"]),
            metrics=_typed("metrics", raw["metrics"], dict),
            backbone=None if raw["backbone"] is None else _typed("backbone", raw["backbone"], dict),
            tool_version=_typed("tool_version", raw["tool_version"], str)[:_MAX_NAME],
            sha256=_digest(raw["sha256"]),
        )


def _typed(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _dataset(row: Any) -> dict[str, Any]:
    row = _typed("a data set", row, dict)
    for key in ("role", "name", "path", "digest"):
        if key in row and "\0" in _typed(f"{key} of a data set", row[key], str):
            raise ValueError(f"{key} of a data set holds a zero byte")
    _typed("role of a data set", row["role"], str)
    return row


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_STEPS:
        raise ValueError("iterations is no possible number")
    return value


def _digest(value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", _typed("sha256", value, str)):
        raise ValueError("sha256 is no digest")
    return value


def without_paths(header: ModelHeader) -> ModelHeader:
    """A header that names data sets and a local encoder without saying where they lie, for files to hand on."""
    datasets = [{key: value for key, value in row.items() if key != "path"} for row in header.datasets]
    encoder = Path(header.config.model.encoder)
    tree = header.config.model_dump(mode="json")
    if encoder.is_absolute():
        tree["model"]["encoder"] = encoder.name
    return replace(header, config=config_from_dict(tree), datasets=datasets)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_segmenter(path: Path | str, segmenter: Segmenter, header: ModelHeader, *, half: bool = False) -> ModelHeader:
    """Write a model file, atomically.

    Args:
        path: Where to.
        segmenter: The model, on any device.
        header: What it is; `backbone` and `sha256` are filled in here.
        half: Store float tensors as fp16, for a file half the size.

    Returns:
        The header as written.

    Raises:
        IccldError: A weight is not finite, or the disk is full.
    """
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous().clone()
        for name, t in segmenter.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise IccldError(f"weight {name} is not finite, {path} was not written", "lower the learning rate")
    written = ModelHeader(
        **{
            **{k: getattr(header, k) for k in header.__dataclass_fields__},
            "backbone": backbone_spec(segmenter),
            "sha256": tensors_digest(tensors),
        }
    )
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER_KEY: json.dumps(written.to_json(), ensure_ascii=False)})
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
    return written


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_header(path: Path | str) -> ModelHeader:
    """Read a model file's header without its tensors.

    Raises:
        IccldError: The file is missing, damaged, or not a model of this program.
    """
    return _read(Path(path))[0]


def check_segmenter(path: Path | str) -> ModelHeader:
    """Read a model file's header and compare it with the names, types and shapes of the file's tensors.

    Raises:
        IccldError: As `read_header`, or the header describes another model than the tensors are of.
    """
    return _check(Path(path))


def load_segmenter(path: Path | str, device: str | torch.device = "cpu") -> tuple[Segmenter, ModelHeader]:
    """Rebuild a model from its file alone.

    Args:
        path: A file written by `save_segmenter`.
        device: Where the model goes.

    Returns:
        The model in float32 and evaluation mode, and its header.

    Raises:
        IccldError: The file is missing, damaged, or not a model of this program.
    """
    header = _check(Path(path))
    try:
        with safe_open(Path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise IccldError(f"{path} is not a readable safetensors file ({error})", "copy or train it again") from None
    if tensors_digest(tensors) != header.sha256:
        raise IccldError(f"{path} is damaged: its tensors do not match its checksum", "copy or train it again")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise IccldError(f"{path} holds values that are not finite", "train it again")
    segmenter = _build(header)
    segmenter.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
    return segmenter.to(device).eval(), header


def _read(path: Path) -> tuple[ModelHeader, TensorFile]:
    if not path.is_file():
        raise IccldError(f"no model file at {path}", "give a .safetensors file that adapt-seg or adapt-adv wrote")
    file = read_tensor_file(path)
    if HEADER_KEY not in file.metadata:
        raise IccldError(f"{path} is not an iccld model file", "give one that adapt-seg or adapt-adv wrote")
    try:
        return ModelHeader.from_json(parse_json(file.metadata[HEADER_KEY])), file
    except IccldError as error:
        raise IccldError(f"{path}: {error.message}", error.hint) from None
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise IccldError(f"the header of {path} is damaged ({reason[:200]})", "copy or train it again") from None


def _check(path: Path) -> ModelHeader:
    header, file = _read(path)
    if header.backbone is None and header.config.model.encoder != TINY:
        raise IccldError(
            f"{path} does not describe its encoder {header.config.model.encoder[:100]!r}", "train it again"
        )
    try:
        wanted = outline(lambda: _build(header), file.tensors)
    except TooLargeError as error:
        raise IccldError(
            f"{path} does not fit its own configuration (it describes a model of {error} than it holds)",
            "train it again",
        ) from None
    except Exception as error:  # an architecture's own code, on a configuration from anywhere
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise IccldError(
            f"the encoder described in {path} cannot be built ({reason})", "use the iccld version that wrote it"
        ) from None
    first = next(differences(wanted, file.tensors), None)
    if first is not None:
        raise IccldError(f"{path} does not fit its own configuration ({first})", "train it again")
    return header


def _build(header: ModelHeader) -> Segmenter:
    generates = header.stage == "stage2" and header.config.adv.generate
    return build_segmenter(header.config, len(header.label_space), denoiser=generates, backbone=header.backbone)
