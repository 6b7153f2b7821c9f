"""Tests that need a CUDA device; without one they skip and say so.

`ICCLD_CUDA_TESTS_ON=cpu` rehearses them on the CPU: what only a GPU can show still skips.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "adapt"))

REHEARSED = os.environ.get("ICCLD_CUDA_TESTS_ON") == "cpu"


@pytest.fixture(scope="session", autouse=True)
def device():
    """`cuda`; or `cpu` in a rehearsal."""
    if torch.cuda.is_available():
        return "cuda"
    if REHEARSED:
        return "cpu"
    pytest.skip("needs a CUDA device")


@pytest.fixture
def real_cuda(device):
    """Skips in a rehearsal."""
    if device != "cuda":
        pytest.skip("needs a CUDA device: a rehearsal on the CPU cannot show it")


@pytest.fixture(scope="session")
def world(device, tmp_path_factory):
    """A folder with the prepared data sets `source` and `target`."""
    import training_runs

    root = tmp_path_factory.mktemp("cuda")
    training_runs.make_dataset(root / "source", seed=1)
    training_runs.make_dataset(root / "target", (("train", 4), ("val", 2)), size=(72, 64), seed=2)
    return root


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A folder with a small MobileNetV2 of random weights, so that whatever needs a pretrained encoder runs."""
    from transformers import AutoModel, MobileNetV2Config

    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_config(MobileNetV2Config(depth_multiplier=0.25)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stage1(device, world):
    """Stage 1's model file, trained for six steps on the device."""
    from runs import seg, train

    run = train(seg(world, world / "first", device))
    assert run.status == 0, run.said
    return world / "first" / "stage1.safetensors"
