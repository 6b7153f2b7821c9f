"""Model files: whole or refused, and enough by themselves."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from iccld_cli import __version__
from iccld_cli.checkpoint import load_segmenter, save_segmenter, tensors_digest
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.labels import LabelSpace
from iccld_cli.models.backbones import BackboneSpec

SPACE = LabelSpace("five", ("road", "sky", "car", "tree", "pole"), tuple((i, i, i) for i in range(5)))


@pytest.fixture
def header(small_config):
    return ModelHeader(
        stage="stage2",
        config=small_config("run.seed=11"),
        label_space=SPACE,
        classes=(0, 2),
        datasets=[{"role": "source", "name": "carla", "path": "data/carla", "digest": "ab12"}],
        iterations=40,
        metrics={"miou": 12.5},
    )


@pytest.fixture
def saved(tmp_path, small_segmenter, header):
    path = tmp_path / "stage2.safetensors"
    save_segmenter(path, small_segmenter(), header)
    return path


def rewrite(path, change_tensors=None, change_header=None, seal=True):
    """Write the file anew with other contents, by safetensors alone."""
    with safe_open(path, framework="pt") as file:
        raw = json.loads(file.metadata()["iccld"])
    tensors = load_file(path)
    if change_tensors:
        change_tensors(tensors)
    if seal:
        raw["sha256"] = tensors_digest(tensors)
    if change_header:
        change_header(raw)
    save_file(tensors, path, metadata={"iccld": json.dumps(raw)})


def test_round_trip(saved, small_segmenter, header):
    model, read = load_segmenter(saved)
    original = small_segmenter().state_dict()
    assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())
    assert not model.training
    for name in ("stage", "config", "label_space", "classes", "datasets", "iterations", "metrics"):
        assert getattr(read, name) == getattr(header, name)
    images = torch.rand(1, 3, 33, 65)
    assert torch.equal(model.probabilities(images), small_segmenter().probabilities(images))


def test_the_header_is_the_documented_one(saved):
    with safe_open(saved, framework="pt") as file:
        raw = json.loads(file.metadata()["iccld"])
        names = list(file.keys())
    assert raw["format_version"] == 1
    assert raw["stage"] == "stage2"
    assert raw["config"]["run"]["seed"] == 11
    assert raw["label_space"]["name"] == "five"
    assert raw["classes"] == ["road", "car"]
    assert raw["datasets"][0] == {"role": "source", "name": "carla", "path": "data/carla", "digest": "ab12"}
    assert raw["iterations"] == 40
    assert raw["metrics"] == {"miou": 12.5}
    assert raw["tool_version"] == __version__
    assert raw["backbone"] is None
    assert raw["sha256"] == tensors_digest(load_file(saved))
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder", "denoiser"}


def test_reading_the_header_alone(saved, header):
    assert read_header(saved).config == header.config


def test_saving_twice_gives_the_same_bytes(saved, small_segmenter, header, tmp_path):
    save_segmenter(tmp_path / "again.safetensors", small_segmenter(), header)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_a_stage_1_file_has_no_denoiser(tmp_path, small_segmenter, small_config):
    header = ModelHeader("stage1", small_config(), SPACE, (0, 1))
    save_segmenter(tmp_path / "s.safetensors", small_segmenter(denoiser=False), header)
    assert load_segmenter(tmp_path / "s.safetensors")[0].denoiser is None


def test_half_precision_round_trip(saved, small_segmenter, header, tmp_path):
    path = tmp_path / "half.safetensors"
    save_segmenter(path, small_segmenter(), header, half=True)
    assert path.stat().st_size < 0.65 * saved.stat().st_size  # the header with its JSON is a good part of these
    assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}
    model, _ = load_segmenter(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    original = small_segmenter().state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, original[name].half().float()), name


def test_values_beyond_half_precision_are_refused(small_segmenter, header, tmp_path):
    model = small_segmenter()
    model.decoder.classify.bias.data[0] = 1e6
    with pytest.raises(IccldError, match=r"decoder\.classify\.bias is not finite"):
        save_segmenter(tmp_path / "half.safetensors", model, header, half=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_not_written(small_segmenter, header, tmp_path, value):
    model = small_segmenter()
    model.decoder.classify.bias.data[0] = value
    with pytest.raises(IccldError, match=r"decoder\.classify\.bias is not finite"):
        save_segmenter(tmp_path / "m.safetensors", model, header)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_finite_is_refused(saved):
    def poison(tensors):
        tensors["decoder.classify.bias"][0] = float("nan")

    rewrite(saved, poison)
    with pytest.raises(IccldError, match="not finite"):
        load_segmenter(saved)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9999])
def test_one_flipped_bit_is_noticed(saved, where):
    raw = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start + int(where * (len(raw) - start))] ^= 1
    saved.write_bytes(raw)
    with pytest.raises(IccldError, match="damaged"):
        load_segmenter(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(IccldError, match="not a readable safetensors file"):
        load_segmenter(saved)


def test_an_exchanged_tensor_is_noticed(saved):
    def swap(tensors):
        tensors["decoder.merge.1.weight"], tensors["decoder.refine.1.weight"] = (
            tensors["decoder.refine.1.weight"] + 1,
            tensors["decoder.merge.1.weight"],
        )

    rewrite(saved, swap, seal=False)
    with pytest.raises(IccldError, match="do not match its checksum"):
        load_segmenter(saved)


def test_a_file_of_another_program_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(IccldError, match="not an iccld model file"):
        load_segmenter(tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(IccldError, match="not an iccld model file"):
        load_segmenter(tmp_path / "bare.safetensors")


class _Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_pickle_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(IccldError, match="not a readable safetensors file"):
        load_segmenter(tmp_path / "m.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(IccldError, match="not a readable safetensors file"):
        load_segmenter(tmp_path / "m.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(IccldError, match=r"no model file at .*: give a \.safetensors file"):
            load_segmenter(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(format_version=2), "model format 2 is not supported"),
        (lambda raw: raw.pop("config"), "header of .* is damaged"),
        (lambda raw: raw.pop("format_version"), "header of .* is damaged"),
        (lambda raw: raw.update(iterations="many"), "header of .* is damaged"),
        (lambda raw: raw["config"].update(new_section={}), "unknown configuration key"),
        (lambda raw: raw.update(classes=["roads"]), "did you mean 'road'"),
        (lambda raw: raw.update(stage="stage7"), "header of .* is damaged"),
        (lambda raw: raw["label_space"]["classes"].pop(), "unknown class|does not fit"),
        (lambda raw: raw["config"]["model"].update(decoder_channels=16), "does not fit its own configuration"),
        (lambda raw: raw.update(stage="stage1"), "does not fit its own configuration"),
        (lambda raw: raw.update(backbone={"model_type": "swin"}), "encoder described in .* cannot be built"),
        (
            lambda raw: raw.update(backbone={"model_type": "nope", "config": {}, "mean": [0] * 3, "std": [1] * 3}),
            "encoder described in .* cannot be built",
        ),
    ],
)
def test_a_header_that_does_not_fit_is_refused(saved, change, words):
    rewrite(saved, change_header=change)
    with pytest.raises(IccldError, match=words) as caught:
        load_segmenter(saved)
    assert str(saved) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"a"'])
def test_a_header_that_is_no_object_is_refused(saved, text):
    save_file(load_file(saved), saved, metadata={"iccld": text})
    with pytest.raises(IccldError, match=r"header of .* is damaged"):
        read_header(saved)


def test_missing_and_superfluous_tensors_are_refused(saved):
    rewrite(saved, lambda tensors: tensors.pop("decoder.classify.bias"))
    with pytest.raises(IccldError, match="does not fit its own configuration"):
        load_segmenter(saved)


def test_digest_sees_names_types_shapes_and_values():
    base = {"a": torch.arange(4.0), "b": torch.zeros(2, 3)}
    digests = {
        tensors_digest(t)
        for t in (
            base,
            {"a": base["b"], "b": base["a"]},
            {**base, "a": torch.arange(4)},
            {**base, "b": torch.zeros(3, 2)},
            {**base, "a": torch.tensor([0.0, 1.0, 2.0, 3.1])},
        )
    }
    assert len(digests) == 5
    assert tensors_digest(base) == tensors_digest({"b": base["b"].clone(), "a": torch.arange(8.0)[:4]})
    assert tensors_digest({"a": torch.tensor(3), "e": torch.zeros(0)})
    assert tensors_digest({"a": torch.zeros(2, dtype=torch.bfloat16)})


def test_a_transposed_view_is_its_values():
    x = torch.rand(3, 4)
    assert tensors_digest({"a": x.t()}) == tensors_digest({"a": x.t().contiguous()})


def test_the_file_can_be_read_by_those_who_may_read_new_files(saved, tmp_path):
    (tmp_path / "new").touch()
    assert saved.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_the_file_does_not_say_where_the_encoder_came_from():
    spec = BackboneSpec(
        "mobilenet_v2", {"_name_or_path": "/home/me/weights", "depth_multiplier": 1.0}, (0.5,) * 3, (0.5,) * 3
    )
    assert "/home/me" not in json.dumps(spec.to_json())
