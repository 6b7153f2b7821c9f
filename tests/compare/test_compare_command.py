"""`iccld compare` from raw sets to tables, by real trainings of a few steps."""

import csv
import json

import numpy as np
import pytest
import training_runs
from raw_files import all_ids, grey, palette, photo, rgb16

SHAPE = (64, 96)
SIZES = [part for setting in training_runs.SMALL for part in ("--set", setting)]
SMALL = ("--preset", "tiny", "--seg-iterations", "3", "--adv-iterations", "2", "--seeds", "0", "--device", "cpu")
SMALL = (*SMALL, "--set", "data.batch_size=2", "--set", "data.crop=[64,64]", *SIZES)
IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """GTA5, SYNTHIA and Cityscapes in their own layouts, of a few frames."""
    root = tmp_path_factory.mktemp("raw")
    for number in range(1, 5):
        photo(root / f"gta5/images/{number:05d}.png", number, SHAPE)
        palette(root / f"gta5/labels/{number:05d}.png", np.roll(all_ids(IDS, SHAPE), 9 * number, 1))
        ids = np.roll(all_ids(SYNTHIA_IDS, SHAPE), 9 * number, 1)
        photo(root / f"synthia/RGB/{number:07d}.png", number, SHAPE)
        rgb16(root / f"synthia/GT/LABELS/{number:07d}.png", ids, ids * 0 + 3)
    for split, city, count in (("train", "aachen", 3), ("val", "munster", 3)):
        for number in range(count):
            name = f"{split}/{city}/{city}_{number:06d}_000019"
            photo(root / f"cityscapes/leftImg8bit/{name}_leftImg8bit.png", 50 + number, SHAPE)
            grey(root / f"cityscapes/gtFine/{name}_gtFine_labelIds.png", np.roll(all_ids(IDS, SHAPE), 9 * number, 1))
    return root


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("compared") / "gta5"


def arguments(raw, out, *more):
    sets = ("--gta5", raw / "gta5", "--cityscapes", raw / "cityscapes")
    return ("compare", "gta5-cityscapes", *sets, "--out", out, *SMALL, *more)


def test_gta5_to_cityscapes_is_one_command(iccld, raw, out):
    status, said, error = iccld(*arguments(raw, out, "--dry-run"))
    assert status == 0, error
    assert "set gta5 is prepared first" in said and not out.exists()
    status, said, error = iccld(*arguments(raw, out, "--jobs", "2", "--no-measure"))
    assert status == 0, error + said
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]] == ["source-only", "stage1", "stage2"]
    (column,) = found["columns"]
    assert len(column["classes"]) == 19 and column["images"] == 3 and column["rule"] == "official"
    for row in found["rows"]:
        own = row["columns"]["val"]
        assert own["seeds"] == [0] and 0 <= own["mean"] <= 100 and len(own["classes"]) == 19
        assert row["compute"][0]["seconds"] > 0 and row["compute"][0]["memory_gib"] > 0
        assert ("difference" in own) == (row["name"] != "source-only")
    assert {"DAFormer (CVPR 2022)", "HRDA (ECCV 2022)"} <= {row["title"] for row in found["published"]}
    assert "published, not measured here: ADVENT (CVPR 2019), BDL (CVPR 2019)" in said
    assert (out / "stage2/seed0/stage2.safetensors").is_file() and (out / "stage1/seed0/curves.png").is_file()
    assert "68.3" in (out / "table.tex").read_text(encoding="utf-8")
    assert "Published scores, not measured here" in (out / "index.html").read_text(encoding="utf-8")
    with open(out / "table.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3 * 20 + len(found["published"])


def test_what_is_finished_is_not_done_again(iccld, raw, out):
    """Needs the comparison above."""
    if not (out / "results.json").exists():
        pytest.skip("the comparison has not been made")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    status, said, _ = iccld(*arguments(raw, out))
    assert status == 0 and "3 cells (row x seed), 3 done" in said and "measuring" not in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_a_row_that_fails_is_named_and_the_others_stand(iccld, raw, out):
    """Needs the comparison above."""
    if not (out / "results.json").exists():
        pytest.skip("the comparison has not been made")
    model = out / "stage2/seed0/stage2.safetensors"
    whole = model.read_bytes()
    score = out / "stage2/seed0/score-val.json"
    kept = score.read_bytes()
    try:
        model.write_bytes(whole[: len(whole) // 2])
        status, said, error = iccld(*arguments(raw, out, "--no-measure"))
    finally:
        model.write_bytes(whole)
        score.write_bytes(kept)
    assert status == 1
    assert "error: 1 of 3 cells failed: stage2, seed 0" in error.replace("\n", " ")
    assert "stage2.safetensors" in said + error


def test_synthia_is_scored_over_sixteen_and_thirteen_classes(iccld, raw, tmp_path):
    sets = ("--synthia", raw / "synthia", "--cityscapes", raw / "cityscapes")
    given = ("compare", "synthia-cityscapes", *sets, "--out", tmp_path / "out", *SMALL, "--rows", "source-only")
    status, said, error = iccld(*given)
    assert status == 0, error + said
    assert "to be trained; seg 3 steps of " in said and "(measured)" in said  # a few steps were taken first
    assert (
        "left: 1 trainings, 3 steps, 1 scores" in said and "one after the other" in said and "GiB free on cpu" in said
    )
    assert [path.name for path in (tmp_path / "out/.compare").iterdir()] == ["rates.json"]
    found = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert [(c["name"], len(c["classes"])) for c in found["columns"]] == [("val 16", 16), ("val 13", 13)]
    knows = json.loads((tmp_path / "out/source-only/seed0/score-val.json").read_text(encoding="utf-8"))["knows"]
    assert len(knows) == 16 and "train" not in knows
    assert found["published"][-1]["scores"] == {"val 16": 67.2}


def test_wrong_usage_is_told(iccld, raw, tmp_path):
    status, _, error = iccld("compare", "gta5-cityscape", "--out", tmp_path)
    assert status == 1 and "give a TOML file, or one of gta5-cityscapes" in error.replace("\n", " ")
    status, _, error = iccld("compare", "gta5-cityscapes", "--out", tmp_path)
    assert status == 1 and "give --gta5 DIR --cityscapes DIR" in error.replace("\n", " ")
    status, _, error = iccld("compare", "gta5-cityscapes", "--seeds", "a")
    assert status == 2 and "write numbers with commas" in error
    status, _, error = iccld("compare", "gta5-cityscapes", "--data", "camvid")
    assert status == 2 and "write SET=DIR" in error
