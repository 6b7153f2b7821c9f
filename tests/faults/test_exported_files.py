"""Exported model files that were made to harm: nothing beside them is opened, nothing runs for ever."""

import importlib.util
import os

import pytest
from factories import make_model

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.inference.export import export
from iccld_cli.inference.model import Sampling, find_model, load_model

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino")),
    reason="the export extra is not installed",
)
SECRET = "secret.bin"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A sound model: the bytes of its `.onnx`, `.xml` and `.bin`."""
    folder = tmp_path_factory.mktemp("exported")
    model = load_segmenter(make_model(folder / "m.safetensors", "stage1"))  # a UNet would only make it slow
    found = {}
    for kind, suffixes in (("onnx", ["onnx"]), ("openvino", ["xml", "bin"])):
        export(*model, folder / f"m.{suffixes[0]}", kind, size=(64, 48))
        found |= {suffix: (folder / f"m.{suffix}").read_bytes() for suffix in suffixes}
    return found


def onnx_of(data, change):
    import onnx

    model = onnx.load_from_string(data)
    change(model, onnx.helper)
    return model.SerializeToString()


def varint(number):
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def field(number, data, above=0):
    """A field of bytes; `above` is added to its key, beyond the 32 bits that protobuf reads."""
    return varint((number << 3 | 2) + above) + varint(len(data)) + data


def with_hidden_file(data):
    """The first tensor lies in another file, which keys say that only protobuf reads as such."""
    import onnx

    model, above = onnx.load_from_string(data), 1 << 32
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    assert size
    tensor.ClearField("raw_data")
    place = [
        field(1, key) + field(2, value) for key, value in ((b"location", SECRET.encode()), (b"length", b"%d" % size))
    ]
    raw = tensor.SerializeToString() + b"".join(field(13, entry, above) for entry in place)
    raw += varint((14 << 3) + above) + b"\1"
    del model.graph.initializer[0]
    graph = model.graph.SerializeToString() + field(5, raw)
    model.ClearField("graph")
    return model.SerializeToString() + field(7, graph)


def first_input(model, name):
    """Everything that took the image takes another tensor."""
    for node in model.graph.node:
        node.input[:] = [name if given == model.graph.input[0].name else given for given in node.input]


def endless(model, helper):
    value = lambda name, kind: helper.make_tensor_value_info(name, kind, [] if kind != 1 else None)  # noqa: E731
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body", [value("i", 7), value("go", 9), value("x", 1)], [value("on", 9), value("y", 1)],
    )  # fmt: skip
    model.graph.initializer.append(helper.make_tensor("times", 7, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("yes", 9, [], [True]))
    image = model.graph.input[0].name
    first_input(model, "looped")
    model.graph.node.insert(0, helper.make_node("Loop", ["times", "yes", image], ["looped"], body=body))


def doubled(model, helper):
    """Functions each of which calls the one before it twice."""
    model.opset_import.append(helper.make_opsetid("own", 1))
    for number in range(40):
        inner = ("Relu", "") if number == 0 else (f"f{number - 1}", "own")
        nodes = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("x", "m"), ("m", "y"))]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"f{number}", ["x"], ["y"], nodes, opsets))
    image = model.graph.input[0].name
    first_input(model, "much")
    model.graph.node.insert(0, helper.make_node("f39", [image], ["much"], domain="own"))


def huge(model, helper):
    model.graph.initializer.append(helper.make_tensor("shape", 7, [1], [2**50]))
    image = model.graph.input[0].name
    first_input(model, "added")
    for node in (
        helper.make_node("Add", [image, "sum"], ["added"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
    ):
        model.graph.node.insert(0, node)


ONNX = {
    "a name hidden beyond 32 bits": (with_hidden_file, "is no ONNX file"),
    "an endless loop": (lambda data: onnx_of(data, endless), "graphs within graphs"),
    "functions that double": (lambda data: onnx_of(data, doubled), "functions of its own"),
    "a tensor of 4 PiB": (lambda data: onnx_of(data, huge), "cannot be run"),
    "operators of elsewhere": (
        lambda data: onnx_of(data, lambda m, h: m.graph.node.append(h.make_node("X", ["image"], ["z"], domain="evil"))),
        "cannot be run",
    ),
    "another opset": (lambda data: onnx_of(data, lambda m, h: setattr(m.opset_import[0], "version", 999)), "cannot"),
    "an output renamed": (lambda data: onnx_of(data, lambda m, h: setattr(m.graph.output[0], "name", "z")), "cannot"),
    "nothing": (lambda data: b"", "does not say what its classes are"),
    "noise": (lambda data: bytes(range(256)) * 9, "is not an ONNX file"),
}  # fmt: skip


@pytest.mark.parametrize("what", ONNX)
def test_an_onnx_file_that_was_made_to_harm(files, tmp_path, monkeypatch, capfd, what):
    change, words = ONNX[what]
    monkeypatch.chdir(tmp_path)  # where a runtime looks for what a model of bytes names
    os.mkfifo(SECRET)  # whoever opens it waits for ever
    (tmp_path / "m.onnx").write_bytes(change(files["onnx"]))
    with pytest.raises(IccldError, match=words) as caught:
        load_model(tmp_path / "m.onnx")
    assert "m.onnx" in str(caught.value)
    assert capfd.readouterr() == ("", "")  # the runtime keeps its own lines to itself


def outside(model, helper):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value=SECRET)


def bomb():
    lines = [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 20)]
    return f'<!DOCTYPE n [<!ENTITY a0 "aaaa">{"".join(lines)}]><net name="&a19;"/>'.encode()


XML = {
    "an ONNX file with a tensor elsewhere": (lambda files: onnx_of(files["onnx"], outside), "it is n"),
    "an ONNX file": (lambda files: files["onnx"], "it is n"),
    "entities that grow": (lambda files: bomb(), "document type"),
    "an entity of another file": (
        lambda files: b'<!DOCTYPE n [<!ENTITY x SYSTEM "secret.bin">]><net name="&x;"/>', "document type",
    ),
    "a loop": (lambda files: files["xml"].replace(b"<layers>", b"<layers><layer><body/></layer>", 1), "within graphs"),
    "another root": (lambda files: b"<html/>", "no OpenVINO graph"),
    "depth": (lambda files: b"<net>" + b"<a>" * 100_000, "nested too deeply"),
    "other letters": (lambda files: files["xml"].decode().encode("utf-16"), "not UTF-8"),
    "weights beyond it": (lambda files: files["xml"].replace(b'offset="0"', b'offset="99999999"', 1), "Incorrect"),
    "an unknown layer": (lambda files: files["xml"].replace(b'"Convolution"', b'"Evil"', 1), "Evil"),
    "nothing": (lambda files: b"", "it is no XML"),
}  # fmt: skip


@pytest.mark.parametrize("what", XML)
def test_an_openvino_file_that_was_made_to_harm(files, tmp_path, monkeypatch, what):
    change, words = XML[what]
    monkeypatch.chdir(tmp_path)
    os.mkfifo(SECRET)
    (tmp_path / "m.bin").write_bytes(files["bin"])
    (tmp_path / "m.xml").write_bytes(change(files))
    with pytest.raises(IccldError, match=words) as caught:
        load_model(tmp_path / "m.xml")
    assert "m.xml" in str(caught.value)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.bin"])
def test_a_file_beyond_any_model_is_not_read(files, tmp_path, name):
    for suffix in ("xml", "bin"):
        (tmp_path / f"m.{suffix}").write_bytes(files[suffix])
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 1 << 40)
    with pytest.raises(IccldError, match="is larger than 4096 MiB"):
        load_model(tmp_path / name.replace("bin", "xml"))


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "long", "zero byte"])
def test_a_path_that_no_model_has(tmp_path, kind):
    path = tmp_path / "m.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind in ("device", "loop"):
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(IccldError, match=r"named pipe|device|loop of links|no model file at"):
        find_model({"long": "a" * 5000, "zero byte": "a\0b"}.get(kind, path))


@pytest.mark.parametrize("wrong", [{"steps": 1.5}, {"seed": 0.5}, {"samples": 2.0}, {"height": "64"}, {"seed": True}])
def test_sampling_takes_whole_numbers(wrong):
    with pytest.raises(IccldError, match="give a whole number"):
        Sampling(**wrong)
