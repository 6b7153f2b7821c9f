"""`iccld evaluate` through the command itself."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "data/camvid")


def test_table_json_and_report(iccld, model, data, tmp_path):
    status, said, _ = iccld(
        "evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / "e.json", "--report", tmp_path / "e.html"
    )
    assert status == 0
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert raw["subset"] == ["road", "building", "sky", "car"]  # what both model and labels know
    assert (raw["images"], raw["split"], raw["steps"], raw["model"]["stage"]) == (3, "val", 1, "stage2")
    assert f"mIoU {raw['miou']:.2f} over 4 classes" in said
    for name in raw["subset"]:
        assert re.search(rf"{name}\s*│\s*[\d.]+ │", said)
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 1 + 3 * 3  # the confusion matrix and three frames
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # needs nothing but itself


def test_split_steps_and_limit(iccld, model, data, tmp_path):
    status, *_ = iccld(
        "evaluate", "--ckpt", model, "--data", data, "--split", "test", "--steps", 0, "--limit", 1,
        "--json", tmp_path / "e.json",
    )  # fmt: skip
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert (status, raw["images"], raw["split"], raw["steps"]) == (0, 1, "test", 0)


def test_scales_and_flip_change_the_scores_and_are_noted(iccld, model, data, tmp_path):
    found = []
    views = ("--scales", "1,1.5"), ("--scales", "1,1.5", "--flip")
    for number, extra in enumerate(((), *views, *((*view, "--average") for view in views))):
        path = tmp_path / f"{number}.json"
        assert iccld("evaluate", "--ckpt", model, "--data", data, "--json", path, *extra)[0] == 0
        found.append(json.loads(path.read_text(encoding="utf-8")))
    looked = [([1.0, 1.5], False), ([1.0, 1.5], True)]
    assert [(raw["scales"], raw["flip"]) for raw in found] == [([1.0], False), *looked, *looked]
    assert [raw["average"] for raw in found] == [False, False, False, True, True]
    assert [raw["ece"] == found[0]["ece"] for raw in found] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "road,bus"], "'bus' cannot be scored"),
        (["--split", "tset"], "no frames in split 'tset'"),
        (["--data", "gone"], "no prepared data set at gone"),
        (["--ckpt", "gone.safetensors"], "no model file"),
        (["--ckpt", "NOT_A_MODEL"], "not a readable safetensors file"),
    ],
)
def test_wrong_use_is_one_line(iccld, model, data, tmp_path, options, words):
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    given = {"--ckpt": model, "--data": data}
    given |= {options[0]: options[1].replace("NOT_A_MODEL", str(tmp_path / "junk.safetensors"))}
    status, _, err = iccld(
        "evaluate", *(word for pair in given.items() for word in pair), "--json", tmp_path / "e.json"
    )
    assert status == 1
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "e.json").exists()


def test_chosen_classes_are_scored_alone(iccld, model, data, tmp_path):
    scores = {}
    for name, options in {"all": [], "some": ["--classes", "sky, road"]}.items():
        status, *_ = iccld("evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / f"{name}.json", *options)
        assert status == 0
        scores[name] = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert scores["some"]["subset"] == ["road", "sky"]
    for name in ("road", "sky"):  # the other labels' pixels are left out, so nothing can be worse
        assert scores["some"]["classes"][name]["iou"] >= scores["all"]["classes"][name]["iou"]
        assert scores["some"]["classes"][name]["pixels"] == scores["all"]["classes"][name]["pixels"]


def test_unlabelled_data_is_refused(iccld, model, tmp_path):
    data = make_dataset(tmp_path / "own", labelled=False)
    status, _, err = iccld("evaluate", "--ckpt", model, "--data", data)
    assert status == 1
    assert "has no labels in split 'val'" in err


def test_another_label_space_is_refused(iccld, model, data):
    info = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    info["label_space"]["classes"][18]["name"] = "tram"
    (data / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    status, _, err = iccld("evaluate", "--ckpt", model, "--data", data)
    assert status == 1
    assert "label space" in err
