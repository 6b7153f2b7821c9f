"""Every preset builds and runs; their true sizes are measured by `benchmarks/models.py`."""

import pytest
import torch

from iccld_cli.adapt.teacher import ema_decay
from iccld_cli.config import load_config, preset_names
from iccld_cli.models.build import build_segmenter


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_runs_when_shrunk(name):
    full = load_config(name).model
    narrow = [max(width // 4 // 8 * 8, 16) for width in full.unet_channels]
    config = load_config(name, overrides={"model.encoder": "tiny", "model.unet_channels": narrow})
    model = build_segmenter(config, 19, denoiser=True, seed=0).eval()
    assert model.probabilities(torch.rand(1, 3, 40, 70), steps=1).shape == (1, 19, 40, 70)
    width, height = config.data.crop  # a crop needs no padding, so training sees what inference sees
    assert width % model.multiple == 0 and height % model.multiple == 0


@pytest.mark.parametrize("name", ["paper-gta5", "paper-synthia"])
def test_paper_presets_hold_the_published_numbers(name):
    config = load_config(name)
    assert ema_decay(config.seg.ema_horizon, config.seg.iterations) == pytest.approx(0.999)
    assert (config.optim.lr, config.optim.head_lr_factor, config.optim.warmup) == (6e-5, 10, 1500)
    assert (config.seg.iterations, config.data.batch_size, config.data.crop) == (40_000, 2, (512, 512))
    assert (config.pseudo.gate, config.pseudo.threshold) == ("threshold", 0.968)
    assert config.data.rare_class_temperature == 0.01
    assert config.seg.feature_distance_weight == 0.005
    # With Cityscapes at 1024 x 512, source frames become 720 or 760 rows high.
    rows = {"paper-gta5": 720, "paper-synthia": 760}[name]
    assert config.data.source_scale[0] * 1024 == pytest.approx(rows)
