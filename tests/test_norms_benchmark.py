"""`benchmarks/norms.py`: whose statistics a model's batch norms hold."""

import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from training_runs import make_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import norms

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.header import ModelHeader
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.labels import CITYSCAPES


@pytest.fixture
def model(small_segmenter):
    segmenter = small_segmenter(classes=19, denoiser=False)
    header = ModelHeader("stage1", segmenter.config, CITYSCAPES, tuple(range(19)), [], 1, {}, height=64)
    return TorchModel(segmenter, header)


@pytest.fixture
def target(tmp_path):
    return PreparedDataset(make_dataset(tmp_path / "road", (("train", 4),)))


def test_half_of_the_statistics_are_the_footages(model, target):
    frames = [(target, frame) for frame in target.frames("train")]
    moved = norms.with_norms_of(model, frames, 0.5)
    found = [[m for m in one.segmenter.modules() if isinstance(m, nn.BatchNorm2d)] for one in (model, moved)]
    inputs = []
    hook = found[0][0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model.segment(np.stack([target.read_image(frame) for _, frame in frames]))
    hook.remove()
    expected = (found[0][0].running_mean + inputs[0].mean(dim=(0, 2, 3))) / 2
    assert np.allclose(found[1][0].running_mean, expected, atol=1e-5)
    assert not any(norm.training for norm in found[1])
    one = norms.with_norms_of(model, frames[:1], 0.5)  # of a batch of one
    assert all(
        norm.running_var.isfinite().all() for norm in one.segmenter.modules() if isinstance(norm, nn.BatchNorm2d)
    )


def test_a_model_without_batch_norms_has_none_to_move(model, target):
    for part in list(model.segmenter.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.GroupNorm(1, child.num_features))
    assert norms.with_norms_of(model, [(target, target.frames("train")[0])], 0.5) is None
