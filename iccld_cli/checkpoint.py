"""Model files: one safetensors file that rebuilds a model by itself.

The tensors are those of the teacher. The header holds, under the key `iccld`, one JSON object, see
`ModelHeader`. Nothing is ever unpickled. safetensors has no checksum, so the header carries a sha256 of all
tensors, and every load verifies it and that all values are finite.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from iccld_cli.models.build import backbone_spec, build_segmenter
from iccld_cli.models.segmenter import Segmenter

FORMAT_VERSION = 1
HEADER_KEY = "iccld"
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
    def from_json(cls, raw: dict[str, Any]) -> ModelHeader:
        """Read an object written by `to_json`.

        Raises:
            IccldError: The format is of another version.
        """
        if raw["format_version"] != FORMAT_VERSION:
            raise IccldError(f"model format {raw['format_version']} is not supported", "use a matching iccld version")
        if raw["stage"] not in get_args(Stage):
            raise ValueError(f"stage {raw['stage']!r}")
        space = LabelSpace.from_json(raw["label_space"])
        return cls(
            stage=raw["stage"],
            config=config_from_dict(raw["config"]),
            label_space=space,
            classes=space.ids_of(raw["classes"]),
            datasets=raw["datasets"],
            iterations=int(raw["iterations"]),
            metrics=raw["metrics"],
            backbone=raw["backbone"],
            tool_version=raw["tool_version"],
            sha256=raw["sha256"],
        )


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
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
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
    path = Path(path)
    if not path.is_file():
        raise IccldError(f"no model file at {path}", "give a .safetensors file that adapt-seg or adapt-adv wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise IccldError(f"{path} is not a readable safetensors file ({error})", "copy or train it again") from None
    if HEADER_KEY not in metadata:
        raise IccldError(f"{path} is not an iccld model file", "give one that adapt-seg or adapt-adv wrote")
    try:
        return ModelHeader.from_json(json.loads(metadata[HEADER_KEY]))
    except IccldError as error:
        raise IccldError(f"{path}: {error.message}", error.hint) from None
    except (KeyError, TypeError, ValueError) as error:
        raise IccldError(f"the header of {path} is damaged ({error!r})", "copy or train it again") from None


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
    header = read_header(path)
    with safe_open(Path(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if tensors_digest(tensors) != header.sha256:
        raise IccldError(f"{path} is damaged: its tensors do not match its checksum", "copy or train it again")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise IccldError(f"{path} holds values that are not finite", "train it again")
    try:
        generates = header.stage == "stage2" and header.config.adv.generate
        segmenter = build_segmenter(
            header.config, len(header.label_space), denoiser=generates, backbone=header.backbone
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IccldError(
            f"the encoder described in {path} cannot be built ({repr(error)[:200]})",
            "use the iccld version that wrote it",
        ) from None
    try:
        segmenter.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise IccldError(f"{path} does not fit its own configuration ({first[:200]})", "train it again") from None
    return segmenter.to(device).eval(), header
