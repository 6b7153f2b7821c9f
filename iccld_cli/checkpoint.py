"""Model files: one safetensors file that rebuilds a model by itself.

The tensors are those of the teacher. The header holds, under the key `iccld`, one JSON object, see
`header.ModelHeader`. Nothing is ever unpickled. safetensors has no checksum, so the header carries a sha256 of all
tensors, and every load verifies it and that all values are finite.

A model file is data, whoever wrote it: opening one reads that file and nothing else, its header is checked field by
field, and the sizes in it are compared with its tensors before anything is built (`models.outline`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from iccld_cli.errors import IccldError, reason_of
from iccld_cli.files import atomic_path
from iccld_cli.header import HEADER_KEY, ModelHeader, read_model_file
from iccld_cli.models.build import TINY, backbone_spec, build_segmenter
from iccld_cli.models.outline import TooLargeError, differences, outline
from iccld_cli.models.segmenter import Segmenter


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


def _check(path: Path) -> ModelHeader:
    header, file = read_model_file(path)
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
        reason = reason_of(error)
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
