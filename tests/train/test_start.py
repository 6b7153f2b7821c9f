"""Stages that start from a model file."""

import json

import pytest
import torch
import training_runs as runs
import transformers

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.labels import CITYSCAPES
from iccld_cli.train.start import open_start


@pytest.fixture
def write(tmp_path, small_config, small_segmenter):
    """A function: stage and assignments -> the path of a model file of random weights."""

    def make(stage, *assignments):
        config = small_config(*assignments)
        unet = stage == "stage2" and config.adv.generate
        model = small_segmenter(*assignments, classes=len(CITYSCAPES), denoiser=unet)
        path = tmp_path / f"{stage}.safetensors"
        save_segmenter(path, model, ModelHeader(stage, config, CITYSCAPES, (0, 2, 10, 13)))
        return path

    return make


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


@pytest.mark.parametrize("stage", ["source_only", "stage1", "stage2"])
def test_stage_1_takes_e_and_d_of_any_file(write, small_config, stage):
    start = open_start(write(stage))
    student = start.stage1_student(small_config(), len(CITYSCAPES))
    model, _ = load_segmenter(start.path)
    assert student.denoiser is None
    assert same(weights(student.encoder), weights(model.encoder)) and same(
        weights(student.decoder), weights(model.decoder)
    )


def test_stage_2_goes_on_with_the_unet_of_a_stage_2_file(write, small_config):
    start = open_start(write("stage2"))
    model, _ = load_segmenter(start.path)
    assert same(weights(start.stage2_student(small_config()).denoiser), weights(model.denoiser))
    assert start.stage2_student(small_config("adv.generate=false")).denoiser is None


def test_stage_2_makes_a_unet_where_the_file_has_none(write, small_config):
    start = open_start(write("stage1"))
    assert not start.stage2_student(small_config()).denoiser.unet.conv_out.weight.any()


def test_sizes_of_the_file_cannot_be_changed(write, small_config):
    start = open_start(write("stage1"))
    with pytest.raises(IccldError, match=r"model\.latent_channels is fixed by .*stage1"):
        start.check(small_config("model.latent_channels=12"))
    start.check(small_config("model.unet_channels=[24, 24]"))  # stage 1 has no UNet
    with pytest.raises(IccldError, match=r"model\.unet_channels is fixed"):
        open_start(write("stage2")).check(small_config("model.unet_channels=[24, 24]"))


def test_feature_distance_measures_from_the_pretrained_encoder_not_from_the_file(
    write, small_config, small_segmenter, tmp_path
):
    shape = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    torch.manual_seed(0)
    transformers.SegformerModel(shape).save_pretrained(tmp_path / "encoder")
    own = (f"model.encoder={tmp_path / 'encoder'}", "seg.feature_distance_weight=0.5")
    adapted = small_segmenter(*own, classes=len(CITYSCAPES), denoiser=False)
    pretrained = weights(adapted.encoder.backbone)
    with torch.no_grad():
        for parameter in adapted.encoder.backbone.parameters():
            parameter.add_(0.1)
    path = tmp_path / "adapted.safetensors"
    save_segmenter(path, adapted, ModelHeader("stage1", small_config(*own), CITYSCAPES, (0, 2)))
    start = open_start(path)
    student = start.stage1_student(small_config(*own), len(CITYSCAPES))
    reference = start.pretrained_backbone(small_config(*own), student)
    assert same(weights(reference), pretrained) and not same(weights(student.encoder.backbone), pretrained)
    lost = small_config("model.encoder=nowhere/at-all", "seg.feature_distance_weight=0.5")
    with pytest.raises(IccldError, match=r"needs the pretrained encoder.*--encoder"):
        start.pretrained_backbone(lost, student)
    assert start.pretrained_backbone(small_config(own[0]), student) is None


def test_both_stages_from_files_on_the_command_line(world, stage1, tmp_path):
    data = ["--source", str(world / "source"), "--target", str(world / "target"), "--val", str(world / "target")]
    common = ["--iterations", "2", "--batch-size", "2", "--set", "data.workers=0", "--set", "run.log_every=1"]
    one = ["adapt-seg", *data, "--ckpt", str(stage1 / "stage1.safetensors"), "--out", str(tmp_path / "one"), *common]
    assert runs.run([*one, "--classes", "road,sky"]) == [0], runs.said(tmp_path / "one")
    _, header = load_segmenter(tmp_path / "one" / "stage1.safetensors")
    assert header.label_space.names_of(header.classes) == ("road", "sky")
    two = ["--ckpt", str(tmp_path / "one" / "stage1.safetensors"), "--out", str(tmp_path / "two"), *common]
    assert runs.run(["adapt-adv", *two]) == [0], runs.said(tmp_path / "two")
    three = ["--ckpt", str(tmp_path / "two" / "stage2.safetensors"), "--out", str(tmp_path / "three"), *common]
    assert runs.run(["adapt-adv", *three]) == [0], runs.said(tmp_path / "three")
    _, last = load_segmenter(tmp_path / "three" / "stage2.safetensors")
    assert last.classes == header.classes and last.config.model == header.config.model
    rows = [json.loads(line) for line in (tmp_path / "three" / "log.jsonl").read_text().splitlines()]
    assert "miou" in rows[-1]
