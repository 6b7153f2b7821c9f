"""Networks folded for inference answer as before, whatever the encoder."""

import pytest
import torch
import transformers as hf
from torch import nn

from iccld_cli.config import load_config
from iccld_cli.inference.model import find_model
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.models.architectures import LITE
from iccld_cli.models.backbones import BackboneSpec, rebuild_backbone
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.efficientnet_lite import LiteConfig, PaddedConv2d
from iccld_cli.models.folding import folded

WIDTHS = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
ENCODERS = {
    "mobilenet_v1": lambda: hf.MobileNetV1Model(hf.MobileNetV1Config(depth_multiplier=0.25, min_depth=8)),
    "mobilenet_v2": lambda: hf.MobileNetV2Model(hf.MobileNetV2Config(depth_multiplier=0.25)),
    "symmetric padding": lambda: hf.MobileNetV2Model(hf.MobileNetV2Config(depth_multiplier=0.25, tf_padding=False)),
    "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(**WIDTHS, embedding_size=8, layer_type="basic")),
    "convnextv2": lambda: hf.ConvNextV2Model(hf.ConvNextV2Config(**WIDTHS)),
}


@pytest.fixture
def network(tmp_path):
    """A function: name of an encoder, assignments -> a `Segmenter` whose norms and biases are those of no fresh one."""

    def build(name, *assignments):
        encoder = name
        if name != "tiny":
            torch.manual_seed(0)
            ENCODERS[name]().save_pretrained(tmp_path)
            encoder = str(tmp_path)
        config = load_config("tiny", assignments=[f"model.encoder={encoder}", *assignments])
        model = build_segmenter(config, 5, denoiser=True, seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for values in (norm.running_var, norm.weight):
                    values.data.uniform_(0.5, 2, generator=generator)
                for values in (norm.running_mean, norm.bias):
                    values.data.normal_(0, 0.3, generator=generator)
        nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.2, generator=generator)
        return model

    return build


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def logits(model, images, steps):
    (found,) = model.logits(images, steps)
    return found


@pytest.mark.parametrize("name", ["tiny", *ENCODERS])
@pytest.mark.parametrize("assignments", [[], ["model.detail=true"]], ids=["one size", "two sizes"])
def test_the_answer_stays_the_same(network, name, assignments):
    model = network(name, *assignments)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = folded(model)
    for size in ((64, 64), (96, 160), (70, 50)):
        images = torch.rand(2, 3, *size)
        for steps in (0, 2):
            expected = logits(model, images, steps)
            error = (logits(fast, images, steps) - expected).abs().max()
            assert error < 1e-4 * expected.abs().max()
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("assignments", [[], ["model.detail=true"]], ids=["one size", "two sizes"])
def test_norms_behind_a_convolution_are_gone_and_so_is_the_copy_for_padding(network, assignments):
    model = network("mobilenet_v2", *assignments)
    fast = folded(model)
    assert norms(model) > 50
    assert norms(fast) == 1  # of the fusion, which follows no convolution
    assert not any(layer.config.tf_padding for layer in fast.modules() if hasattr(layer, "convolution"))
    assert all(layer.config.tf_padding for layer in model.modules() if hasattr(layer, "convolution"))


def test_the_shipped_model_is_folded_and_answers_the_same():
    model = TorchModel.open(find_model(None), "cpu")
    fast = model.folded()
    assert norms(fast.segmenter) < 3 < norms(model.segmenter)
    frames = torch.randint(0, 256, (2, 90, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    slow, quick = (one.segment(frames.numpy(), ("probabilities",)) for one in (model, fast))
    assert abs(slow.probabilities - quick.probabilities).max() < 1e-4


class Reused(nn.Module):
    """A backbone whose first convolution is also read without its norm."""

    channels = (8, 8, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, images):
        x = self.conv(images)
        y = self.act(self.norm(x)) + x
        return [nn.functional.avg_pool2d(y, side) for side in (1, 2, 4, 8)]


def with_backbone(model, backbone):
    """A model with another backbone in place of its own, of any widths."""
    model.encoder.backbone = backbone
    heads = zip(backbone.channels, model.encoder.laterals, strict=True)
    model.encoder.laterals = nn.ModuleList(nn.Conv2d(width, head.out_channels, 1) for width, head in heads)
    model.encoder.skip = nn.Conv2d(backbone.channels[0], model.encoder.skip.out_channels, 1)
    return model


def test_a_network_that_would_answer_otherwise_is_left_alone(small_segmenter):
    model = with_backbone(small_segmenter(), Reused().eval())
    model.encoder.backbone.norm.running_mean += 1
    assert folded(model) is model
    assert isinstance(model.encoder.backbone.norm, nn.BatchNorm2d)


def test_an_efficientnet_lite_loses_its_norms_and_its_padding(small_segmenter):
    sizes = dict(widths=(8, 8, 16, 16, 24), kernels=(3, 3, 5, 3, 5), expansions=(1, 2, 2, 2, 2))
    config = LiteConfig(8, repeats=(1, 2, 1, 1, 1), strides=(1, 2, 2, 2, 2), symmetric=(3,), **sizes)
    backbone = rebuild_backbone(BackboneSpec(LITE, config.to_json(), (0.5,) * 3, (0.5,) * 3)).eval()
    model = with_backbone(small_segmenter(), backbone)
    fast = folded(model)
    assert norms(fast) == 1
    padded = [[any(m.around) for m in one.modules() if isinstance(m, PaddedConv2d)] for one in (model, fast)]
    assert any(padded[0]) and not any(padded[1])
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(logits(fast, images, 0), logits(model, images, 0), rtol=1e-3, atol=1e-4)
