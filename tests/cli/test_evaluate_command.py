"""`iccld evaluate` through the command itself."""

import json
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model

from iccld_cli.inference import evaluate as evaluation


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
    assert page.count("data:image/jpeg;base64,") == 3  # the frames
    assert page.count("data:image/png;base64,") == 3 * 3  # their labels, answers and errors
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


def test_several_models_and_steps_are_compared(iccld, model, data, tmp_path):
    other = make_model(tmp_path / "other.safetensors", seed=4)
    status, said, _ = iccld(
        "evaluate", "--ckpt", model, "--ckpt", other, "--steps", "0,1", "--data", data, "--json", tmp_path / "e.json",
        "--report", tmp_path / "e.html",
    )  # fmt: skip
    assert status == 0
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    runs = raw["runs"]
    assert [(Path(run["model"]["file"]).stem, run["steps"]) for run in runs] == [
        ("stage2", 0), ("stage2", 1), ("other", 0), ("other", 1),
    ]  # fmt: skip
    assert {key: raw[key] for key in runs[0]} == runs[0]  # the top level is the first run
    for run in runs[1:]:
        gap = run["difference"]
        assert gap["miou"] == pytest.approx(run["miou"] - raw["miou"], abs=1e-3)
        assert gap["interval"][0] <= gap["interval"][1]
        assert set(gap["classes"]) == set(raw["subset"])
    for name in ("stage2, 0 steps", "stage2, 1 step", "other, 0 steps", "other, 1 step"):
        assert name in said
    alone = tmp_path / "alone.json"
    iccld("evaluate", "--ckpt", other, "--steps", 1, "--data", data, "--json", alone)
    assert json.loads(alone.read_text(encoding="utf-8"))["miou"] == runs[3]["miou"]


def test_models_of_different_classes_are_compared_on_those_that_all_know(iccld, model, data, tmp_path):
    tensors, header = load_file(model), dict(safe_open(model, "np").metadata())
    facts = json.loads(header["iccld"])
    facts["classes"].remove("sky")
    save_file(tensors, tmp_path / "few.safetensors", {**header, "iccld": json.dumps(facts)})
    status, *_ = iccld(
        "evaluate", "--ckpt", model, "--ckpt", tmp_path / "few.safetensors", "--data", data,
        "--json", tmp_path / "e.json",
    )  # fmt: skip
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert status == 0
    assert [run["subset"] for run in raw["runs"]] == [["road", "building", "car"]] * 2


def test_the_shipped_model_is_scored_where_none_is_named(iccld, data, tmp_path):
    status, _, err = iccld("evaluate", "--data", data, "--limit", 1, "--json", tmp_path / "e.json")
    assert status == 0
    assert "scoring the model that comes with iccld" in err
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert raw["height"] == 360
    assert (raw["rule"], raw["backend"], raw["precision"]) == ("known", "torch", "fp32")


def test_groups_by_pattern_index_and_size(iccld, model, data, tmp_path):
    lines = (data / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(line), "camera": "wide" if number else "tele"} for number, line in enumerate(lines)]
    (data / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for field, expected in {
        "camera": {"tele": 1, "wide": 2},
        "size": {"64x48": 3},
        "folder": {".": 3},
        "0([01])$": {"0": 1, "1": 1, "(other)": 1},
    }.items():
        path = tmp_path / "e.json"
        status, said, _ = iccld("evaluate", "--ckpt", model, "--data", data, "--by", field, "--json", path)
        assert status == 0
        table = json.loads(path.read_text(encoding="utf-8"))["by"]
        assert table["field"] == field
        assert {name: group["images"] for name, group in table["groups"].items()} == expected
        assert all(re.search(rf"{re.escape(name)}\s*│\s*{n}", said) for name, n in expected.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--by", "weather"], "--by 'weather' matches no image"),
        (["--by", "("], "no regular expression"),
        (["--by", "condition"], "no name of an image says its condition"),
    ],
)
def test_groups_that_cannot_be_are_one_line(iccld, model, data, options, words):
    status, _, err = iccld("evaluate", "--ckpt", model, "--data", data, *options)
    assert (status, err.count("\n")) == (1, 1)
    assert words in err


def test_what_was_scored_before_a_frame_that_cannot_be_read_is_kept(iccld, model, data, tmp_path, monkeypatch):
    other = make_model(tmp_path / "other.safetensors", seed=4)
    whole, calls = evaluation.evaluate, []

    def fails_the_second_time(*arguments):
        calls.append(1)
        if len(calls) == 2:
            (data / "images/val/002.png").unlink()
        return whole(*arguments)

    monkeypatch.setattr("iccld_cli.inference.runs.evaluate", fails_the_second_time)
    status, said, err = iccld(
        "evaluate", "--ckpt", model, "--ckpt", other, "--data", data, "--json", tmp_path / "e.json"
    )
    assert status == 1
    assert "002.png" in err
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert len(raw["runs"]) == 1
    assert f"mIoU {raw['miou']:.2f}" in said


@pytest.mark.parametrize("value", ["-1", "a", "0,x", "99999", ","])
def test_steps_that_are_no_numbers_are_refused(iccld, model, data, value):
    assert iccld("evaluate", "--ckpt", model, "--data", data, "--steps", value)[0] == 2


def test_worst_frames_are_named(iccld, model, data, tmp_path):
    status, said, _ = iccld("evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / "e.json")
    worst = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["worst"]
    assert status == 0
    assert [row["miou"] for row in worst] == sorted(row["miou"] for row in worst)
    assert worst[0]["image"] in said


def test_footage_is_judged_without_labels(iccld, model, tmp_path):
    data = make_dataset(tmp_path / "own", counts=(("train", 3),), labelled=False)
    other = make_model(tmp_path / "other.safetensors", seed=4)
    status, said, _ = iccld(
        "evaluate", "--no-labels", "--ckpt", model, "--ckpt", other, "--data", data, "--json", tmp_path / "e.json"
    )
    assert status == 0
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert (raw["labels"], raw["split"], raw["images"], len(raw["runs"])) == (False, "train", 3, 2)
    assert "the score is no accuracy" in said
    assert f"{raw['agreement_mirrored']:.2f}" in said
    flow = raw["flow"]
    assert (flow["agreement"] is None) == (flow["left_out"] is not None) == ("flow is left out: " in said)
    assert sum(raw["shares"].values()) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize(
    "options", [["--no-labels", "--by", "drive"], ["--no-labels", "--report", "e.html"], ["--source", "somewhere"]]
)
def test_what_does_not_go_without_labels_is_wrong_usage(iccld, model, data, options):
    assert iccld("evaluate", "--ckpt", model, "--data", data, *options)[0] == 2


def test_several_steps_by_openvino(iccld, model, data, tmp_path):
    pytest.importorskip("openvino")
    scores = {}
    for backend in ("torch", "openvino"):
        out = tmp_path / f"{backend}.json"
        status, _, err = iccld(
            "evaluate", "--ckpt", model, "--steps", "0,1", "--backend", backend, "--data", data, "--json", out
        )
        assert status == 0, err
        runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
        assert [(run["steps"], run["backend"]) for run in runs] == [(0, backend), (1, backend)]
        scores[backend] = [run["miou"] for run in runs]
    assert scores["openvino"] == pytest.approx(scores["torch"], abs=1.0)
