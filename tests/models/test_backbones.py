"""Hugging Face encoders, built small and at random, saved to a folder and loaded by it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers as hf

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.labels import LabelSpace
from iccld_cli.models.backbones import rebuild_backbone
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.pretrained import load_backbone

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PYRAMID = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
HEADS = dict(num_attention_heads=[1, 1, 2, 4])
PLAIN = dict(hidden_size=24, num_hidden_layers=8, num_attention_heads=2, intermediate_size=48)

ENCODERS = {
    "segformer": lambda: hf.SegformerForImageClassification(
        hf.SegformerConfig(**PYRAMID | {"depths": [1, 1, 1, 1]}, **HEADS, decoder_hidden_size=8)
    ),
    "convnextv2": lambda: hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(**PYRAMID)),
    "swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4)
    ),
    "pvt_v2": lambda: hf.PvtV2ForImageClassification(hf.PvtV2Config(**PYRAMID, **HEADS)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**PLAIN, patch_size=14, image_size=56)),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**PLAIN, patch_size=14, image_size=56)
    ),
    "dinov3_vit": lambda: hf.DINOv3ViTModel(
        hf.DINOv3ViTConfig(**PLAIN, patch_size=16, image_size=64, num_register_tokens=2)
    ),
    "mobilenet_v2": lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(depth_multiplier=0.25)),
}
CHANNELS = {"swin": (8, 16, 32, 64), "mobilenet_v2": (8, 8, 24, 80)}
CHANNELS |= dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit"), (24, 24, 24, 24))
SPACE = LabelSpace("three", ("road", "sky", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> folder with `config.json` and `model.safetensors`."""
    root = tmp_path_factory.mktemp("encoders")
    for name, make in ENCODERS.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
    return {name: root / name for name in ENCODERS}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(64, 96), (96, 160)])
def test_pyramid_has_the_promised_strides_and_widths(folders, name, size):
    backbone = load_backbone(str(folders[name])).eval()
    assert backbone.channels == CHANNELS.get(name, (8, 16, 24, 32))
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, *size))
    for stride, width, features in zip((4, 8, 16, 32), backbone.channels, maps, strict=True):
        assert features.shape == (2, width, size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_trainable_parameter_gets_a_gradient(folders, name):
    # One that waits for ever stops data-parallel training.
    backbone = load_backbone(str(folders[name])).train()
    sum(f.square().mean() for f in backbone(torch.rand(2, 3, 64, 96))).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trainable > 0.9 * sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_are_those_of_the_file(folders, name):
    from safetensors.torch import load_file

    stored = list(load_file(folders[name] / "model.safetensors").values())
    loaded = load_backbone(str(folders[name])).state_dict()
    found = sum(
        any(value.shape == other.shape and torch.equal(value, other) for other in stored)
        for value in loaded.values()
        if value.ndim > 1
    )
    assert found == sum(value.ndim > 1 for value in loaded.values())


@pytest.mark.parametrize("name", ENCODERS)
def test_a_model_file_rebuilds_the_encoder_without_its_folder(folders, name, tmp_path, small_config):
    config = small_config(f"model.encoder={folders[name]}")
    segmenter = build_segmenter(config, 3, denoiser=False, seed=1).eval()
    save_segmenter(tmp_path / "m.safetensors", segmenter, ModelHeader("stage1", config, SPACE, (0, 1, 2)))
    hidden = folders[name].with_name(f"{name}-hidden")
    folders[name].rename(hidden)
    try:
        loaded, header = load_segmenter(tmp_path / "m.safetensors")
    finally:
        hidden.rename(folders[name])
    assert header.config == config
    images = torch.rand(1, 3, 50, 70)
    assert torch.equal(loaded.probabilities(images), segmenter.probabilities(images))


def test_rebuilding_needs_the_json_description_only(folders):
    backbone = load_backbone(str(folders["dinov2"])).eval()
    spec = type(backbone.spec).from_json(json.loads(json.dumps(backbone.spec.to_json())))
    rebuilt = rebuild_backbone(spec).eval()
    rebuilt.load_state_dict(backbone.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(backbone(images), rebuilt(images), strict=True))


@pytest.mark.parametrize("name", ENCODERS)
def test_normalisation_without_a_preprocessor_file(folders, name):
    half = ((0.5,) * 3, (0.5,) * 3)
    spec = load_backbone(str(folders[name])).spec
    assert (spec.mean, spec.std) == (half if name == "mobilenet_v2" else IMAGENET)


def test_normalisation_is_read_from_the_preprocessor_file(folders, tmp_path):
    folder = tmp_path / "mit"
    folder.mkdir()
    for file in folders["segformer"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    wanted = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(wanted))
    backbone = load_backbone(str(folder)).eval()
    assert backbone.spec.mean == (0.1, 0.2, 0.3)
    assert backbone.spec.std == (0.4, 0.5, 0.6)
    plain = load_backbone(str(folders["segformer"])).eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in IMAGENET)
    moved = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[-1], plain(moved * std + mean)[-1], rtol=1e-4, atol=1e-5)


def test_missing_folder():
    with pytest.raises(IccldError, match="there is no encoder folder '/no/such/folder'"):
        load_backbone("/no/such/folder")


def test_folder_without_weights(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders["segformer"] / "config.json").read_bytes())
    with pytest.raises(IccldError, match=r"cannot load encoder .*give a folder with config.json and model.safetensors"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(IccldError, match="cannot load encoder"):
        load_backbone(str(tmp_path))


def test_pickled_weights_are_refused(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders["segformer"] / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(IccldError, match="cannot load encoder"):
        load_backbone(str(tmp_path))


def test_weights_of_another_architecture_are_refused(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders["segformer"] / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folders["pvt_v2"] / "model.safetensors").read_bytes())
    with pytest.raises(IccldError, match=r"lack \d+ tensors of a 'segformer' model"):
        load_backbone(str(tmp_path))


def test_damaged_weights_are_explained(folders, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["segformer"] / name).read_bytes()[:2000])
    with pytest.raises(IccldError, match="cannot load encoder"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_bytes((folders["segformer"] / "config.json").read_bytes())
    with pytest.raises(IccldError, match="cannot load encoder"):
        load_backbone(str(tmp_path))


def test_weights_of_another_size_are_explained(folders, tmp_path):
    raw = json.loads((folders["segformer"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"hidden_sizes": [8, 16, 24, 40]}))
    (tmp_path / "model.safetensors").write_bytes((folders["segformer"] / "model.safetensors").read_bytes())
    with pytest.raises(IccldError, match="cannot load encoder"):
        load_backbone(str(tmp_path))


def test_an_encoder_of_one_size_is_refused(tmp_path):
    hf.ViTModel(hf.ViTConfig(**PLAIN, image_size=64)).save_pretrained(tmp_path)
    with pytest.raises(IccldError, match="'vit' does not take images of any size"):
        load_backbone(str(tmp_path))


def test_a_text_model_is_refused(tmp_path):
    config = hf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    hf.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(IccldError, match="encoder type 'bert'"):
        load_backbone(str(tmp_path))


def test_an_unreachable_hub_is_one_quick_error(tmp_path):
    code = (
        "from iccld_cli.errors import IccldError\n"
        "from iccld_cli.models.pretrained import load_backbone\n"
        "import time, huggingface_hub.errors\n"
        "from transformers import AutoConfig, AutoModel, ImageProcessingMixin\n"
        "from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING\n"
        "start = time.monotonic()\n"
        "try: load_backbone('somebody/some-encoder')\n"
        "except IccldError as error: print(error)\n"
        "print(time.monotonic() - start)\n"
    )
    # Port 9 of this machine stands for a hub without a connection: refused at once, and never a real request.
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": "", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"},
        timeout=600,
    )
    message, seconds = done.stdout.splitlines()
    assert "cannot load encoder 'somebody/some-encoder'" in message
    assert "the hub cannot be reached" in message
    assert float(seconds) < 15  # left alone, the library retries for longer
    assert "Retrying" not in done.stderr


def test_offline_mode_asks_nobody():
    start = time.monotonic()
    with pytest.raises(IccldError, match="the hub cannot be reached") as caught:
        load_backbone("somebody/some-encoder")
    assert "mobilenet-v2 and efficientnet-lite0 need no network" in caught.value.hint
    assert time.monotonic() - start < 5
