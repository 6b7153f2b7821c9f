"""Encoders whose ImageNet weights come with the program, so that a training needs no network.

A file holds the tensors of an encoder in fp16 (batch-norm statistics in fp32) and, as text, the `BackboneSpec`
that says how to build it. `benchmarks/encoder_asset.py` writes one from a folder.
"""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import load, save
from torch import Tensor

from iccld_cli.errors import IccldError
from iccld_cli.models.backbones import BackboneSpec, HuggingFaceBackbone, rebuild_backbone
from iccld_cli.plainjson import parse_json
from iccld_cli.shipped import shipped_file
from iccld_cli.tensorfile import read_tensor_file

BUNDLED = {
    "mobilenet-v2": (
        "mobilenet-v2-imagenet.safetensors",
        "fbf0a3465a2ca3ed61b08f9251c5a052dcce303c0ebc8f5a12896822c894bf34",
    ),
    "efficientnet-lite0": (
        "efficientnet-lite0-imagenet.safetensors",
        "a19ef2f89ddbf3cdc5eb1e8a446fa04823e176ed6964d19c65d4f2f6fb742e31",
    ),
}
"""Name for `--encoder` -> file among the assets, and sha256 of its bytes."""

_KEY = "iccld_encoder"


def load_bundled(name: str) -> HuggingFaceBackbone:
    """Load an encoder that comes with the program.

    Args:
        name: One of `BUNDLED`.

    Returns:
        The encoder in float32.

    Raises:
        IccldError: This installation comes without the file, or the file is not what was published.
    """
    file, digest = BUNDLED[name]
    path = shipped_file(file)
    if path is None:
        raise IccldError(f"this installation comes without {file}", "name another encoder with --encoder")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise IccldError(f"{path} does not have the published checksum", "install the program again")
    spec = BackboneSpec.from_json(parse_json(read_tensor_file(path).metadata[_KEY].encode()))
    backbone = rebuild_backbone(spec)
    backbone.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load(data).items()})
    return backbone


def bundle(backbone: HuggingFaceBackbone) -> bytes:
    """What a file of an encoder holds.

    Args:
        backbone: An encoder with its weights.
    """

    def stored(name: str, value: Tensor) -> Tensor:
        keep = not value.is_floating_point() or ".running_" in name
        return (value if keep else value.to(torch.float16)).contiguous()

    tensors = {name: stored(name, value) for name, value in backbone.model.state_dict().items()}
    return save(tensors, {_KEY: json.dumps(backbone.spec.to_json(), sort_keys=True)})
