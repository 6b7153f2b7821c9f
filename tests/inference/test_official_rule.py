"""`--rule official` against cityscapesScripts itself.

cityscapesScripts 2.3.0 is no dependency: it calls `numpy.in1d`, which NumPy 2.4 no longer has. With that name put back,
its scores are compared here wherever it is installed (`pip install --no-deps cityscapesscripts pyquaternion`), to 4
decimals. The shipped model on CamVid's `val` was compared by hand too, with NumPy 1.26.4 (docs/evaluating.md).
Everywhere, the same rule is checked against its formula written out.
"""

import cv2
import numpy as np
import pytest
from factories import CLASSES, make_dataset, make_model

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.evaluate import Scope, evaluate
from iccld_cli.inference.model import load_model
from iccld_cli.labels import CITYSCAPES

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' ids of the trainIds; 0 is one that its evaluation ignores."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors", seed=4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Labels with a class that the model does not know: poles on every frame."""
    data = PreparedDataset(make_dataset(tmp_path_factory.mktemp("data") / "camvid", sizes=((64, 48), (61, 45))))
    for frame in data.frames("val"):
        label = data.read_label(frame).copy()
        label[:30, 10:14] = CITYSCAPES.id_of("pole")
        cv2.imwrite(str(data.root / frame.label), label)
    return data


def pairs(model, dataset):
    """(answer, label) of every frame."""
    for frame in dataset.frames("val"):
        yield model.segment(dataset.read_image(frame)[None]).labels[0], dataset.read_label(frame)


def test_pixels_of_unknown_classes_are_wrong(model, dataset):
    sides = zip(*pairs(model, dataset), strict=True)
    answers, labels = (np.concatenate([part.ravel() for part in side]) for side in sides)
    counted = labels != 255
    known = evaluate(model, dataset, Scope())
    official = evaluate(model, dataset, Scope(rule="official"))
    assert official.scores.subset == known.scores.subset == tuple(i for i in CLASSES if i != 8)
    for place, i in enumerate(official.scores.subset):
        union = ((answers == i) | (labels == i)) & counted
        assert official.scores.iou[place] == ((answers == i) & (labels == i)).sum() / union.sum()
    assert official.scores.pixel_accuracy == pytest.approx((answers == labels)[counted].mean())
    assert official.miou < known.miou
    raw = official.to_json()
    assert (raw["rule"], raw["not_known"]) == ("official", ["pole"])
    shown = {*answers[counted], *labels[counted]}  # with poles, and what the model answers and nothing is
    assert len(shown) > 5
    assert raw["miou_of_all"] == pytest.approx(official.scores.iou.sum() / len(shown) * 100, abs=1e-4)


def test_agreement_with_cityscapesscripts(model, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    name = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    scripts = pytest.importorskip(name, reason="cityscapesscripts is not installed", exc_type=ImportError)
    to_ids = np.zeros(256, np.uint8)
    to_ids[: len(LABEL_IDS)] = LABEL_IDS
    files = [[], []]
    for number, pair in enumerate(pairs(model, dataset)):
        for kind, (names, pixels) in enumerate(zip(files, pair, strict=True)):
            names.append(str(tmp_path / f"{number}_{'pred' if kind == 0 else 'gtFine'}_labelIds.png"))
            cv2.imwrite(names[-1], to_ids[pixels])
    scripts.args.evalInstLevelScore = scripts.args.JSONOutput = False
    scripts.args.quiet = True
    theirs = scripts.evaluateImgLists(*files, scripts.args)

    ours = evaluate(model, dataset, Scope(rule="official")).to_json()
    for class_name, row in ours["classes"].items():
        assert row["iou"] / 100 == pytest.approx(theirs["classScores"][class_name], abs=5e-5)
    assert ours["miou_of_all"] / 100 == pytest.approx(theirs["averageScoreClasses"], abs=5e-5)
