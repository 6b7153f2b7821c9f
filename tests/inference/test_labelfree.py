"""What is said of a model without labels."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from factories import make_dataset, make_model

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.header import ExportFacts
from iccld_cli.inference.labelfree import look, source_pixels
from iccld_cli.inference.model import Sampling, Segmentation, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors", seed=4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "own"
    return PreparedDataset(make_dataset(root, sizes=((64, 48), (61, 45)), labelled=False))


def test_numbers_are_those_of_the_answers_one_by_one(model, dataset):
    frames = dataset.frames("val")
    found = look(model, dataset, frames)
    confidences, flips, scales, labels = [], [], [], []
    for frame in frames:
        image = dataset.read_image(frame)[None]
        answer = model.segment(image, ("confidence",))
        mirrored = model.segment(image[:, :, ::-1].copy()).labels[:, :, ::-1]
        smaller = model.segment(image, sampling=Sampling(scales=(0.75,))).labels
        confidences.append(answer.confidence.ravel())
        flips.append((mirrored == answer.labels).ravel())
        scales.append((smaller == answer.labels).ravel())
        labels.append(answer.labels.ravel())
    assert found.confidence == pytest.approx(np.concatenate(confidences).mean(), abs=1e-5)
    assert found.flip == pytest.approx(np.concatenate(flips).mean(), abs=1e-3)
    assert found.scale == pytest.approx(np.concatenate(scales).mean(), abs=1e-3)
    shares = np.bincount(np.concatenate(labels), minlength=19) / len(np.concatenate(labels))
    np.testing.assert_allclose(found.shares, shares, atol=1e-3)
    assert found.shift is None
    confirmed = np.concatenate(flips) & np.concatenate(scales)
    assert found.score == pytest.approx((np.concatenate(confidences) * confirmed).mean(), abs=1e-3)
    assert 0 < found.score < 1


class ByColumn:
    """Answers by the place of a pixel alone, which a mirrored frame contradicts."""

    backend, precision = "place", "exact"

    def __init__(self, header):
        self.header = header

    def settle(self, sampling):
        return sampling

    def batch_size(self, size, sampling):
        return 2

    def segment(self, frames, want=(), size=None, sampling=None):
        labels = np.zeros(frames.shape[:3], np.uint8)
        labels[:, :, frames.shape[2] // 2 :] = 13
        return Segmentation(labels, np.full(labels.shape, 0.9, np.float32))


def test_what_a_mirror_contradicts_has_no_agreement(model, tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "own"))
    found = look(ByColumn(model.header), data, data.frames("val"), source={"road": 1, "car": 1})
    assert (found.flip, found.scale, found.confidence) == (0, 1, pytest.approx(0.9))
    assert found.score == 0  # no pixel is confirmed by both views
    assert found.agreement_iou == pytest.approx(1 / 3)  # half of the pixels of both views agree
    assert found.shift == pytest.approx(0)
    other = look(ByColumn(model.header), data, data.frames("val"), source={"sky": 1})
    assert other.shift == pytest.approx(1)  # nothing in common
    with pytest.raises(IccldError, match="none of the model's classes"):
        look(ByColumn(model.header), data, data.frames("val"), source={"tram": 1})


def test_shares_of_a_set_come_from_its_labels(dataset, tmp_path):
    with pytest.raises(IccldError, match="has no labels whose shares"):
        source_pixels(dataset)
    data = make_dataset(tmp_path / "source")
    info = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    info["pixels"] = {"road": 10, "sky": 0, "ignore": 5}
    (data / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    assert source_pixels(PreparedDataset(data)) == {"road": 10}


def test_the_smaller_view_is_three_quarters_of_the_one_that_answers(model, dataset):
    frames = dataset.frames("val")
    plain = look(model, dataset, frames)
    several = look(model, dataset, frames, Sampling(scales=(0.75, 1)))  # scale 1 answers
    assert (several.score, several.scale) == (plain.score, plain.scale)
    assert several.to_json()["scales"] == [0.75, 1]


def test_an_exported_file_is_refused_with_its_reason(model, dataset):
    exported = SimpleNamespace(header=replace(model.header, export=ExportFacts((64, 48), 0, 0)), settle=model.settle)
    with pytest.raises(IccldError, match="an exported file of one size"):
        look(exported, dataset, dataset.frames("val"))
