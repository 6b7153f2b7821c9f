"""Means, deviations and paired differences of a comparison, and the tables that show them."""

import csv
import io
import json
from statistics import mean, stdev

import numpy as np
import pytest
import training_runs
from factories import make_model
from safetensors.numpy import load_file, save_file

from iccld_cli.compare.cells import Plan, identity
from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.results import Results, _gaps
from iccld_cli.compare.run import write_results
from iccld_cli.compare.scorefiles import score_path
from iccld_cli.compare.scoring import score
from iccld_cli.compare.sets import Sets, used_sets
from iccld_cli.compare.spec import read_comparison, with_needed
from iccld_cli.compare.tables import csv_text, latex, markdown
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.evaluate import Scope, evaluate
from iccld_cli.inference.evaluation import difference
from iccld_cli.inference.model import load_model
from iccld_cli.labels import CITYSCAPES

NAMES = ("road", "building", "vegetation", "sky", "car")  # what `make_model` knows
TEXT = """
title = "Tables"
base = "first"
seeds = [0, 1]
sets = { target = "target" }
class_sets = { three = ["road", "sky", "train"] }
training = { preset = "tiny", source = ["target"], target = ["target"] }
[[row]]
name = "first"
seg = {}
[[row]]
name = "second"
title = "a <b> | 50 % & $x_1$"
seg = { settings = { "optim.lr" = 0.25 } }
[[row]]
name = "file"
model = "file.safetensors"
[[row]]
name = "missing"
seg = { settings = { "optim.lr" = 0.5 } }
[[evaluation]]
name = "val"
set = "target"
classes = ["16", "three"]
[[evaluation]]
name = "known"
set = "target"
classes = ["three"]
rule = "known"
[[published]]
title = "=cmd()"
network = "R101"
source = "README of x_y"
scores = { "val 16" = 50.25 }
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two rows with two seeds each, and a file: models with random weights, scored in this process."""
    root = tmp_path_factory.mktemp("tables")
    training_runs.make_dataset(root / "target", (("train", 2), ("val", 5)), size=(72, 64), seed=2)
    (root / "tables.toml").write_text(TEXT, encoding="utf-8")
    make_model(root / "file.safetensors", stage="stage1", seed=9)
    options = CompareOptions(root / "tables.toml", root / "out")
    comparison = read_comparison(options.file)
    rows = with_needed(comparison, [])
    plan = Plan(comparison, rows, Sets(comparison, used_sets(comparison, rows), options), options)
    for cell in plan.cells:
        if cell.row.name == "missing":
            cell.failure = "memory ran out"
            continue
        if cell.row.trained:
            cell.folder.mkdir(parents=True)
            make_model(plan.model(cell), stage="stage1", seed=2 * cell.seed + (cell.row.name == "second"))
        model = load_model(plan.model(cell))
        for evaluation in comparison.evaluation:
            score(model, identity(plan.model(cell)), plan.scoring_job(cell, evaluation))
    return plan


@pytest.fixture(scope="module")
def found(plan):
    return Results(plan).to_json()


def row(found, name):
    return next(row for row in found["rows"] if row["name"] == name)


def scored(plan, name, seed, classes, rule):
    """What `iccld evaluate` finds for the same model."""
    cell = next(cell for cell in plan.cells if (cell.row.name, cell.seed) == (name, seed))
    ids = CITYSCAPES.ids_of(classes)
    dataset = PreparedDataset(plan.sets.opened["target"].root)
    return evaluate(load_model(plan.model(cell)), dataset, Scope("val", ids, rule=rule, boundary=False))


def test_scores_are_those_of_evaluate(plan, found):
    labelled = ("road", "building", "sky", "car")  # `train` and others are labelled nowhere, and left out
    three = ("road", "sky")
    for column, classes, rule in (
        ("val 16", labelled, "official"), ("val three", three, "official"), ("known", three, "known")
    ):  # fmt: skip
        for name in ("first", "second"):
            own = row(found, name)["columns"][column]
            mious = [scored(plan, name, seed, classes, rule).miou for seed in (0, 1)]
            assert own["mious"] == pytest.approx(mious, abs=1e-3)
            assert own["mean"] == pytest.approx(mean(mious), abs=1e-3)
            assert own["std"] == pytest.approx(stdev(mious), abs=1e-3)
        told = next(one for one in found["columns"] if one["name"] == column)
        assert tuple(told["classes"]) == classes and told["images"] == 5
    assert found["columns"][1]["absent"] == ["train"]
    single = row(found, "file")["columns"]["val 16"]
    assert (single["seeds"], single["std"]) == ([None], None)


def test_differences_are_paired_seed_by_seed(plan, found):
    change = row(found, "second")["columns"]["val three"]["difference"]
    pairs = [(scored(plan, n, s, ("road", "sky"), "official")) for s in (0, 1) for n in ("first", "second")]
    single = [difference(pairs[0], pairs[1]), difference(pairs[2], pairs[3])]
    assert change["by_seed"] == pytest.approx([one["miou"] for one in single], abs=1e-3)
    assert change["mean"] == pytest.approx(mean(one["miou"] for one in single), abs=1e-3)
    gaps = [np.mean([b.resampled.mean(axis=1) - a.resampled.mean(axis=1) for a, b in (pairs[:2], pairs[2:])], axis=0)]
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert change["over_images"] == pytest.approx([100 * low, 100 * high], abs=1e-3)
    assert change["interval"] == change["over_images_and_seeds"]
    assert "difference" not in row(found, "first")["columns"]["val three"]
    classes = [one["classes"]["road"]["iou"] for one in single]
    assert change["classes"]["road"]["by_seed"] == pytest.approx(classes, abs=1e-3)


def test_the_interval_holds_what_another_training_would_move():
    rng = np.random.default_rng(0)
    apart = _gaps([0.0, 0.2], [rng.normal(middle, 0.01, 1000) for middle in (0.0, 0.2)])  # far apart, surely each
    assert apart["mean"] == 10 and apart["by_seed"] == [0, 20]
    low, high = apart["over_images"]
    assert 8 < low < 9 and 11 < high < 12  # 10 -+ 1.96 * 1 / sqrt(2)
    low, high = apart["interval"]
    assert -3 < low < 1 and 19 < high < 23  # a quarter of the draws takes the same seed twice
    alike = _gaps([0.1, 0.1], [draws := rng.normal(0.1, 0.01, 1000), draws])
    assert alike["interval"] == pytest.approx(alike["over_images"])


def test_a_model_file_is_compared_with_every_seed(plan, found):
    own = row(found, "file")["columns"]["val 16"]
    base = row(found, "first")["columns"]["val 16"]
    assert own["difference"]["seeds"] == [0, 1]
    assert own["difference"]["by_seed"] == pytest.approx([own["mean"] - miou for miou in base["mious"]], abs=1e-3)


def test_an_evaluation_of_other_facts_does_not_count(plan):
    cell = next(cell for cell in plan.cells if cell.row.name == "second")
    path = score_path(cell.folder, plan.comparison.evaluation[0])
    before = path.read_text(encoding="utf-8")
    raw = json.loads(before)
    assert plan.unscored(cell) == []
    for key, value in (("model", "0" * 64), ("data", "0" * 64), ("rule", "known")):
        path.write_text(json.dumps({**raw, "facts": {**raw["facts"], key: value}}), encoding="utf-8")
        assert [evaluation.name for evaluation in plan.unscored(cell)] == ["val"]
        assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [1]
    path.write_text(before, encoding="utf-8")
    assert plan.unscored(cell) == []


def test_scores_of_a_model_that_is_gone_are_not_shown(plan):
    cell = next(cell for cell in plan.cells if cell.row.name == "second")
    model = plan.model(cell)
    kept = model.with_suffix(".kept")
    model.rename(kept)
    try:
        assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [1]
        make_model(model, stage="stage1", seed=77)  # trained anew, and not scored yet
        assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [1]
        model.write_bytes(kept.read_bytes()[:100])
        assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [1]
    finally:
        kept.replace(model)
    assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [0, 1]


def test_damaged_scores_are_taken_again(plan):
    cell = next(cell for cell in plan.cells if cell.row.name == "second")
    path = score_path(cell.folder, plan.comparison.evaluation[0])
    counts = path.with_suffix(".safetensors")
    kept = {file: file.read_bytes() for file in (path, counts)}
    confusion = load_file(counts)["confusion"]
    moved = confusion.copy()
    moved[0, 0, 0] += 1  # as a flipped bit does: the frames no longer add up to the JSON
    for file, content in (
        (path, b"{"), (path, b'{"facts": 3, "confusion": {"counts": [[]], "classes": []}}'), (counts, b"x"),
        (counts, kept[counts][:-9]), (counts, confusion[:, :3]), (counts, moved),
    ):  # fmt: skip
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_file({"confusion": np.ascontiguousarray(content)}, file)
        assert [evaluation.name for evaluation in plan.unscored(cell)] == ["val"]
        assert row(Results(plan).to_json(), "second")["columns"]["val 16"]["seeds"] == [1]
        for one, whole in kept.items():
            one.write_bytes(whole)
    assert plan.unscored(cell) == []


def test_tables_show_ours_and_quote_others(found):
    text = markdown(found)
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("| row"))
    assert head == (
        "| row | val 16 (4 classes) | difference | val three (2 classes) | difference | known (2 classes) | difference "
        "| seeds |"
    )
    own = row(found, "first")["columns"]["val 16"]
    assert f"| first | {own['mean']:.1f} ± {own['std']:.1f} | - |" in text
    quoted = next(line for line in lines if "=cmd()" in line)
    assert "| 50.2 |" in quoted and "published, not measured here: README of x_y" in quoted
    assert "a &lt;b> \\| 50 % & $x_1$" in text
    assert "**missing, seed 0: failed, memory ran out**" in text
    assert "val three: without train, which no label shows" in text
    assert "## IoU of the classes, known" in text


def test_latex_is_escaped_and_uses_booktabs(found):
    text = latex(found)
    assert text.count("\\toprule") == text.count("\\bottomrule") == 4 == text.count("\\begin{tabular}")
    assert r"a \textless{}b\textgreater{} | 50 \% \& \$x\_1\$ &" in text
    assert r"=cmd() (R101) & 50.2 & " in text and r"README of x\_y" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {7}


def test_csv_holds_every_measure_and_no_formula(found):
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    own = [r for r in rows if r["row"] == "second" and r["column"] == "val 16"]
    assert [r["measure"] for r in own] == ["mIoU", "road", "building", "sky", "car"]
    change = row(found, "second")["columns"]["val 16"]["difference"]
    assert float(own[0]["difference"]) == change["mean"]
    assert float(own[0]["difference_low"]) == change["interval"][0]
    assert rows[-1]["title"] == "'=cmd()" and rows[-1]["kind"] == "published, not measured here"


def test_the_page_stands_alone(plan, found, tmp_path):
    written = write_results(Results(plan), tmp_path)
    assert written == found
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Published scores, not measured here" in page and "a &lt;b&gt; | 50 %" in page
    assert "data:image/png;base64," in page and "http://" not in page and "https://" not in page
    assert "missing, seed 1: failed, memory ran out" in page
    assert (tmp_path / "chart.png").stat().st_size > 5000
