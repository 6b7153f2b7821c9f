"""`from iccld_cli import load`: images in, labels out."""

import doctest
import inspect
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import make_model, make_video, scene
from PIL import Image

import iccld_cli
from iccld_cli import load
from iccld_cli.errors import IccldError
from iccld_cli.inference import api
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.labels import CITYSCAPES

REAL = os.environ.get("ICCLD_REAL_DATA")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture(scope="module")
def model(path):
    return load(path)


@pytest.fixture(scope="module")
def image():
    return scene(1, 64, 48)[0]


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, iccld_cli; assert not {'torch', 'numpy', 'cv2', 'pydantic'} & set(sys.modules); "
        "from iccld_cli import load; assert 'torch' not in sys.modules; assert 'load' in dir(iccld_cli)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="lode"):
        iccld_cli.lode  # noqa: B018


def test_the_stub_and_the_function_agree():
    assert load is api.load
    assert list(inspect.signature(load).parameters) == ["path", "device", "sampling", "backend"]


def test_a_result_is_what_the_model_says(model, path, image):
    result = model.predict(image)
    answer = load_model(path).segment(image[None], ("confidence", "uncertainty"))  # torch's
    assert (result.labels.dtype, result.labels.shape) == (np.uint8, (48, 64))
    assert (result.labels == answer.labels[0]).mean() > 0.99
    for name in ("confidence", "uncertainty"):
        found = getattr(result, name)
        assert (found.dtype, found.shape) == (np.float32, (48, 64))
        np.testing.assert_allclose(found, getattr(answer, name)[0], atol=5e-3)  # the frame is resized in bytes
    assert result.names == model.names == CITYSCAPES.names
    assert result.names[result.classes[0]] == "road"
    assert (result.overlay().dtype, result.overlay().shape) == (np.uint8, (48, 64, 3))
    assert (result.overlay(alpha=0)[result.labels == 255] == image[result.labels == 255]).all()
    assert not np.array_equal(result.overlay(), image)
    at_once = model.predict(image, confidence=True)
    np.testing.assert_array_equal(at_once.confidence, result.confidence)


def test_a_path_an_array_and_a_picture_are_the_same(model, image, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    ways = [image, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image)]
    labels = [model.predict(way).labels for way in ways]
    assert all((one == labels[0]).all() for one in labels)
    grey = Image.fromarray(image).convert("L")
    wanted = model.predict(np.asarray(grey.convert("RGB"))).labels
    assert (model.predict(grey).labels == wanted).all()


def test_a_video_is_streamed(model, tmp_path):
    video = make_video(tmp_path / "v.mp4", frames=5, size=(64, 48))
    results = model.stream(video)
    first = next(results)
    assert first.labels.shape == (48, 64)
    assert len(list(results)) == 4

    with pytest.raises(IccldError, match="no video at"):
        next(model.stream(tmp_path / "gone.mp4"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\) is no image"),
        (np.zeros((4, 4, 3), np.float32), "array of float32"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (7, "int is no image"),
        ("gone.png", "no image at gone"),
    ],
)
def test_what_is_no_image_is_said(model, given, words):
    with pytest.raises(IccldError, match=words):
        model.predict(given)


def test_a_sampling_is_kept(path, image):
    model = load(path, sampling=Sampling(steps=0, height=96))
    assert (model.sampling.steps, model.sampling.height) == (0, 96)
    wanted = load_model(path).segment(image[None], sampling=Sampling(steps=0, height=96)).labels[0]
    assert (model.predict(image).labels == wanted).all()
    with pytest.raises(IccldError, match="choose 0 to 1000"):
        load(path, sampling=Sampling(steps=2000))


@pytest.mark.skipif(REAL is None, reason="ICCLD_REAL_DATA is not set")
def test_the_examples_in_the_documentation(tmp_path, monkeypatch):
    frame = sorted(Path(str(REAL), "camvid/val").iterdir())[0]
    image = cv2.imread(str(frame))
    cv2.imwrite(str(tmp_path / "frame.jpg"), cv2.resize(image, (480, 360)))
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(api, raise_on_error=True)
    assert done.attempted >= 5
