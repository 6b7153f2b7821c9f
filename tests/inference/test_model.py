"""The door of a model that torch runs, and finding model files."""

import dataclasses
import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factories import make_model

from iccld_cli.cli.training import start_file
from iccld_cli.errors import IccldError
from iccld_cli.header import read_header
from iccld_cli.inference.model import Sampling, entropy_share, find_model, load_model, network_size
from iccld_cli.inference.torch_model import TorchModel, normalised_entropy, to_tensor

EVERYTHING = ("confidence", "uncertainty", "probabilities")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture(scope="module")
def model(path):
    return load_model(path)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)


def by_hand(model, frames, size=(50, 70), **options):
    """Probabilities of frames resized to `size` and fitted in one step, at the frames' own size."""
    fitted = model.segmenter.fitting_size(*size)
    images = to_tensor(frames)
    smaller = size[0] < frames.shape[1]
    images = F.interpolate(images, fitted, mode="bilinear", antialias=smaller)
    return model.segmenter.probabilities(images, size=frames.shape[1:3], **options).numpy()


def test_an_answer_holds_what_was_asked_for(model, frames):
    plain = model.segment(frames)
    assert (plain.labels.dtype, plain.labels.shape) == (np.uint8, (2, 50, 70))
    assert all(getattr(plain, name) is None for name in EVERYTHING)
    full = model.segment(frames, EVERYTHING)
    wanted = by_hand(model, frames, steps=1)
    np.testing.assert_allclose(full.probabilities, wanted, atol=1e-5)
    assert (full.labels == wanted.argmax(1)).all()
    assert (plain.labels == full.labels).mean() > 0.999  # ties may be rounded otherwise
    np.testing.assert_allclose(full.confidence, wanted.max(1), atol=1e-5)
    np.testing.assert_allclose(full.uncertainty, entropy_share(wanted), atol=1e-5)
    assert model.segment(frames, ["confidence"], size=(20, 30)).confidence.shape == (2, 20, 30)


def test_the_plain_pass_answers_and_further_views_say_how_sure_it_is(model, frames):
    def plain(given, size=(50, 70)):
        return by_hand(model, given, size, steps=1)

    mirror = frames[:, :, ::-1]
    parts = plain(frames), plain(mirror)[..., ::-1], plain(frames, (75, 105)), plain(mirror, (75, 105))[..., ::-1]
    for sampling, those in (
        (Sampling(scales=(1.5, 1)), parts[::2]),
        (Sampling(flip=True), parts[:2]),
        (Sampling(scales=(1, 1.5), flip=True), parts),
    ):
        found = model.segment(frames, EVERYTHING, sampling=sampling)
        np.testing.assert_allclose(found.probabilities, parts[0], atol=1e-5)
        assert (found.labels == model.segment(frames, sampling=sampling).labels).mean() > 0.999
        others = those[1:] if len(those) > 2 else those  # one view is no mean
        np.testing.assert_allclose(found.uncertainty, 1 - of_label(np.mean(others, axis=0), found.labels), atol=1e-5)
        mean = model.segment(frames, EVERYTHING, sampling=dataclasses.replace(sampling, average=True))
        np.testing.assert_allclose(mean.probabilities, np.mean(those, axis=0), atol=1e-5)
        np.testing.assert_allclose(mean.uncertainty, 1 - mean.confidence, atol=1e-5)
    smaller = model.segment(frames, ["probabilities"], sampling=Sampling(scales=(0.5,))).probabilities
    np.testing.assert_allclose(smaller, plain(frames, (25, 35)), atol=1e-5)


def of_label(probabilities, labels):
    """Probabilities (B, H, W) of labels (B, H, W)."""
    return np.take_along_axis(probabilities, labels[:, None].astype(int), axis=1)[:, 0]


def test_further_noises_say_how_sure_the_first_is(path, frames):
    model = load_model(path)
    model.segmenter.decoder.classify.weight.data.mul_(100)  # random weights are undecided, whatever the noise
    found = model.segment(frames, EVERYTHING, sampling=Sampling(samples=4, seed=7))
    images = model.segmenter.fit(to_tensor(frames))
    draws = [
        F.interpolate(logits, (50, 70), mode="bilinear").softmax(1).numpy()
        for logits in model.segmenter.logits(images, 1, seed=7, draws=4)
    ]
    np.testing.assert_allclose(found.probabilities, draws[0], atol=1e-5)
    np.testing.assert_allclose(found.uncertainty, 1 - of_label(np.mean(draws[1:], axis=0), found.labels), atol=1e-5)
    still = model.segment(frames, EVERYTHING, sampling=Sampling(steps=0, samples=3))
    np.testing.assert_allclose(still.uncertainty, entropy_share(still.probabilities), atol=1e-5)  # nothing differs


def test_frames_are_brought_to_the_working_height_in_one_step(path, frames, monkeypatch):
    seen = []
    original = F.interpolate

    def watched(images, *size, **options):
        if images.shape == (2, 3, 50, 70):
            seen.append((tuple(*size), options.get("antialias")))
        return original(images, *size, **options)

    model = load_model(path)
    model.header = dataclasses.replace(model.header, height=100)
    monkeypatch.setattr(F, "interpolate", watched)
    found = model.segment(frames, ["probabilities"], sampling=Sampling(scales=(1.5,)))
    assert seen == [(model.segmenter.fitting_size(150, 210), False)]
    assert found.labels.shape == (2, 50, 70)
    seen.clear()
    model.segment(frames, sampling=Sampling(height=32))
    assert seen == [((32, 32), True)]


def test_the_height_is_the_trained_one_unless_another_is_asked_for(path):
    model = load_model(path)
    assert model.settle(Sampling()).height == 0  # the file does not say: the frames' own
    model.header = dataclasses.replace(model.header, height=360)
    assert [model.settle(Sampling(height=h)).height for h in (None, 0, 270)] == [360, 0, 270]
    assert network_size((720, 1280), 360) == (360, 640)
    assert network_size((720, 1280), 0) == (720, 1280)
    assert network_size((45, 61), 90, 0.5) == (45, 61)
    with pytest.raises(IccldError, match="becomes 409600 pixels wide"):
        network_size((1, 400), 1024)


def test_the_shipped_file_works_at_the_height_it_was_adapted_at():
    assert read_header(find_model(None)).working_height == 360


def test_what_is_left_open_is_the_models_own(model):
    settled = model.settle(Sampling())
    assert (settled.steps, settled.seed, settled.height) == (1, 0, 0)
    with pytest.raises(IccldError, match="choose 0 to 1000"):
        model.settle(Sampling(steps=1001))


@pytest.mark.parametrize(
    "numbers", [{"samples": 0}, {"scales": ()}, {"scales": (1, 9)}, {"scales": (math.nan,)}, {"height": -1}]
)
def test_numbers_that_are_not_possible(numbers):
    with pytest.raises(IccldError):
        Sampling(**numbers)


def test_stage_1_has_no_steps(tmp_path, frames):
    model = load_model(make_model(tmp_path / "stage1.safetensors", "stage1"))
    assert model.settle(Sampling()).steps == 0
    with pytest.raises(IccldError, match="no denoising UNet"):
        model.segment(frames, sampling=Sampling(steps=1))


def test_threads_share_a_model(model, frames):
    """Each with other steps: the sampler keeps nothing in what they share."""
    steps = [1, 2, 3, 5] * 2
    alone = [model.segment(frames, ["probabilities"], sampling=Sampling(steps=s)).probabilities for s in steps]
    found = [None] * len(steps)

    def work(number):
        for _ in range(3):
            answer = model.segment(frames, ["probabilities"], sampling=Sampling(steps=steps[number]))
            found[number] = answer.probabilities

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_memory_that_runs_out_names_what_to_lower(model, frames, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(model.segmenter, "views", fail)
    with pytest.raises(IccldError, match=r"memory ran out on 2 frame\(s\) of 70x50 pixels.*--batch-size or --height"):
        model.segment(frames)


def test_a_live_network_is_a_model(model, path, frames):
    live = load_model(model.segmenter, header=read_header(path))
    assert isinstance(live, TorchModel)
    assert (live.segment(frames).labels == model.segment(frames).labels).all()
    with pytest.raises(IccldError, match="header"):
        load_model(model.segmenter)


def test_a_folder_stands_for_its_one_model_file(path, tmp_path):
    with pytest.raises(IccldError, match=r"holds no \.safetensors"):
        find_model(tmp_path)
    shutil.copy(path, tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    assert find_model(tmp_path) == tmp_path / "a.safetensors"
    shutil.copy(path, tmp_path / "b.safetensors")
    with pytest.raises(IccldError, match=r"holds a\.safetensors, b\.safetensors"):
        find_model(tmp_path)
    with pytest.raises(IccldError, match="no model file at gone"):
        find_model("gone")


def test_to_tensor():
    tensor = to_tensor(np.full((1, 2, 3, 3), (0, 51, 255), np.uint8))
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("measure", [normalised_entropy, lambda p: torch.from_numpy(entropy_share(p.numpy()))])
def test_normalised_entropy(measure):
    uniform, certain = torch.full((1, 4, 1, 1), 0.25), torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1)
    half = torch.tensor([0.5, 0.5, 0, 0]).view(1, 4, 1, 1)
    assert measure(uniform).item() == pytest.approx(1)
    assert measure(certain).item() == 0
    assert measure(half).item() == pytest.approx(math.log(2) / math.log(4))


def test_the_names_of_shipped_models_are_theirs_whatever_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "free").mkdir()
    own = make_model(tmp_path / "free/model.safetensors")
    (tmp_path / "roads").write_bytes(own.read_bytes())
    (tmp_path / "shipped").mkdir()
    for given in ("small", "roads", "free"):
        assert find_model(Path(given)).name == find_model(given).name == f"iccld-{given}.safetensors"
        assert start_file(Path(given)) == find_model(given)
    assert start_file(Path("shipped")) == find_model(None)
    assert find_model(Path("free/model.safetensors")) == Path("free/model.safetensors")
    assert find_model(tmp_path / "free") == own
    assert find_model(tmp_path / "roads") == tmp_path / "roads"
