"""The rows of benchmarks/carla-camvid.toml: each changes what it says, and starts from a row before it."""

from pathlib import Path

import pytest
import training_runs

from iccld_cli.compare.cells import Plan
from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.sets import Sets, used_sets
from iccld_cli.compare.spec import read_comparison, with_evaluations

FILE = Path(__file__).parents[2] / "benchmarks/carla-camvid.toml"
ROWS = [row.name for row in read_comparison(FILE).row]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    names = ("carla", "town-camera", "town-game", "camvid")
    data = {name: training_runs.make_dataset(root / name, (("train", 2), ("val", 1), ("test", 1))) for name in names}
    options = CompareOptions(FILE, root / "out", data=data, evaluations=["val", "test"], seeds=[3], encoder="tiny")
    comparison = with_evaluations(read_comparison(FILE), options.evaluations)
    rows = comparison.row
    return Plan(comparison, rows, Sets(comparison, used_sets(comparison, rows), options), options)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_changes_what_it_says(plan, name):
    cell = next(cell for cell in plan.cells if cell.row.name == name)
    if cell.row.model_of is not None:
        assert cell.row.sampling != next(row for row in plan.comparison.row if row.name == "stage2").sampling
        return
    (stage,) = plan.comparison.stages(cell.row)
    own = (cell.row.seg or cell.row.adv).settings
    config = plan.config(cell.row, stage).model_dump(mode="json")
    for key, value in own.items():
        section, field = key.split(".")
        assert config[section][field] == value
    words = plan.training(cell, stage)
    assert words[words.index("--seed") + 1] == "3"
    used = [Path(words[i + 1]).name for i, word in enumerate(words) if word == "--source"]
    assert used and ("camvid" in used) == (name == "oracle")
    if stage == "seg":
        assert words[words.index("--classes") + 1] == "road,building,sky,car"
    else:
        parent = plan.comparison.rows()[cell.row.parent]
        assert plan.comparison.row.index(parent) < plan.comparison.row.index(cell.row)
        assert f"{plan.options.out}/{parent.name}/seed3/stage1.safetensors" in words
        assert words[words.index("--iterations") + 1] in ("300", "720")
