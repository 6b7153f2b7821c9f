"""OpenVINO for `.safetensors` files: its results against torch's, when it is chosen, and its cache."""

import json
import os
import re
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import training_runs
from factories import make_model, scene

from iccld_cli.errors import IccldError
from iccld_cli.inference import backends, cache, conversion, model
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.inference.openvino_model import OpenvinoModel, conversion_key, is_converted, resize_frame, streams
from iccld_cli.inference.runtimes import import_openvino
from iccld_cli.inference.torch_model import TorchModel

pytest.importorskip("openvino")

MAPS = ("confidence", "uncertainty", "probabilities")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model of stage 1, which takes less time to convert."""
    return make_model(tmp_path_factory.mktemp("plain") / "stage1.safetensors", "stage1")


@pytest.fixture(scope="module")
def fast(path):
    return load_model(path, backend="openvino")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICCLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def frames(size):
    return np.stack([scene(i, size[1], size[0])[0] for i in range(2)])


@pytest.mark.parametrize("size", [(64, 96), (128, 64)])
def test_results_are_torch_s(path, fast, size):
    wanted = load_model(path).segment(frames(size), MAPS)
    found = fast.segment(frames(size), MAPS)
    assert (fast.backend, fast.precision, fast.device) == ("openvino", "fp32", "cpu")
    for name in MAPS:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)
    assert (found.labels == wanted.labels).mean() > 0.999
    assert (fast.segment(frames(size)).labels == found.labels).mean() > 0.999


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=5),
        Sampling(height=96),
        Sampling(height=40),
        Sampling(flip=True),
        Sampling(scales=(1.0, 1.5)),
        Sampling(scales=(1.5, 1.0), flip=True),
        Sampling(scales=(1.0, 1.5), flip=True, average=True),
    ],
)
def test_every_way_of_sampling_is_torch_s(path, fast, sampling):
    given = frames((72, 100))
    wanted = load_model(path).segment(given, MAPS, sampling=sampling)
    found = fast.segment(given, MAPS, sampling=sampling)
    # The frame is resized in bytes here and in floats there: half a grey level.
    for name in MAPS:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=0.03)
    assert (found.labels == wanted.labels).mean() > 0.98
    small = fast.segment(given, ("confidence",), size=(20, 30), sampling=sampling)
    assert small.confidence.shape == (2, 20, 30)


@pytest.mark.parametrize(
    ("stage", "detail", "steps"), [("stage1", False, 0), ("stage2", True, 1), ("stage2", False, 3)]
)
def test_every_kind_of_model(tmp_path, stage, detail, steps):
    file = make_model(tmp_path / "m.safetensors", stage, seed=3, detail=detail)
    found = load_model(file, backend="openvino", sampling=Sampling(steps=steps))
    given, sampling = frames((128, 192)), Sampling(steps=steps, seed=2)
    wanted = load_model(file).segment(given, MAPS, sampling=sampling)
    np.testing.assert_allclose(
        found.segment(given, MAPS, sampling=sampling).probabilities, wanted.probabilities, atol=1e-4
    )
    with pytest.raises(IccldError, match=f"opened for {steps} steps"):
        found.settle(Sampling(steps=steps + 1))


@pytest.mark.parametrize("size", [(40, 52), (90, 130)])
def test_frames_are_resized_as_torch_resizes(size):
    frame = scene(0, 96, 64)[0]
    smaller = size[0] < 64
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    wanted = (
        torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=smaller)[0].permute(1, 2, 0).numpy()
    )
    found = resize_frame(frame, size, smaller).astype(float)
    assert np.abs(found - wanted).max() < (1.01 if smaller else 1.5)
    assert resize_frame(frame, (64, 96), False) is frame


def test_several_threads_at_a_time(fast):
    from concurrent.futures import ThreadPoolExecutor

    given = [frames((64, 32 * (2 + i % 3))) for i in range(12)]
    alone = [fast.segment(one, ("confidence",)) for one in given]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: fast.segment(one, ("confidence",)), given))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.confidence, b.confidence)
    assert [streams(n) for n in (1, 2, 4, 8, 64)] == [1, 2, 4, 4, 8]


def test_weights_that_overflow_are_told(fast, tmp_path):
    entry = cache.find(cache.cache_folder(), conversion_key(fast.path, None))
    text, weights = entry.graph.read_text(), bytearray(entry.graph.with_suffix(".bin").read_bytes())
    spans = [(int(n), int(at)) for at, n in re.findall(r'element_type="f32"[^>]* offset="(\d+)" size="(\d+)"', text)]
    for size, start in [span for span in spans if span[0] >= 64]:  # small ones are shared with sizes and axes
        weights[start : start + size] = np.full(size // 4, np.nan, np.float32).tobytes()
    (tmp_path / "graph.xml").write_text(text)
    (tmp_path / "graph.bin").write_bytes(weights)
    broken = OpenvinoModel(fast.path, fast.header, cache.Entry(tmp_path / "graph.xml", entry.facts))
    with pytest.raises(IccldError, match="not finite"):
        broken.segment(frames((64, 64)))


def test_auto_takes_the_fastest(plain, empty_cache, monkeypatch):
    said = []
    once = Sampling(once=True)
    assert (
        load_model(plain, backend="auto", sampling=once, tell=said.append).backend == "torch"
    )  # nothing converted yet
    answered = load_model(plain)
    backends.convert_for_next_time(plain, answered, once, said.append)
    assert len(said) == 1 and "next time" in said[0]
    backends.convert_for_next_time(plain, answered, once, said.append)  # it is there
    assert len(said) == 1
    chosen = load_model(plain, backend="auto", sampling=once, tell=said.append)
    assert (chosen.backend, chosen.parallel, len(said)) == ("openvino", 1, 1)
    assert load_model(plain, backend="auto", sampling=Sampling(samples=2)).backend == "torch"
    assert load_model(plain, backend="torch").backend == "torch"
    assert isinstance(load_model(plain), TorchModel)


def test_a_model_that_cannot_be_converted_runs_by_torch(plain, empty_cache, monkeypatch):
    """The comparison with torch is what decides; here no difference at all is allowed."""
    monkeypatch.setattr(conversion, "TOLERANCE", -1.0)
    said = []
    assert load_model(plain, backend="auto", tell=said.append).backend == "torch"
    assert "differ" in said[-1] and "torch does" in said[-1]
    with pytest.raises(IccldError, match=r"OpenVINO cannot run .*differ"):
        load_model(plain, backend="openvino")
    assert not [p for p in empty_cache.iterdir() if p.is_dir()]


def test_what_is_not_there_is_one_line(path, tmp_path, monkeypatch):
    for arguments, message in (
        ({"backend": "tensorrt"}, "there is no backend 'tensorrt'"),
        ({"backend": "onnx"}, r"is no \.onnx file"),
        ({"backend": "openvino", "sampling": Sampling(samples=3)}, "one noise sample"),
        ({"backend": "openvino", "sampling": Sampling(steps=5000)}, "5000 sampling steps are not possible"),
        ({"backend": "openvino", "device": "cuda"}, "runs on the CPU"),
    ):
        with pytest.raises(IccldError, match=message):
            load_model(path, **arguments)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IccldError, match="not installed"):
        load_model(path, backend="openvino")
    assert load_model(path, backend="auto").backend == "torch"


def test_a_converted_model_needs_no_torch(path, fast, tmp_path):
    np.save(tmp_path / "frames.npy", frames((64, 96)))
    code = (
        "import sys, numpy as np; from iccld_cli.inference.model import load_model; "
        f"m = load_model({str(path)!r}, backend='auto'); found = m.segment(np.load({str(tmp_path / 'frames.npy')!r})); "
        "assert m.backend == 'openvino'; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules); "
        f"np.save({str(tmp_path / 'labels.npy')!r}, found.labels)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (np.load(tmp_path / "labels.npy") == fast.segment(frames((64, 96))).labels).all()


def write_graph(part):
    for name in cache.FILES:
        (part / name).write_bytes(name.encode())
    return {"steps": 1}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("graph.bin", lambda data: data[:-1] + b"x"),
        ("graph.bin", lambda data: data[:3]),
        ("graph.xml", lambda data: b""),
        ("entry.json", lambda data: b"{"),
        ("entry.json", lambda data: b"[]"),
        ("entry.json", lambda data: json.dumps({"facts": {}, "sha256": {}}).encode()),
        ("entry.json", lambda data: data.replace(b'"steps": 1', b'"steps": 2')),
        ("entry.json", lambda data: b"[" * 100_000),
        ("graph.bin", None),
        ("entry.json", None),
    ],
)
def test_an_entry_that_was_changed_is_removed(tmp_path, name, change):
    file = cache.keep(tmp_path, "key", write_graph).graph.with_name(name)
    assert cache.find(tmp_path, "key").facts == {"steps": 1}
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    assert cache.find(tmp_path, "key") is None
    assert not (tmp_path / "key").exists()
    assert cache.keep(tmp_path, "key", write_graph) is not None


@pytest.mark.parametrize("kind", ["pipe", "endless link", "folder", "link", "file"])
def test_an_entry_of_other_kinds_of_files_is_not_opened(tmp_path, kind):
    folder = tmp_path / "models"
    folder.mkdir()
    entry = cache.keep(folder, "key", write_graph).graph.parent
    if kind in ("link", "file"):
        entry.rename(tmp_path / "elsewhere")
        entry.symlink_to(tmp_path / "elsewhere") if kind == "link" else entry.write_text("")
    else:
        file = entry / "graph.xml"
        file.unlink()
        {"pipe": lambda: os.mkfifo(file), "endless link": lambda: file.symlink_to("/dev/zero"), "folder": file.mkdir}[
            kind
        ]()
    assert cache.find(folder, "key") is None
    assert cache.keep(folder, "key", write_graph) is not None
    assert [p.name for p in folder.iterdir()] == ["key"]
    assert kind != "link" or sorted(os.listdir(tmp_path / "elsewhere")) == ["entry.json", "graph.bin", "graph.xml"]


def test_what_killed_conversions_left_goes(tmp_path):
    for name, age in ((".old.0000.part", 2), (".new.0000.part", 0.5)):
        (tmp_path / name).mkdir()
        then = time.time() - age * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    assert cache.keep(tmp_path, "key", write_graph) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [".new.0000.part", "key"]


def test_a_conversion_that_its_folder_does_not_take_is_used_all_the_same(plain, empty_cache, monkeypatch):
    openvino, save, refused = import_openvino(), import_openvino().save_model, []

    def full(model, path, **options):
        if empty_cache in path.parents:
            refused.append(path)
            raise RuntimeError("basic_ios::clear: iostream error")  # what OpenVINO says of a full disk
        save(model, path, **options)

    monkeypatch.setattr(openvino, "save_model", full)
    opened = load_model(plain, backend="openvino")
    assert opened.segment(frames((64, 64))).labels.shape == (2, 64, 64)
    assert refused and [p for p in empty_cache.iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("named", ["~nobody-of-this-name/x", "/proc/x", "FILE", "a" * 300, "b/" * 3000])
def test_a_cache_that_cannot_be_is_said(plain, tmp_path, monkeypatch, named):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICCLD_CACHE", str(tmp_path / "file") if named == "FILE" else named)
    assert cache.cache_folder() is None
    said = []
    backends.announce_conversion(said.append)
    assert "cannot be kept" in said[0] and "ICCLD_CACHE" in said[0]


def test_a_damaged_conversion_is_made_again(plain, empty_cache):
    OpenvinoModel.open(plain)
    (entry,) = [p for p in empty_cache.iterdir() if p.is_dir()]
    assert stat.S_IMODE(empty_cache.stat().st_mode) == 0o700
    (entry / "graph.bin").write_bytes(b"")
    said = []
    OpenvinoModel.open(plain, before_conversion=lambda: said.append("again"))
    OpenvinoModel.open(plain, before_conversion=lambda: said.append("again"))
    assert said == ["again"]


def test_another_model_is_another_conversion(path, tmp_path):
    """Whatever its header says: the shipped model's digest in another file's header does not lend it its graph."""
    other = make_model(tmp_path / "other.safetensors", seed=9)
    assert len({conversion_key(path, None), conversion_key(other, None), conversion_key(path, 2)}) == 3


def test_folders_that_are_not_for_us_are_left_alone(plain, tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    (foreign / "models").mkdir(parents=True)
    (foreign / "models").chmod(0o777)
    monkeypatch.setenv("ICCLD_CACHE", str(foreign))
    assert cache.cache_folder() is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICCLD_CACHE", str(tmp_path / "file"))
    assert cache.cache_folder() is None
    assert load_model(plain, backend="openvino").segment(frames((64, 64))).labels.shape == (2, 64, 64)
    link = tmp_path / "linked"
    link.mkdir()
    (link / "models").symlink_to(foreign / "models")
    monkeypatch.setenv("ICCLD_CACHE", str(link))
    assert cache.cache_folder() is None
    assert os.listdir(foreign / "models") == []


def test_the_oldest_conversions_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "KEPT", 2)

    for number, key in enumerate("abc"):
        assert cache.keep(tmp_path, key, write_graph).facts["steps"] == 1
        os.utime(tmp_path / key, (number, number))
    assert cache.find(tmp_path, "a") is None
    assert cache.find(tmp_path, "b") and cache.find(tmp_path, "c")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == ["b", "c"]


def _opened(path, folder, results):
    os.environ["ICCLD_CACHE"] = folder  # the processes have the environment of their server
    results.put(OpenvinoModel.open(path).segment(frames((64, 64))).labels.sum())


def test_two_processes_at_once(plain, empty_cache):
    context = training_runs.forks()
    results = context.Queue()
    both = [context.Process(target=_opened, args=(plain, os.environ["ICCLD_CACHE"], results)) for _ in range(2)]
    for process in both:
        process.start()
    assert results.get(timeout=400) == results.get(timeout=400)
    for process in both:
        process.join()
        assert process.exitcode == 0
    left = [p.name for p in empty_cache.iterdir() if p.suffix == ".part"]
    assert left == [] and is_converted(plain, None)


def test_names_of_backends():
    assert model.BACKENDS[0] == "auto"
