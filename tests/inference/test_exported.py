"""Exported files behind the door of every model: the same answers, the same legend, and nothing read but themselves."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from factories import CLASSES, make_dataset, make_model, scene

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.inference.evaluate import Scope, evaluate
from iccld_cli.inference.export import export, sensitive_to_int8, usual_size
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.inference.onnxfile import read_notes
from iccld_cli.inference.runtimes import import_openvino

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino")),
    reason="the export extra is not installed",
)
EVERYTHING = ("confidence", "uncertainty", "probabilities")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors", levels=1)


@pytest.fixture(scope="module")
def files(original, tmp_path_factory):
    """The model as ONNX and as OpenVINO, for 64x48, with 2 steps and seed 3."""
    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for kind, suffix in SUFFIXES.items():
        found[kind] = folder / kind / f"m{suffix}"
        export(*load_segmenter(original), found[kind], kind, size=(64, 48), steps=2, seed=3)
    return found


@pytest.fixture
def frames():
    return np.stack([scene(number, 64, 48)[0] for number in range(2)])


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_answers_as_the_original_and_describes_itself(files, original, frames, kind):
    model, torch_model = load_model(files[kind]), load_model(original)
    assert (model.backend, model.precision, model.device) == (kind, "fp32", "cpu")
    header = model.header
    assert header.classes == CLASSES
    assert header.label_space == torch_model.header.label_space
    assert header.config == torch_model.header.config
    assert header.working_height == 48
    assert model.settle(Sampling()) == Sampling(steps=2, seed=3, height=48)
    wanted = torch_model.segment(frames, EVERYTHING, sampling=Sampling(steps=2, seed=3, height=0))
    got = model.segment(frames, EVERYTHING)
    for name in EVERYTHING:
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-4)
        assert getattr(got, name).dtype == np.float32
    assert (got.labels == wanted.labels).mean() > 0.999
    assert got.labels.dtype == np.uint8


def test_an_openvino_file_answers_from_its_logits_as_from_its_probabilities(files, frames):
    """The first are a quarter of the size, and the rest of the graph is neither run nor compiled for them."""
    model = load_model(files["openvino"])
    found = model.segment(frames, EVERYTHING)
    ((logits,), _) = model.logits(frames)
    assert logits.values.shape == (len(model.header.label_space), 64 // 4, 64 // 4)  # it sees multiples of 32
    assert model.run._compiled is None
    model.coarse = None
    wanted = model.segment(frames, EVERYTHING)
    assert (found.labels == wanted.labels).mean() > 0.999
    for name in EVERYTHING:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_frames_of_other_sizes_are_resized_and_labels_come_back_at_theirs(files, kind):
    model = load_model(files[kind])
    large = np.repeat(np.repeat(scene(0, 64, 48)[0][None], 2, axis=1), 2, axis=2)  # (1, 96, 128, 3)
    got = model.segment(large, ["probabilities"])
    assert got.labels.shape == (1, 96, 128)
    small = model.segment(large, ["probabilities"], size=(48, 64)).probabilities
    logits = torch.from_numpy(small).clamp(min=1e-30).log()
    expected = torch.nn.functional.interpolate(logits, (96, 128), mode="bilinear").softmax(1).numpy()
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(steps=1), "its steps is 2: leave --steps out"),
        (Sampling(seed=0), "its seed is 3"),
        (Sampling(height=96), "its height is 48"),
        (Sampling(samples=2), "cannot do samples"),
        (Sampling(scales=(1, 1.5)), "cannot do scales"),
        (Sampling(flip=True), "cannot do flip"),
        (Sampling(average=True), "cannot do average"),
    ],
)
def test_what_a_graph_has_not_got_is_refused_by_name(files, sampling, words):
    with pytest.raises(IccldError, match=words):
        load_model(files["onnx"]).segment(np.zeros((1, 48, 64, 3), np.uint8), sampling=sampling)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_data_set_is_scored_on_the_files_own_classes(files, original, tmp_path, kind):
    data = PreparedDataset(make_dataset(tmp_path / "camvid"))
    ours = evaluate(load_model(original), data, Scope(), Sampling(steps=2, seed=3)).to_json()
    its = evaluate(load_model(files[kind]), data, Scope()).to_json()
    assert its["subset"] == ours["subset"] == ["road", "building", "sky", "car"]
    assert its["miou"] == pytest.approx(ours["miou"], abs=0.2)
    assert (its["backend"], its["steps"], its["seed"], its["height"]) == (kind, 2, 3, 48)


def test_the_usual_size_is_of_the_trained_height(original):
    header = load_segmenter(original)[1]
    assert usual_size(header) == (1024, 512)
    assert usual_size(dataclasses.replace(header, height=360)) == (640, 360)


def test_an_exported_file_is_used_without_torch(files, tmp_path):
    code = (
        "import sys, numpy as np; from iccld_cli import load; assert 'numpy' in sys.modules; "
        f"model = load({str(files['onnx'])!r}); model.predict(np.zeros((48, 64, 3), np.uint8)).overlay(); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def damaged(path, change):
    """Write an ONNX file anew, changed by onnx itself."""
    import onnx

    model = onnx.load(path)
    change(model)
    return model.SerializeToString()


def test_tensors_in_other_files_are_refused(files, tmp_path):
    import onnx

    copy = tmp_path / "m.onnx"
    for where in ("initializer", "constant", "subgraph"):

        def outside(model, where=where):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(model.graph.initializer[0])
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../secret")
            if where == "initializer":
                model.graph.initializer[0].CopyFrom(tensor)
                return
            node = onnx.helper.make_node("Constant", [], ["aside"], value=tensor)
            if where == "subgraph":
                node = onnx.helper.make_node(
                    "If", ["aside"], ["x"], then_branch=onnx.helper.make_graph([node], "g", [], [])
                )
            model.graph.node.append(node)

        copy.write_bytes(damaged(files["onnx"], outside))
        with pytest.raises(IccldError, match=r"keeps tensors in other files|graphs within graphs"):
            load_model(copy)


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_file_cut_off_or_of_another_kind_is_one_error(files, tmp_path, where):
    data = files["onnx"].read_bytes()
    cut = {"start": b"no onnx at all", "middle": data[: len(data) // 2], "end": data[:-1]}[where]
    (tmp_path / "m.onnx").write_bytes(cut)
    with pytest.raises(IccldError, match=r"m\.onnx"):
        load_model(tmp_path / "m.onnx")


def test_a_header_from_anywhere_is_checked(files, tmp_path):
    notes = json.loads(read_notes(files["onnx"].read_bytes())["iccld"])

    def written(change):
        raw = json.loads(json.dumps(notes))
        change(raw)

        def put(model):
            model.metadata_props[0].value = json.dumps(raw)

        (tmp_path / "m.onnx").write_bytes(damaged(files["onnx"], put))
        return tmp_path / "m.onnx"

    for change, words in (
        (lambda raw: raw.pop("export"), "does not say which size"),
        (lambda raw: raw["export"].update(size=[0, 48]), "width is no possible number"),
        (lambda raw: raw["export"].update(steps=-1), "steps is no possible number"),
        (lambda raw: raw["export"].update(size=[96, 64]), "cannot be run|returns the shape"),
        (lambda raw: raw.update(classes=["zebra"]), "zebra"),
        (lambda raw: raw.pop("label_space"), "label_space"),
    ):
        with pytest.raises(IccldError, match=words):
            load_model(written(change))
    bare = damaged(files["onnx"], lambda model: model.ClearField("metadata_props"))
    (tmp_path / "m.onnx").write_bytes(bare)
    with pytest.raises(IccldError, match="does not say what its classes are"):
        load_model(tmp_path / "m.onnx")


def test_an_openvino_file_needs_the_weights_beside_it(files, tmp_path):
    (tmp_path / "m.xml").write_bytes(files["openvino"].read_bytes())
    with pytest.raises(IccldError, match=r"weights .*m\.bin.* are missing"):
        load_model(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"")
    with pytest.raises(IccldError, match=r"m\.xml cannot be run"):
        load_model(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_text("<net")
    with pytest.raises(IccldError, match=r"m\.xml cannot be run"):
        load_model(tmp_path / "m.xml")


def test_another_device_is_refused(files):
    with pytest.raises(IccldError, match="runs on the CPU"):
        load_model(files["onnx"], "cuda")


@pytest.fixture(scope="module")
def any_size(original, tmp_path_factory):
    """The model as ONNX for any size, with 1 step and seed 3; one of stage 1 as OpenVINO; and their originals."""
    folder = tmp_path_factory.mktemp("any size")
    stage1 = make_model(folder / "stage1.safetensors", "stage1")
    export(*load_segmenter(original), folder / "m.onnx", "onnx", size="dynamic", steps=1, seed=3)
    export(*load_segmenter(stage1), folder / "m.xml", "openvino", size="dynamic")
    return {"onnx": (folder / "m.onnx", original), "openvino": (folder / "m.xml", stage1)}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_for_any_size_answers_as_the_original_at_all_of_them(any_size, kind):
    path, its_original = any_size[kind]
    model, torch_model = load_model(path), load_model(its_original)
    assert model.header.export.size is None
    own = Sampling(steps=model.header.export.steps, seed=model.header.export.seed)
    for size in ((64, 48), (100, 80), (200, 33)):
        frame = scene(0, *size)[0][None]
        for how in (
            own,
            dataclasses.replace(own, height=96),
            dataclasses.replace(own, scales=(1, 0.5, 1.5), flip=True),
        ):
            wanted = torch_model.segment(frame, EVERYTHING, sampling=how)
            got = model.segment(frame, EVERYTHING, sampling=how)
            assert got.labels.shape == (1, size[1], size[0])
            assert (got.labels == wanted.labels).mean() > 0.99  # frames are resized as bytes, results twice
            for name in EVERYTHING:
                np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=0.02)
    assert model.settle(Sampling(seed=9)).seed == 9
    for how, words in ((Sampling(steps=2), "its steps is"), (Sampling(samples=2), "cannot do samples")):
        with pytest.raises(IccldError, match=words):
            model.segment(frame, sampling=how)


def test_other_programs_give_it_images_as_they_are(any_size):
    """Sides whose half is rounded to the even multiple, sides below one multiple, and those that fit."""
    import onnxruntime

    path, its_original = any_size["onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["image", "noise"]
    segmenter = load_segmenter(its_original)[0]
    for height, width in ((80, 112), (10, 33), (64, 96)):
        image = np.random.default_rng(5).random((1, 3, height, width), np.float32)
        rows, columns = segmenter.fitting_size(height, width)
        noise = seeded_noise((1, segmenter.config.model.latent_channels, rows // 8, columns // 8), 3)
        got = session.run(None, {"image": image, "noise": noise.numpy()})[0]
        wanted = segmenter.probabilities(torch.from_numpy(image), steps=1, seed=3).numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_header_of_any_size_from_anywhere_is_checked(any_size, tmp_path):
    notes = json.loads(read_notes(any_size["onnx"][0].read_bytes())["iccld"])
    assert notes["export"] == {"size": "dynamic", "multiple": 32, "strides": [8], "steps": 1, "seed": 3}
    for change, words in (
        ({"multiple": 0}, "multiple is no possible number"),
        ({"strides": [8] * 40}, "strides that cannot be"),
        ({"strides": [5]}, "strides that cannot be"),
        ({"strides": []}, "cannot be run"),
        ({"size": "any"}, "size is of type str"),
    ):
        raw = {**notes, "export": {**notes["export"], **change}}

        def put(model, raw=raw):
            model.metadata_props[0].value = json.dumps(raw)

        (tmp_path / "m.onnx").write_bytes(damaged(any_size["onnx"][0], put))
        with pytest.raises(IccldError, match=words):
            load_model(tmp_path / "m.onnx")


class Separable(torch.nn.Module):
    """An image through a first convolution, a block of MobileNet, a grouped convolution, a norm and a head."""

    def __init__(self):
        super().__init__()
        conv = torch.nn.Conv2d
        self.first = conv(3, 8, 3)
        self.expand = conv(8, 12, 1)
        self.depthwise = conv(12, 12, 3, groups=12)
        self.project = conv(12, 8, 1)
        self.grouped = conv(8, 16, 3, groups=2)
        self.other = conv(16, 16, 3, groups=16)
        self.norm = torch.nn.LayerNorm(16)
        self.head = conv(16, 5, 1)

    def forward(self, image):
        x = torch.relu(self.first((torch.nn.functional.interpolate(image, (32, 48), mode="bilinear") - 0.5) / 0.25))
        x = self.project(torch.nn.functional.relu6(self.depthwise(torch.nn.functional.silu(self.expand(x)))))
        x = self.other(torch.relu(self.grouped(x)))
        return self.head(self.norm(x.movedim(1, -1)).movedim(-1, 1))


def test_depthwise_convolutions_and_what_reads_them_stay_in_float(tmp_path):
    path, module = tmp_path / "m.onnx", Separable().eval()
    torch.onnx.export(module, (torch.rand(1, 3, 40, 60),), str(path), input_names=["image"], dynamo=True, verbose=False)
    model = import_openvino().convert_model(path)
    widths = {}  # (outputs, inputs of a group) of each convolution
    for op in model.get_ordered_ops():
        if "Convolution" in op.get_type_name():
            shape = list(op.input_value(1).get_shape())
            widths[op.get_friendly_name()] = (op.get_output_shape(0)[1], shape[-3])
    found = [widths[name] for name in sensitive_to_int8(model)]
    # first, depthwise, project, other; not expand, grouped, nor head, which reads a norm
    assert found == [(8, 3), (12, 1), (8, 12), (16, 1)]
    assert len(widths) == 7


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the int8 extra is not installed")
def test_int8_files_hold_those_convolutions_in_float_and_others_in_int8(original, tmp_path, frames):
    path = tmp_path / "m.xml"
    export(*load_segmenter(original), path, "openvino", size=(64, 48), precision="int8", frames=[*frames, *frames])
    model = import_openvino().Core().read_model(path)
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]

    def stored(op):
        """The type of a convolution's weights in the file."""
        while op.get_type_name() != "Constant":
            op = op.input_value(0 if op.get_type_name() != "Convolution" else 1).get_node()
        return op.get_element_type().get_type_name()

    kinds = {stored(op) for op in convolutions[1:]}
    assert stored(convolutions[0]) in ("f16", "f32")  # the first one after the image
    assert "i8" in kinds
