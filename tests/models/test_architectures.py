"""Every encoder on the list, small and at random: pyramid, gradients, and rebuilt from its description alone."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.labels import LabelSpace
from iccld_cli.models.architectures import ARCHITECTURES, LITE, REFUSED, config_class, config_fields, plain_config
from iccld_cli.models.backbones import BackboneSpec, choose_out_indices, model_class, rebuild_backbone
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.efficientnet_lite import EfficientNetLite, LiteConfig
from iccld_cli.models.pretrained import load_backbone

SPACE = LabelSpace("three", ("road", "sky", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))

_PYRAMID = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
_HEADS = dict(num_attention_heads=[1, 1, 2, 4])
_RESIDUAL = dict(embedding_size=8, layer_type="basic", **_PYRAMID)
_WINDOWS = dict(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4)
_PLAIN = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=16)
_PATCH_14 = _PLAIN | dict(image_size=56, patch_size=14)
_LITE_SIZES = dict(
    num_block_repeats=[1, 2, 1, 2, 1, 1, 1], width_coefficient=0.25, depth_coefficient=1.0, hidden_act="relu6",
    hidden_dim=320,
)  # fmt: skip

TINY = {
    "beit": _PLAIN | dict(intermediate_size=32),
    "bit": _PYRAMID | dict(embedding_size=8, num_groups=4),
    "convnext": _PYRAMID,
    "convnextv2": _PYRAMID,
    "cvt": dict(embed_dim=[8, 16, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    "dinov2": _PATCH_14,
    "dinov2_with_registers": _PATCH_14,
    "dinov3_convnext": _PYRAMID,
    "dinov3_vit": _PLAIN | dict(intermediate_size=32, num_register_tokens=2),
    "efficientnet": dict(width_coefficient=0.25, depth_coefficient=0.4, hidden_dim=320),
    LITE: _LITE_SIZES,
    "focalnet": _PYRAMID | dict(embed_dim=8),
    "glpn": _PYRAMID | _HEADS | dict(decoder_hidden_size=8),
    "hgnet_v2": dict(
        embedding_size=8,
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[16, 24, 32, 40],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[1] * 4,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1] * 4,
    ),
    "hiera": dict(embed_dim=8, image_size=[64, 64], depths=[1, 1, 2, 1]),
    "maskformer-swin": _WINDOWS,
    "mobilenet_v1": dict(depth_multiplier=0.25),
    "mobilenet_v2": dict(depth_multiplier=0.25),
    "mobilevit": dict(hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64], num_attention_heads=2),
    "mobilevitv2": dict(width_multiplier=0.25, n_attn_blocks=[1, 1, 1], base_attn_unit_dims=[32, 32, 32]),
    "pixio": _PLAIN,
    "poolformer": _PYRAMID,
    "pp_lcnet": dict(scale=0.25),
    "pp_lcnet_v3": dict(scale=0.25),
    "pvt_v2": _PYRAMID | _HEADS,
    "regnet": _PYRAMID | dict(embedding_size=8, groups_width=8),
    "resnet": _RESIDUAL,
    "rt_detr_resnet": _RESIDUAL,
    "sapiens2": _PLAIN | dict(intermediate_size=32, num_key_value_attention_heads=2),
    "segformer": _PYRAMID | _HEADS | dict(decoder_hidden_size=8),
    "swiftformer": dict(depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]),
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "textnet": dict(
        stem_out_channels=8,
        hidden_sizes=[8, 8, 16, 24, 32],
        conv_layer_kernel_sizes=[[[3, 3]]] * 4,
        conv_layer_strides=[[2]] * 4,
    ),
    "tipsv2_vision_model": _PATCH_14,
    "vitdet": _PLAIN | dict(window_block_indices=[0], pretrain_image_size=64, window_size=2),
}
BLURRED = {"mobilevit", "pp_lcnet_v3", "vitdet", LITE}  # random weights carry a corner everywhere, or to nowhere


def _open_gates(model):
    for name, parameter in model.named_parameters():
        if ".squeeze_excite.expand." in name:
            parameter.data.fill_(20.0 if name.endswith("bias") else 0.0)


def _lively(model):
    """Weights that pass their input on, as trained ones do; fresh ones of some classes fade it to nothing."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)


def _save(model_type, folder, **changes):
    """A folder as the hub has them, with random weights; returns the model in it."""
    torch.manual_seed(0)
    library_type = "efficientnet" if model_type == LITE else model_type
    model = model_class(library_type)(config_class(library_type)(**TINY[model_type] | changes)).eval()
    _lively(model)
    if model_type == LITE:
        _open_gates(model)
    model.save_pretrained(folder)
    return model


def test_every_architecture_is_tested():
    assert set(TINY) == set(ARCHITECTURES)
    assert not set(ARCHITECTURES) & set(REFUSED)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_encoder_of_the_list(model_type, tmp_path, small_config):
    _save(model_type, tmp_path / "encoder")
    backbone = load_backbone(str(tmp_path / "encoder"))
    assert backbone.spec.model_type == model_type

    # Forward at two sizes, neither square nor of one shape.
    for size in ((64, 96), (96, 224)):
        with torch.no_grad():
            maps = backbone.eval()(torch.rand(2, 3, *size))
        for stride, width, features in zip((4, 8, 16, 32), backbone.channels, maps, strict=True):
            assert features.shape == (2, width, size[0] // stride, size[1] // stride)
            assert torch.isfinite(features).all()

    # A change of the upper left corner shows there first: maps are not scrambled.
    one = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    other = one.clone()
    other[..., :16, :16] = 1 - other[..., :16, :16]
    with torch.no_grad():
        change = (backbone(one)[1] - backbone(other)[1]).abs().mean(dim=(0, 1))
    if model_type not in BLURRED:
        assert divmod(int(change.argmax()), change.shape[1]) <= (3, 3)
        assert int(change.argmax()) % change.shape[1] <= 3

    # Every trainable parameter gets a gradient, and nearly all are trainable.
    backbone.train()
    sum(f.square().mean() for f in backbone(torch.rand(2, 3, 64, 96))).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trainable > 0.85 * sum(p.numel() for p in backbone.parameters())

    # The description as JSON, and the state dict, are the encoder.
    spec = BackboneSpec.from_json(json.loads(json.dumps(backbone.spec.to_json())))
    rebuilt = rebuild_backbone(spec)
    rebuilt.load_state_dict(backbone.state_dict())
    assert rebuilt.spec.to_json() == spec.to_json()
    with torch.no_grad():
        for a, b in zip(rebuilt.eval()(one), backbone.eval()(one), strict=True):
            torch.testing.assert_close(a, b)  # not to the bit: kernels differ with the place in memory

    # So is a model file, without the folder.
    config = small_config(f"model.encoder={tmp_path / 'encoder'}")
    segmenter = build_segmenter(config, 3, denoiser=False, seed=1).eval()
    save_segmenter(tmp_path / "m.safetensors", segmenter, ModelHeader("stage1", config, SPACE, (0, 1, 2)))
    (tmp_path / "encoder").rename(tmp_path / "gone")
    loaded, _ = load_segmenter(tmp_path / "m.safetensors")
    images = torch.rand(1, 3, 50, 70)
    torch.testing.assert_close(loaded.probabilities(images), segmenter.probabilities(images))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", [*REFUSED, "bert", "llama", "no-such-type"])
def test_every_other_architecture_is_refused_by_name(tmp_path, model_type):
    # Before any weights are asked for: there are none in the folder.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(IccldError) as caught:
        load_backbone(str(tmp_path))
    name = "timm_wrapper" if model_type.startswith("timm_") else model_type
    assert repr(name) in str(caught.value)
    assert REFUSED.get(model_type, "is not one of those that work here") in str(caught.value)
    assert "docs/presets.md" in str(caught.value)


def test_a_timm_model_is_refused_with_its_reason(tmp_path):
    # As timm's own files on the hub are: without a model_type.
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "tf_efficientnet_lite2", "num_classes": 1000, "pretrained_cfg": {"mean": [0.5] * 3}}
        )
    )
    with pytest.raises(IccldError, match=r"timm model 'tf_efficientnet_lite2', which needs .* torchvision"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"model_type": None},
        {"model_type": ["swin"]},
        {"model_type": "swin", "depths": "many"},
        {"model_type": "swin", "depths": []},
        {"model_type": "cvt", "depth": [1, 1, 1]},
        {"model_type": "convnext", "hidden_act": "../../kernel"},
        {"model_type": "convnext", "depths": [10**9] * 4},
    ],
)
def test_an_odd_configuration_is_one_clear_error(tmp_path, raw):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(IccldError):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"model_type": NaN}', "\ud800"])
def test_a_damaged_configuration_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(IccldError, match=r"cannot load encoder .*config.json is damaged"):
        load_backbone(str(tmp_path))


def test_a_folder_with_code_is_loaded_without_it(tmp_path):
    _save("dinov2", tmp_path / "e")
    raw = json.loads((tmp_path / "e/config.json").read_text())
    (tmp_path / "e/m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    raw |= {"auto_map": {"AutoConfig": "m.C", "AutoModel": "m.M"}, "attn_implementation": "somebody/kernel"}
    (tmp_path / "e/config.json").write_text(json.dumps(raw))
    described = json.dumps(load_backbone(str(tmp_path / "e")).spec.to_json())
    assert not (tmp_path / "ran").exists()
    assert "auto_map" not in described
    assert "somebody" not in described


def test_an_adapter_is_not_followed_to_its_base_model(tmp_path):
    _save("dinov2", tmp_path / "e")
    (tmp_path / "e/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/repo"}))
    with pytest.raises(IccldError, match="adapter to another model"):
        load_backbone(str(tmp_path / "e"))


def test_an_index_does_not_lead_out_of_the_folder(tmp_path):
    _save("dinov2", tmp_path / "e")
    (tmp_path / "e/model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"layernorm.weight": "../model.safetensors"}, "metadata": {}}
    (tmp_path / "e/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IccldError, match="outside the folder"):
        load_backbone(str(tmp_path / "e"))


def test_no_field_that_leads_elsewhere_is_on_any_list():
    words = ("auto_map", "name_or_path", "attn_impl", "quantization", "trust_remote", "kernel_config", "use_")
    exact = {"backbone", "backbone_config", "backbone_kwargs"}
    harmless = {
        "use_absolute_embeddings", "use_absolute_position_embeddings", "use_auxiliary_head", "use_gated_mlp",
        "use_layer_scale", "use_learnable_affine_block", "use_mask_token", "use_mean_pooling", "use_qk_norm",
        "use_relative_position_bias", "use_relative_position_embeddings", "use_shared_relative_position_bias",
        "use_swiglu_ffn", "use_conv_embed", "use_layerscale", "use_post_layernorm", "use_post_layernorm_in_modulation",
    }  # fmt: skip
    for model_type in set(ARCHITECTURES) - {LITE}:
        fields = config_fields(model_type) - harmless
        assert not fields & exact, model_type
        assert not [f for f in fields if any(word in f for word in words) or f.endswith("_config")], model_type


def test_maps_with_the_channels_last_or_of_another_shape_are_refused():
    from iccld_cli.models.backbones import probe_stride

    assert probe_stride("x", torch.zeros(1, 8, 16, 24)) == 4
    for shape in ((1, 16, 24, 8), (1, 8, 16, 6), (1, 8, 4, 24), (1, 8, 1, 1), (1, 8, 640, 960)):
        with pytest.raises(IccldError, match="cannot be used as a pyramid"):
            probe_stride("x", torch.zeros(shape))


# ---- the right input ------------------------------------------------------------------------------------------------


def _processor(folder, **values):
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("model_type", ["mobilevit", "mobilevitv2"])
@pytest.mark.parametrize("key", ["do_flip_channel_order", "do_flip_channels", None])
def test_mobilevit_takes_blue_first_and_no_normalisation(tmp_path, model_type, key):
    model = _save(model_type, tmp_path)
    if key:
        _processor(tmp_path, **{key: True, "do_rescale": True})
    backbone = load_backbone(str(tmp_path)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = model(images.flip(1), output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(backbone(images)[-1], wanted, rtol=1e-4, atol=1e-4)
        assert (wanted - model(images, output_hidden_states=True).hidden_states[-1]).abs().max() > 0.01


def test_mobilevit_without_the_flip_where_its_file_says_so(tmp_path):
    model = _save("mobilevit", tmp_path)
    _processor(tmp_path, do_flip_channel_order=False, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = model((images - 0.5) / 0.25, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(load_backbone(str(tmp_path)).eval()(images)[-1], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("written", [True, False])
def test_pp_lcnet_normalises_then_takes_blue_first(tmp_path, written):
    # PPLCNetImageProcessor: its means are those of blue, green, red, applied before the channels are flipped.
    model = _save("pp_lcnet", tmp_path)
    mean, std = [0.406, 0.456, 0.485], [0.225, 0.224, 0.229]
    if written:
        _processor(tmp_path, image_mean=mean, image_std=std)
    images = torch.rand(1, 3, 64, 96)
    pixels = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    backbone = load_backbone(str(tmp_path)).eval()
    model.config.out_indices = backbone.spec.out_indices
    with torch.no_grad():
        for a, b in zip(backbone(images), model(pixels.flip(1)).feature_maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert (a - a.mean()).abs().max() > 0.1  # that much of the image arrives


@pytest.mark.parametrize("include_top", [True, False, None])
def test_googles_efficientnets_give_a_std_that_is_divided_by_twice(tmp_path, include_top):
    _save("efficientnet", tmp_path)
    std = [0.47853944, 0.4732864, 0.47434163]
    _processor(
        tmp_path,
        image_mean=[0.485, 0.456, 0.406],
        image_std=std,
        **({} if include_top is None else {"include_top": include_top}),
    )
    spec = load_backbone(str(tmp_path)).spec
    assert spec.std == pytest.approx((0.229, 0.224, 0.225) if include_top else std, abs=1e-5)
    assert spec.mean == (0.485, 0.456, 0.406)


def test_beit_without_a_preprocessor_file_is_normalised_as_its_published_weights(tmp_path):
    _save("beit", tmp_path)
    assert load_backbone(str(tmp_path)).spec.std == (0.5, 0.5, 0.5)


def test_the_processor_inside_a_processor_config_is_read(tmp_path):
    _save("dinov3_vit", tmp_path)
    inner = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert load_backbone(str(tmp_path)).spec.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("model_type", ["pp_lcnet", "pp_lcnet_v3"])
def test_pp_lcnet_gives_its_own_map_at_every_stride(tmp_path, model_type):
    _save(model_type, tmp_path)
    backbone = load_backbone(str(tmp_path))
    with torch.no_grad():
        maps = backbone.model(torch.rand(1, 3, 128, 192)).feature_maps
    assert [128 // m.shape[-2] for m in maps] == [4, 8, 16, 32]
    assert backbone.picks == (0, 1, 2, 3)


def test_a_file_from_before_stages_were_noted_is_rebuilt_as_it_was(tmp_path):
    _save("pp_lcnet", tmp_path)
    raw = load_backbone(str(tmp_path)).spec.to_json()
    raw.pop("out_indices")
    old = rebuild_backbone(BackboneSpec.from_json(raw))
    stages = len(old.model.config.stage_names) - 1
    assert tuple(old.model.config.out_indices) == tuple(round(stages * share / 4) for share in (1, 2, 3, 4))
    assert old.model.config.out_indices != list(choose_out_indices(old.model.config))


@pytest.mark.parametrize("patch", [14, [14, 14], (14, 14)])
def test_a_patch_size_may_be_a_list(patch):
    config = _PATCH_14 | {"patch_size": patch}
    spec = BackboneSpec.from_json({"model_type": "dinov2", "config": config, "mean": [0] * 3, "std": [1] * 3})
    assert rebuild_backbone(spec).patch == 14


def test_a_configuration_keeps_only_fields_of_its_class():
    raw = config_class("swin")(**_WINDOWS).to_dict() | {"auto_map": {}, "surprise": 1, "num_attention_heads": [9]}
    kept = plain_config("swin", raw)
    assert kept["num_heads"] == [1, 2, 2, 4]  # the name that the class itself has wins over its alias
    assert not {"auto_map", "surprise", "hidden_size", "id2label", "dtype", "model_type", "out_indices"} & set(kept)
    assert plain_config("swin", {"num_attention_heads": [9]}) == {"num_heads": [9]}


# ---- Hiera: positions and order of tokens at every size -------------------------------------------------------------


def test_hiera_at_its_own_size_is_the_librarys_model(tmp_path):
    model = _save("hiera", tmp_path)
    backbone = load_backbone(str(tmp_path)).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = backbone.mean, backbone.std
    with torch.no_grad():
        wanted = model((images - mean) / std, output_hidden_states=True) if isinstance(model, hf.HieraModel) else None
        assert wanted is not None
        for a, b in zip(backbone(images), wanted.reshaped_hidden_states[1:], strict=True):
            torch.testing.assert_close(a, b.permute(0, 3, 1, 2))


def test_hieras_windows_see_their_own_pixels_alone(tmp_path):
    # Mask units of 32 x 32 pixels attend to themselves in the first stage: a change in one leaves the others as they
    # are (but for the border that the patch convolution reaches over). At sizes that the model was not built for.
    _save("hiera", tmp_path, image_size=[64, 64])
    backbone = load_backbone(str(tmp_path)).eval()
    one = torch.rand(1, 3, 96, 160)
    other = one.clone()
    other[..., 36:60, 100:124] = 0  # well inside the unit in row 1, column 3
    with torch.no_grad():
        change = (backbone(one)[0] - backbone(other)[0]).abs().amax(dim=(0, 1)) > 0
    changed = {(row // 8, column // 8) for row, column in change.nonzero().tolist()}
    assert changed == {(1, 3)}


# ---- EfficientNet-Lite ----------------------------------------------------------------------------------------------


def _states_by_stride(model, pixels):
    """The deepest of an EfficientNetModel's states at each stride."""
    states = {}
    with torch.no_grad():
        for state in model(pixels, output_hidden_states=True).hidden_states:
            states[pixels.shape[-2] // state.shape[-2]] = state
    return [states[stride] for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize("padding", [[], [2]])
def test_lite_is_the_network_that_its_folder_stores(tmp_path, padding):
    model = _save(LITE, tmp_path, depthwise_padding=padding)
    backbone = load_backbone(str(tmp_path)).eval()
    assert isinstance(backbone.model, EfficientNetLite)
    assert not [name for name in backbone.state_dict() if "squeeze" in name or "top" in name]
    for size in ((64, 96), (96, 224)):
        images = torch.rand(2, 3, *size)
        wanted = _states_by_stride(model, (images - backbone.mean) / backbone.std)
        with torch.no_grad():
            for a, b in zip(backbone(images), wanted, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["a gate that works", "another activation"])
def test_an_efficientnet_with_working_gates_is_no_lite(tmp_path, change):
    if change == "another activation":
        _save(LITE, tmp_path, hidden_act="swish")
    else:
        _save(LITE, tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights["encoder.blocks.3.squeeze_excite.expand.bias"][0] = 1.0
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(str(tmp_path)).spec.model_type == "efficientnet"


@pytest.mark.parametrize(
    "change",
    [
        {"widths": (8, 8)},
        {"strides": (3,) * 3},
        {"kernels": (2,) * 3},
        {"repeats": (0,) * 3},
        {"stem": 8.0},
        {"widths": [8, 8, 8]},
    ],
)
def test_lite_of_impossible_sizes_is_refused(change):
    sizes = dict(stem=8, widths=(8,) * 3, repeats=(1,) * 3, strides=(2,) * 3, kernels=(3,) * 3, expansions=(1,) * 3)
    assert LiteConfig.from_json(LiteConfig(**sizes).to_json()) == LiteConfig(**sizes)
    with pytest.raises(ValueError, match=r"must be|every stage needs"):
        LiteConfig(**sizes | change)


def _published(name):
    root = os.environ.get("ICCLD_REAL_ENCODERS")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"ICCLD_REAL_ENCODERS names no folder that holds {name}")
    return Path(root) / name


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_published_lite_weights_give_the_same_maps(name):
    folder = _published(name)
    backbone = load_backbone(str(folder)).eval()
    assert backbone.spec.model_type == LITE
    assert backbone.spec.mean == pytest.approx((127 / 255,) * 3)
    model = hf.EfficientNetModel.from_pretrained(folder, local_files_only=True).eval()
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        for a, b in zip(
            backbone(images), _states_by_stride(model, (images - backbone.mean) / backbone.std), strict=True
        ):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_published_mobilenet_weights_load():
    assert load_backbone(str(_published("mobilenet_v2_imagenet"))).channels == (24, 32, 96, 320)
