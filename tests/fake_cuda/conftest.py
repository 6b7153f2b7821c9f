"""A loaded batch, and encoders of every kind with random weights."""

import pytest
import torch
from devices import fake_cuda

from iccld_cli.data.batches import Batch


@pytest.fixture
def cuda():
    """`cuda:0`, in name."""
    with fake_cuda() as device:
        yield device


@pytest.fixture
def loaded():
    """A batch as the loader gives it: a function of side and context."""

    def make(side=64, context=None, count=2):
        shape = (count, side, side)
        batch = {
            "source": torch.zeros(count, 3, side, side, dtype=torch.uint8),
            "target": torch.zeros(count, 3, side, side, dtype=torch.uint8),
            "label": torch.zeros(shape, dtype=torch.uint8),
            "paste": torch.zeros(shape, dtype=torch.bool),
            "pseudo_valid": torch.ones(shape, dtype=torch.bool),
            "names": [["a"] * count, ["b"] * count],
            "first": 0,
            "micro": (0, 1),
            "labelled": count * side * side,
        }
        if context:
            batch["surroundings"] = torch.zeros(count, 3, *context, dtype=torch.uint8)
            batch["places"] = torch.zeros(count, 2, dtype=torch.int64)
        return Batch(**batch)

    return make


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A function: kind of encoder -> a folder with a small one of random weights."""
    from transformers import AutoModel, Dinov2Config, MobileNetV2Config, SegformerConfig

    kinds = {
        "mobilenet": MobileNetV2Config(depth_multiplier=0.1, min_depth=8),
        "segformer": SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4),
        "dinov2": Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56),
    }

    def folder(kind):
        path = tmp_path_factory.getbasetemp() / f"encoder-{kind}"
        if not path.exists():
            AutoModel.from_config(kinds[kind]).save_pretrained(path)
        return str(path)

    return folder
