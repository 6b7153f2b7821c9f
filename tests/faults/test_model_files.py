"""A model file is data: crafted and damaged ones run nothing, reach for nothing, and end in one clear line."""

import ast
import json
import os
import resource
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from iccld_cli.checkpoint import check_segmenter, load_segmenter, save_segmenter, tensors_digest
from iccld_cli.errors import IccldError, explain_out_of_memory
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.labels import LabelSpace
from iccld_cli.models.build import build_segmenter

ROOT = Path(__file__).parents[2]
SPACE = LabelSpace("five", ("road", "sky", "car", "tree", "pole"), tuple((i, i, i) for i in range(5)))
DINO = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, patch_size=14, image_size=56)


@pytest.fixture(autouse=True)
def _no_network_and_no_questions(monkeypatch):
    """Any attempt to look up a name, to connect or to ask is an error of its own."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"reached for the network or the terminal: {args[:3]}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("builtins.input", refuse)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, small_segmenter, small_config):
    """Two sound model files: `tiny` of stage 2, and `dino` with an encoder of transformers."""
    root = tmp_path_factory.mktemp("models")
    header = ModelHeader(
        "stage2", small_config(), SPACE, (0, 2), [{"role": "source", "name": "a", "path": "data/a", "digest": "1"}], 40
    )
    save_segmenter(root / "tiny.safetensors", small_segmenter(), header)
    hf.Dinov2Model(hf.Dinov2Config(**DINO)).save_pretrained(root / "encoder")
    config = small_config(f"model.encoder={root / 'encoder'}")
    segmenter = build_segmenter(config, 5, denoiser=False, seed=1)
    save_segmenter(root / "dino.safetensors", segmenter, ModelHeader("stage1", config, SPACE, (0, 2)))
    for name in ("tiny", "dino"):
        load_segmenter(root / f"{name}.safetensors")  # what is imported once does not count as anyone's time below
    return root


@pytest.fixture
def craft(originals, tmp_path):
    """A function: name of an original, a change of its header -> a file with that header, otherwise sound."""

    def build(name, change, path=tmp_path / "m.safetensors"):
        with safe_open(originals / f"{name}.safetensors", framework="pt") as file:
            raw = json.loads(file.metadata()["iccld"])
        change(raw)
        save_file(load_file(originals / f"{name}.safetensors"), path, metadata={"iccld": json.dumps(raw)})
        return path

    return build


def refused(path, words, open_file=load_segmenter):
    with pytest.raises(IccldError, match=words) as caught:
        open_file(path)
    text = str(caught.value)
    assert str(path) in text
    assert len(text) < 700
    assert text.isprintable()
    return text


def trap(folder):
    """A folder as the hub has them, whose code leaves a mark when it is run."""
    folder.mkdir()
    code = f"open({str(folder.parent / 'ran')!r}, 'w')\nfrom transformers import *\n"
    (folder / "configuration_trap.py").write_text(code + "class TrapConfig(Dinov2Config):\n    model_type = 'trap'\n")
    (folder / "modeling_trap.py").write_text(code + "class TrapModel(Dinov2Model):\n    pass\n")
    auto_map = {"AutoConfig": "configuration_trap.TrapConfig", "AutoModel": "modeling_trap.TrapModel"}
    auto_map["AutoBackbone"] = "modeling_trap.TrapModel"
    (folder / "config.json").write_text(json.dumps({"model_type": "trap", "auto_map": auto_map, **DINO}))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    return {"_name_or_path": str(folder), "auto_map": auto_map}


# ---- what a header may name: nothing of it is followed -------------------------------------------------------------

IGNORED = {
    "code beside a local folder (auto_map)": lambda folder: trap(folder / "t"),
    "code on the hub (auto_map)": lambda _: {"auto_map": {"AutoBackbone": "somebody/repo--modeling.Model"}},
    "permission to run code": lambda folder: {**trap(folder / "t"), "trust_remote_code": True},
    "another place (_name_or_path)": lambda _: {"_name_or_path": "somebody/repo", "name_or_path": "somebody/repo"},
    "an attention kernel": lambda _: {"attn_implementation": "somebody/kernel"},
    "an attention kernel, privately": lambda _: {
        "_attn_implementation": "somebody/kernel",
        "_attn_implementation_internal": "somebody/kernel",
    },
    "an expert kernel": lambda _: {"experts_implementation": "somebody/kernel", "kernel_config": {"a": "somebody/b"}},
    "a quantiser": lambda _: {"quantization_config": {"quant_method": "awq", "modules_to_not_convert": ["x"]}},
    "a backbone on the hub": lambda _: {"backbone": "somebody/repo", "use_pretrained_backbone": True},
    "a timm backbone": lambda _: {"use_timm_backbone": True, "backbone": "resnet50", "backbone_kwargs": {"a": 1}},
    "a nested configuration": lambda _: {"backbone_config": {"model_type": "trap", "auto_map": {"AutoConfig": "a.B"}}},
    "other weights": lambda _: {"transformers_weights": "../../other.safetensors"},
    "fusion code": lambda _: {"fusion_config": {"a": "somebody/b"}, "per_layer_config": {"0": {"hidden_size": 9}}},
    "outputs of another kind": lambda _: {"return_dict": False, "output_attentions": True, "torchscript": True},
    "an odd type of numbers": lambda _: {"dtype": "complex64", "torch_dtype": "float8_e4m3fn"},
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_a_header_names_is_not_followed(craft, originals, tmp_path, what):
    names = IGNORED[what](tmp_path)
    path = craft("dino", lambda raw: raw["backbone"]["config"].update(names))
    wanted, _ = load_segmenter(originals / "dino.safetensors")
    model, _ = load_segmenter(path)
    images = torch.rand(1, 3, 40, 60)
    assert torch.equal(model.probabilities(images), wanted.probabilities(images))
    assert not (tmp_path / "ran").exists()


ARCHITECTURES = {
    "its own code": {"model_type": "trap", "config": {"auto_map": {"AutoConfig": "a.B"}}},
    "detr, whose backbone is a hub id": {
        "model_type": "detr",
        "config": {"backbone": "somebody/repo", "use_timm_backbone": False, "use_pretrained_backbone": True},
    },
    "maskformer, whose backbone is a hub id": {
        "model_type": "maskformer",
        "config": {"backbone_config": {"model_type": "swin", "_name_or_path": "somebody/repo"}},
    },
    "mask2former": {"model_type": "mask2former", "config": {"backbone": "somebody/repo"}},
    "dpt with a hybrid backbone": {"model_type": "dpt", "config": {"is_hybrid": True, "backbone": "somebody/repo"}},
    "upernet": {"model_type": "upernet", "config": {"backbone": "somebody/repo"}},
    "depth_anything": {"model_type": "depth_anything", "config": {"backbone": "somebody/repo"}},
    "timm": {"model_type": "timm_wrapper", "config": {"architecture": "resnet18"}},
    "a timm backbone": {"model_type": "timm_backbone", "config": {"backbone": "resnet50"}},
    "a language model": {"model_type": "bert", "config": {}},
    "an encoder of one size": {"model_type": "vit", "config": {}},
    "no type": {"config": {}},
    "a type that is a list": {"model_type": ["swin"], "config": {}},
    "a type that is a path": {"model_type": "/etc/passwd", "config": {}},
}


@pytest.mark.parametrize("what", ARCHITECTURES)
def test_an_architecture_that_is_not_on_the_list_is_refused(craft, what):
    refused(
        craft("dino", lambda raw: raw.update(backbone={"mean": [0] * 3, "std": [1] * 3, **ARCHITECTURES[what]})),
        "the encoder described in .* cannot be built .*(encoder type|no encoder type)",
    )


@pytest.mark.parametrize("encoder", ["somebody/repo", "timm/resnet18", "/etc", "../encoder", "FOLDER"])
def test_an_encoder_that_is_only_named_is_not_looked_for(craft, tmp_path, encoder):
    trap(tmp_path / "t")
    encoder = encoder.replace("FOLDER", str(tmp_path / "t"))
    for name in ("tiny", "dino"):
        path = craft(name, lambda raw: (raw.update(backbone=None), raw["config"]["model"].update(encoder=encoder)))
        refused(path, "does not describe its encoder")
        refused(path, "does not describe its encoder", check_segmenter)
    assert not (tmp_path / "ran").exists()


def test_online_with_every_yes_given_nothing_is_run_asked_or_looked_up(craft, tmp_path):
    # In a process of its own: without the offline mode that the other tests have, and with a piped "y" for questions.
    folder = tmp_path / "t"
    names = {**trap(folder), "trust_remote_code": True, "_attn_implementation": "somebody/kernel"}
    craft("dino", lambda raw: raw["backbone"]["config"].update(names), tmp_path / "a.safetensors")
    for letter, what in zip("bcdefgh", list(ARCHITECTURES)[:7], strict=True):
        spec = {"mean": [0] * 3, "std": [1] * 3, **ARCHITECTURES[what]}
        craft("dino", lambda raw, s=spec: raw.update(backbone=s), tmp_path / f"{letter}.safetensors")
    for letter, encoder in zip("ij", ("somebody/repo", str(folder)), strict=True):
        craft(
            "tiny", lambda raw, e=encoder: raw["config"]["model"].update(encoder=e), tmp_path / f"{letter}.safetensors"
        )
    code = """
        import builtins, socket, sys
        from pathlib import Path
        calls = []
        def note(*args, **kwargs):
            calls.append(repr(args)[:200])
            raise OSError("no network")
        socket.getaddrinfo = socket.socket.connect = socket.create_connection = note
        ask = builtins.input
        builtins.input = lambda *a: calls.append(repr(a)) or ask(*a)
        from iccld_cli.checkpoint import load_segmenter
        from iccld_cli.errors import IccldError
        for path in sorted(Path(sys.argv[1]).glob("?.safetensors")):
            try:
                load_segmenter(path)
                print(path.stem, "loaded")
            except IccldError as error:
                print(path.stem, error)
        print("calls", calls)
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_")) and k != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        input="y\n" * 100,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment | {"HF_HOME": str(tmp_path / "cache")},
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "calls []"
    assert [line.split()[0] for line in lines[:-1]] == list("abcdefghij")
    assert lines[0] == "a loaded"
    assert not (tmp_path / "ran").exists()


def test_the_command_ends_in_one_line_and_runs_nothing(craft, tmp_path):
    names = trap(tmp_path / "t")
    path = craft("dino", lambda raw: raw["backbone"].update(model_type="trap", config={**DINO, **names}))
    (tmp_path / "x.png").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "iccld_cli", "predict", tmp_path / "x.png", "--ckpt", path, "--out", tmp_path / "out"],
        input="y\n" * 100,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "internal error" not in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


# ---- sizes: compared before anything is allocated ------------------------------------------------------------------

SIZES = {
    "ten million UNet layers": ("tiny", "config.model.unet_layers", 10_000_000),
    "four million latent channels": ("tiny", "config.model.latent_channels", 4_000_000),
    "a quintillion time steps": ("tiny", "config.diffusion.train_timesteps", 10**18),
    "time steps of 4,000 digits": ("tiny", "config.diffusion.train_timesteps", 10**4000),
    "a wide encoder": ("tiny", "config.model.tiny_channels", [10**9] * 4),
    "a wide encoder within the limits": ("tiny", "config.model.tiny_channels", [4096] * 4),
    "a wide decoder": ("tiny", "config.model.decoder_channels", 8 * 10**8),
    "a wide decoder within the limits": ("tiny", "config.model.decoder_channels", 4096),
    "wide fusion": ("tiny", "config.model.fuse_channels", 10**9),
    "wide inter-coder features": ("tiny", "config.model.skip_channels", 10**12),
    "a deep UNet within the limits": ("tiny", "config.model.unet_layers", 16),
    "a UNet of 100,000 levels": ("tiny", "config.model.unet_channels", [16] * 100_000),
    "the largest UNet within the limits": ("tiny", "config.model.unet_channels", [4096] * 6),
    "negative channels": ("tiny", "config.model.tiny_channels", [-8, 8, 16, 16]),
    "a billion layers": ("dino", "backbone.config.num_hidden_layers", 10**9),
    "a thousand layers": ("dino", "backbone.config.num_hidden_layers", 1000),
    "a wide transformer": ("dino", "backbone.config.hidden_size", 99_998),
    "a wider transformer": ("dino", "backbone.config.hidden_size", 2 * 10**9),
    "a wide MLP": ("dino", "backbone.config.mlp_ratio", 90_000),
    "a large image": ("dino", "backbone.config.image_size", 99_000),
    "a larger image": ("dino", "backbone.config.image_size", 10**12),
    "many channels": ("dino", "backbone.config.num_channels", 100_000),
    "a list of a million": ("dino", "backbone.config.image_size", [1] * 1_000_000),
    "a stage that is none": ("dino", "backbone.out_indices", [0, 1, 2, 10**9]),
    "a million stages": ("dino", "backbone.out_indices", list(range(10**6))),
    "no patches": ("dino", "backbone.config.patch_size", 0),
    "no heads": ("dino", "backbone.config.num_attention_heads", 0),
    "a std of zero": ("dino", "backbone.std", [0, 1, 1]),
    "a mean of two": ("dino", "backbone.mean", [0, 1]),
    "256 classes": ("tiny", "label_space.classes", [{"name": str(i), "color": [0, 0, 0]} for i in range(256)]),
    "100 classes": ("tiny", "label_space.classes", [{"name": str(i), "color": [0, 0, 0]} for i in range(100)]),
}


def put(raw, dotted, value):
    *path, last = dotted.split(".")
    for part in path:
        raw = raw[part]
    raw[last] = value


@pytest.mark.parametrize("what", SIZES)
def test_sizes_are_compared_before_anything_is_allocated(craft, what):
    name, key, value = SIZES[what]
    sys.set_int_max_str_digits(0)
    try:
        path = craft(name, lambda raw: put(raw, key, value))
    finally:
        sys.set_int_max_str_digits(4300)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(path, "does not fit|cannot be built|not possible|is damaged|has 256 classes|unknown class")
    assert time.process_time() - start < 2  # alone and in a quiet machine: well under one
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


DEEP = {
    "swin of 4,000 layers": ("swin", {"depths": [1000] * 4}),
    "convnext of 4,000 layers": ("convnextv2", {"depths": [1024] * 4, "hidden_sizes": [8] * 4}),
    "swin with a window of 1,000": ("swin", {"window_size": 1000, "embed_dim": 8}),
    "a stretched EfficientNet": ("efficientnet", {"depth_coefficient": 1e9}),
    "a broad EfficientNet": ("efficientnet", {"width_coefficient": 1e9}),
    "a broad MobileNet": ("mobilenet_v2", {"depth_multiplier": 1e8}),
    "a padded PoolFormer": ("poolformer", {"padding": [60_000] * 4}),
    "lite with a million blocks": (
        "efficientnet_lite",
        dict(stem=8, widths=[8], repeats=[100_000], strides=[2], kernels=[3], expansions=[1]),
    ),
    "lite without sizes": ("efficientnet_lite", {}),
    "an activation by name": ("convnextv2", {"hidden_act": "somebody/kernel"}),
    "an unknown activation": ("convnextv2", {"hidden_act": "explode"}),
    "layers that are words": ("convnextv2", {"depths": ["a", "b", "c", "d"]}),
    "layers that are an object": ("convnextv2", {"depths": {"a": 1}}),
    "a configuration that is a list": ("convnextv2", []),
}


@pytest.mark.parametrize("what", DEEP)
def test_sizes_of_an_encoder_are_compared_too(craft, what):
    model_type, config = DEEP[what]
    spec = {"model_type": model_type, "config": config, "mean": [0] * 3, "std": [1] * 3}
    path = craft("dino", lambda raw: raw.update(backbone=spec))
    importing = f"transformers.models.{model_type}"
    if model_type != "efficientnet_lite":
        __import__(f"{importing}.modeling_{'mobilenet_v2' if model_type == 'mobilenet_v2' else model_type}")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(path, "does not fit|cannot be built")
    assert time.process_time() - start < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


# ---- headers that are not what they should be ----------------------------------------------------------------------

WRONG = {
    "datasets is a number": ("datasets", 5),
    "datasets holds numbers": ("datasets", [1, 2]),
    "a data set without a role": ("datasets", [{"name": "a"}]),
    "a data set whose path is a number": ("datasets", [{"role": "source", "name": "a", "path": 5}]),
    "a data set whose path holds a zero byte": ("datasets", [{"role": "source", "name": "a", "path": "a\0b"}]),
    "datasets is null": ("datasets", None),
    "iterations is infinite": ("iterations", float("inf")),
    "iterations is no number": ("iterations", float("nan")),
    "iterations is negative": ("iterations", -1),
    "iterations is true": ("iterations", True),
    "iterations is beyond reason": ("iterations", 10**30),
    "metrics is a list": ("metrics", []),
    "metrics holds infinity": ("metrics", {"miou": float("-inf")}),
    "tool_version is a list": ("tool_version", []),
    "sha256 is no digest": ("sha256", "no"),
    "sha256 is null": ("sha256", None),
    "classes is a number": ("classes", 3),
    "classes holds lists": ("classes", [["road"]]),
    "config is a list": ("config", []),
    "a section is a number": ("config.model", 4),
    "a number is infinite": ("config.optim.lr", float("inf")),
    "a number is a word": ("config.model.latent_channels", "many"),
    "a colour is infinite": ("label_space.classes", [{"name": "road", "color": [float("inf"), 0, 0]}]),
    "a colour is out of range": ("label_space.classes", [{"name": "road", "color": [256, 0, 0]}]),
    "a colour is a word": ("label_space.classes", [{"name": "road", "color": "red"}]),
    "a class without a name": ("label_space.classes", [{"color": [0, 0, 0]}]),
    "a class name of a megabyte": ("label_space.classes", [{"name": "a" * 10**6, "color": [0, 0, 0]}]),
    "label_space is a word": ("label_space", "cityscapes"),
    "backbone is a word": ("backbone", "swin"),
    "stage is a list": ("stage", ["stage1"]),
    "a half surrogate pair": ("tool_version", "\ud800"),
    "format_version is a megabyte": ("format_version", "1" * 10**6),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_header_field_of_a_wrong_type_or_value(craft, what):
    path = craft("tiny", lambda raw: put(raw, *WRONG[what]))
    refused(path, "damaged|not possible|not supported|label space|unknown class", read_header)


def rewrite_text(originals, path, change):
    """The file with its `iccld` text changed, byte for byte."""
    raw = (originals / "tiny.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["iccld"] = change(header["__metadata__"]["iccld"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return path


TEXTS = {
    "deep JSON": lambda text: text.replace('"metrics": {}', '"metrics": ' + "[" * 100_000 + "]" * 100_000),
    "deep JSON that Python can parse": lambda text: text.replace('"metrics": {}', '"metrics": ' + "[" * 90 + "]" * 90),
    "a key twice": lambda text: text.replace('"stage"', '"stage": "stage1", "stage"', 1),
    "a number beyond floats": lambda text: text.replace('"iterations": 40', '"iterations": 1e999'),
    "a number of 5,000 digits": lambda text: text.replace('"iterations": 40', '"iterations": 1' + "0" * 5000),
    "a million lists": lambda text: text.replace('"metrics": {}', '"metrics": [' + "[]," * 1_000_000 + "[]]"),
    "nine million letters": lambda text: text.replace('"metrics": {}', '"metrics": {"a": "' + "a" * 9_000_000 + '"}'),
    "no JSON": lambda _: "hello",
    "JSON that is a list": lambda _: "[1]",
    "nothing": lambda _: "",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_header_text_that_is_no_sound_json(originals, tmp_path, what):
    path = rewrite_text(originals, tmp_path / "m.safetensors", TEXTS[what])
    refused(path, "damaged|not a readable safetensors file", read_header)


# ---- files that are not what they should be ------------------------------------------------------------------------


def pieces(originals):
    raw = (originals / "tiny.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return raw[8 : 8 + length], raw[8 + length :]


def joined(header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def _edit(change):
    def build(header, data):
        tree = json.loads(header)
        change(tree)
        return joined(tree, data)

    return build


def _overlap(tree):
    names = [name for name in tree if name != "__metadata__"]
    one, other = [name for name in names if tree[name]["shape"] == [8] and tree[name]["dtype"] == "F32"][:2]
    tree[other]["data_offsets"] = tree[one]["data_offsets"]


FILES = {
    "an empty file": lambda header, data: b"",
    "seven bytes": lambda header, data: b"\0" * 7,
    "a length beyond the file": lambda header, data: struct.pack("<Q", 2**63) + header + data,
    "a length of a terabyte": lambda header, data: struct.pack("<Q", 10**12) + header + data,
    "a cut header": lambda header, data: joined(header, data)[:200],
    "cut tensors": lambda header, data: joined(header, data)[:-100],
    "bytes too many": lambda header, data: joined(header, data) + b"more",
    "a header that is not UTF-8": lambda header, data: joined(header.replace(b"decoder.coarse", b"\xff\xfe", 1), data),
    "a header of deep JSON": lambda header, data: joined(b"[" * 200_000 + b"]" * 200_000, b""),
    "a header with NaN": lambda header, data: joined(header[:-1] + b', "a": NaN}', data),
    "a header that is a list": lambda header, data: joined(b"[]", b""),
    "metadata that are no texts": _edit(lambda tree: tree.update(__metadata__={"iccld": {"a": 1}})),
    "a tensor named twice": lambda header, data: joined(
        header[:-1]
        + b', "decoder.classify.bias": '
        + json.dumps(json.loads(header)["decoder.classify.bias"]).encode()
        + b"}",
        data,
    ),
    "two tensors of the same bytes": _edit(_overlap),
    "a tensor of negative size": _edit(lambda tree: tree["decoder.classify.bias"].update(shape=[-5])),
    "a tensor of an absurd size": _edit(lambda tree: tree["decoder.classify.bias"].update(shape=[2**40, 2**40])),
    "a tensor of true elements": _edit(lambda tree: tree["decoder.classify.bias"].update(shape=[True])),
    "a tensor of an unknown type": _edit(lambda tree: tree["decoder.classify.bias"].update(dtype="F33")),
    "a tensor whose type is a list": _edit(lambda tree: tree["decoder.classify.bias"].update(dtype=["F32"])),
    "a tensor that is a number": _edit(lambda tree: tree.update({"decoder.classify.bias": 3})),
    "a tensor without offsets": _edit(lambda tree: tree["decoder.classify.bias"].pop("data_offsets")),
    "offsets beyond the file": _edit(lambda tree: tree["decoder.classify.bias"].update(data_offsets=[0, 2**62])),
    "no tensors at all": lambda header, data: joined({"__metadata__": json.loads(header)["__metadata__"]}, b""),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_sound_safetensors(originals, tmp_path, what):
    path = tmp_path / "m.safetensors"
    path.write_bytes(FILES[what](*pieces(originals)))
    refused(path, "not a readable safetensors file|does not fit its own configuration")


CHANGES = {
    "a missing tensor": (lambda t: t.pop("decoder.classify.bias"), "decoder.classify.bias is missing"),
    "a tensor too many": (lambda t: t.update(evil=torch.zeros(1)), "'evil' is none of its tensors"),
    "a tensor under a name with control characters": (
        lambda t: t.update({"a\x1b[31m\n": torch.zeros(1)}),
        "is none of its tensors",
    ),
    "another shape": (lambda t: t.update({"decoder.classify.bias": torch.zeros(6)}), "has shape"),
    "whole numbers for weights": (
        lambda t: t.update({"decoder.classify.bias": torch.zeros(5, dtype=torch.int64)}),
        "is of type I64",
    ),
    "truth values for weights": (
        lambda t: t.update({"decoder.classify.bias": torch.zeros(5, dtype=torch.bool)}),
        "is of type BOOL",
    ),
    "fractions for a counter": (
        lambda t: t.update({"decoder.coarse.1.num_batches_tracked": torch.tensor(0.5)}),
        "is of type F32",
    ),
    "an infinite weight": (lambda t: t["decoder.classify.bias"].fill_(float("inf")), "not finite"),
    "a weight that is no number": (lambda t: t["decoder.classify.bias"].fill_(float("nan")), "not finite"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_tensors_that_are_not_the_models(originals, craft, tmp_path, what):
    change, words = CHANGES[what]
    tensors = load_file(originals / "tiny.safetensors")
    change(tensors)
    with safe_open(originals / "tiny.safetensors", framework="pt") as file:
        raw = json.loads(file.metadata()["iccld"])
    raw["sha256"] = tensors_digest(tensors)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"iccld": json.dumps(raw)})
    refused(path, words)


@pytest.mark.parametrize("where", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_one_flipped_byte_among_the_tensors(originals, tmp_path, where):
    header, data = pieces(originals)
    data = bytearray(data)
    data[int(where * (len(data) - 1))] ^= 0xFF
    path = tmp_path / "m.safetensors"
    path.write_bytes(joined(header, bytes(data)))
    refused(path, "do not match its checksum|not finite")


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_byte_in_the_header(originals, tmp_path, seed):
    header, data = pieces(originals)
    header = bytearray(header)
    header[(seed * 7919 + 13) % len(header)] ^= 1 + seed
    path = tmp_path / "m.safetensors"
    path.write_bytes(joined(bytes(header), data))
    try:
        load_segmenter(path)
    except IccldError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "link to itself"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "m.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path)
    refused(path, "no model file at")


def test_half_precision_and_sound_files_load(originals, tmp_path):
    for name in ("tiny", "dino"):
        model, header = load_segmenter(originals / f"{name}.safetensors")
        assert check_segmenter(originals / f"{name}.safetensors") == header
        save_segmenter(tmp_path / "half.safetensors", model, header, half=True)
        load_segmenter(tmp_path / "half.safetensors")


def test_opening_a_file_leaves_the_random_numbers_of_its_comparison_alone(originals):
    torch.manual_seed(3)
    check_segmenter(originals / "dino.safetensors")
    one = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(one, torch.rand(4))


# ---- any header at all ---------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, 2, 8, 64, 1000, 4096, 10**6]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["tiny", "somebody/repo", "/etc", "swin", "detr", "stage1", "\ud800", "\x1b[2J"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))


def leaves(tree, path=()):
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_header_loads_or_ends_in_one_line_and_soon(originals, craft, data):
    name = data.draw(st.sampled_from(["tiny", "dino"]))

    def change(raw):
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(list(leaves(raw))))
            place = raw
            for key in path[:-1]:
                place = place[key]
            if isinstance(place, dict) and data.draw(st.integers(0, 4)) == 0:
                place[data.draw(st.text(max_size=8))] = data.draw(VALUES)
            else:
                place[path[-1]] = data.draw(VALUES)

    path = craft(name, change)
    start = time.process_time()
    try:
        load_segmenter(path)
    except IccldError as error:
        assert len(str(error)) < 900
    assert time.process_time() - start < 3


# ---- nothing reports to anyone, and memory is named as what it is --------------------------------------------------


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    pytest.importorskip("openvino")
    code = """
        import socket, sys
        calls = []
        def note(*args, **kwargs):
            calls.append(repr(args)[:200])
            raise OSError("no network")
        socket.getaddrinfo = socket.socket.connect = socket.create_connection = note
        from iccld_cli.inference.runtimes import import_onnxruntime, import_openvino
        openvino = import_openvino()
        import_onnxruntime()
        import openvino.tools.ovc.convert_impl as convert, openvino.tools.ovc.telemetry_utils as utils
        loaded = [name for name, module in sys.modules.items() if "openvino_telemetry" in name and module is not None]
        print(loaded, utils.tm.__name__, convert.tm.__name__, calls)
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        timeout=300,
    )
    stub = "openvino.tools.ovc.telemetry_stub"
    assert done.stdout.strip() == f"[] {stub} {stub} []"
    assert not (tmp_path / "intel").exists()  # where it keeps a number for each user


def test_libraries_of_the_hub_are_loaded_with_their_telemetry_off(originals, tmp_path):
    """They read it when they are imported: setting it later has no effect."""
    code = """
        import socket, sys
        calls = []
        def note(*args, **kwargs):
            calls.append(repr(args)[:200])
            raise OSError("no network")
        socket.getaddrinfo = socket.socket.connect = socket.create_connection = note
        from iccld_cli.checkpoint import load_segmenter
        for path in sys.argv[1:]:
            load_segmenter(path)
        import diffusers.utils.hub_utils as hub, huggingface_hub.constants as constants, transformers.utils.hub as tr
        print(constants.HF_HUB_DISABLE_TELEMETRY, "telemetry/off" in hub.http_user_agent(), calls)
    """
    left_out = ("HF_", "TRANSFORMERS_", "DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "GITHUB_ACTIONS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, sorted(originals.glob("*.safetensors")))],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "True True []", done.stderr


def test_no_other_place_imports_these_runtimes():
    for path in (ROOT / "iccld_cli").rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
        assert path.name == "runtimes.py" or not names & {"openvino", "onnxruntime"}, path


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(2**60),
        lambda: torch.empty(2**62, 2**62),
        lambda: bytearray(2**60),
        lambda: __import__("numpy").empty((2**40, 2**30)),
        lambda: __import__("numpy").empty((2**40, 2**40, 2**40)),
        lambda: __import__("cv2").resize(__import__("numpy").zeros((4, 4, 3), "uint8"), (2**30, 2**30)),
    ],
    ids=["torch", "torch sizes", "bytes", "numpy", "numpy sizes", "opencv"],
)
def test_too_large_a_request_is_told_as_one(make):
    with pytest.raises(Exception) as caught:  # every library has its own
        make()
    told = explain_out_of_memory(caught.value)
    assert told is not None
    assert str(told).startswith("memory is not enough")
    assert explain_out_of_memory(RuntimeError("shapes do not match")) is None
