"""Recipes: every one trains through the commands, and the page about them is what they say."""

import json
from pathlib import Path

import pytest
from training_runs import make_dataset
from typer.testing import CliRunner

from iccld_cli.cli.app import app
from iccld_cli.config import load_config
from iccld_cli.errors import IccldError
from iccld_cli.header import read_header
from iccld_cli.recipe import load_recipe, recipe_names

NAMES = ("iccld", "source-only", "adversarial", "advent", "fada", "dacs", "daformer", "hrda", "mic", "bapa")
PAGE = Path(__file__).parents[1] / "docs/recipes.md"


def test_all_are_there_the_own_method_first():
    assert recipe_names()[0] == "iccld"
    assert sorted(recipe_names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_keys_of_the_configuration(name):
    config = load_config("small", recipe=load_recipe(name))
    assert config.recipe == name
    tree = config.model_dump(mode="json")
    for section, keys in load_recipe(name).settings.items():
        assert keys.items() <= tree[section].items()


def test_what_depends_on_the_crop_follows_it_and_options_win():
    mic = load_recipe("mic")
    assert load_config("small", recipe=mic).seg.masked_block == 16
    assert load_config("small", recipe=mic, overrides={"data.crop": [512, 512]}).seg.masked_block == 32
    assert load_config("small", recipe=mic, assignments=["seg.masked_block=8"]).seg.masked_block == 8
    assert (
        load_config("small", recipe=load_recipe("dacs"), assignments=["pseudo.threshold=0.9"]).pseudo.threshold == 0.9
    )


def test_the_own_method_is_the_preset():
    plain = load_config("small").model_dump() | {"recipe": "iccld"}
    assert load_config("small", recipe=load_recipe("iccld")).model_dump() == plain


@pytest.mark.parametrize("preset", ["small", "base", "paper-gta5"])
def test_nothing_of_another_method_stays(preset):
    """DAFormer's distance of the larger presets is none of DACS, whatever the run starts from."""
    dacs = load_config(preset, recipe=load_recipe("dacs"))
    assert (dacs.seg.feature_distance_weight, dacs.data.ignore_rows_bottom) == (0, 0)
    after = load_config(base=load_config(preset, recipe=load_recipe("mic")), recipe=load_recipe("dacs"))
    assert after.seg.masked_weight == after.seg.feature_distance_weight == 0
    assert after.model.detail  # the start file's network
    adversarial = load_config(preset, recipe=load_recipe("advent"))
    own = load_config(base=adversarial, recipe=load_recipe("iccld"))
    assert own.model_dump() == load_config(preset).model_dump() | {"recipe": "iccld"}


def test_an_unknown_name_is_one_line():
    with pytest.raises(IccldError, match="unknown recipe 'dax'"):
        load_recipe("dax")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_each(name):
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    recipe = load_recipe(name)
    assert recipe.title in row
    text = " ".join(PAGE.read_text().split())
    assert recipe.paper in text
    assert recipe.code in text
    for value in recipe.published.values():
        assert f"{value:.1f}" in row


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    parts = (("train", 4), ("val", 2))
    return [make_dataset(root / name, parts, size=(64, 64)) for name in ("game", "camera")]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name, sets, tmp_path, small_settings):
    def run(*words):
        found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert found.exit_code == 0, found.output

    settings = [word for text in (*small_settings, "data.crop=[64,64]", "data.workers=0") for word in ("--set", text)]
    common = ["--iterations", 2, "--batch-size", 2, "--device", "cpu", *settings]
    run("adapt-seg", "--recipe", name, "--source", sets[0], "--target", sets[1], "--out", tmp_path, *common)
    header = read_header(tmp_path / "stage1.safetensors")
    recipe = load_recipe(name)
    assert header.config.recipe == name
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert ("loss_mixed" in row) == (not recipe.source_only)
    assert ("loss_masked" in row) == (name == "mic")
    assert ("loss_prototype" in row) == (name == "bapa")
    words = ["adapt-adv", "--recipe", name, "--ckpt", tmp_path / "stage1.safetensors", *common]
    if recipe.stage2:
        run(*words)
        header = read_header(tmp_path / "stage2.safetensors")
        assert header.config.adv.generate == (name == "iccld")
    else:
        with pytest.raises(IccldError, match=f"the recipe {name} has no second stage"):
            CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
