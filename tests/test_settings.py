"""The list of configuration keys: complete, true, and equal to the page in docs/."""

import json
from pathlib import Path

import pytest

from iccld_cli.config import Config, load_config, preset_names
from iccld_cli.errors import IccldError
from iccld_cli.settings import all_settings, find_settings, presets_text, settings_page

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
SETTINGS = {setting.key: setting for setting in all_settings()}


def test_the_page_is_generated():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: iccld config --markdown > docs/settings.md"


def test_every_key_of_a_saved_configuration_is_listed():
    tree = Config().model_dump()
    assert list(SETTINGS) == [f"{s}.{k}" for s, part in tree.items() if isinstance(part, dict) for k in part]
    assert all(setting.type and setting.meaning for setting in SETTINGS.values())


@pytest.mark.parametrize("preset", preset_names())
def test_values_are_those_of_the_preset(preset):
    tree = load_config(preset).model_dump(mode="json")
    for setting in all_settings(preset):
        section, name = setting.key.split(".")
        assert setting.value == tree[section][name]
        assert setting.presets.get(preset, setting.default) == tree[section][name]


@pytest.mark.parametrize(
    ("key", "kind", "limits"),
    [
        ("optim.lr", "number", "above 0, at most 1000"),
        ("data.ignore_rows_top", "number", "at least 0, below 1"),
        ("seg.burn_in", "number", "0 to 1"),
        ("seg.ema_horizon", "number", "above 0, at most 1"),
        ("data.fold_classes", "true or false", ""),
        ("model.latent_channels", "integer", "4 to 4096, a multiple of 4"),
        ("model.tiny_channels", "4 integers", "each 1 to 4096"),
        ("augment.blur_sigma", "2 numbers", "0 <= low <= high <= 10"),
        ("data.crop", "2 integers", "width and height in multiples of 32"),
        ("run.precision", "one of auto, fp32, bf16, fp16", ""),
        ("run.trackers", "list, each one of tensorboard, wandb, mlflow", ""),
    ],
)
def test_types_and_ranges(key, kind, limits):
    assert (SETTINGS[key].type, SETTINGS[key].range) == (kind, limits)


def test_presets_are_grouped_by_value():
    assert presets_text(SETTINGS["adv.coder_lr_factor"]) == "0.1 in small"
    assert presets_text(SETTINGS["data.ignore_rows_top"]) == "0.03 in paper-gta5, paper-synthia"
    assert presets_text(SETTINGS["run.seed"]) == ""


def test_a_key_a_section_or_a_bare_name():
    settings = list(SETTINGS.values())
    assert [s.key for s in find_settings("optim.lr", settings)] == ["optim.lr"]
    assert {s.section for s in find_settings("optim", settings)} == {"optim"}
    assert [s.key for s in find_settings("ema_horizon", settings)] == ["seg.ema_horizon", "adv.ema_horizon"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("optim.rl", "did you mean 'optim.lr'?"),
        ("optims", "did you mean 'optim'?"),
        ("batchsize", "did you mean 'batch_size'?"),
        ("seg.confidence", "it is now pseudo.gate"),
        ("confidence_range", "it is now pseudo.limits"),
    ],
)
def test_unknown_keys_name_the_right_one(wanted, words):
    with pytest.raises(IccldError) as caught:
        find_settings(wanted, list(SETTINGS.values()))
    assert words in str(caught.value)


def test_settings_are_json():
    assert json.loads(json.dumps(SETTINGS["data.crop"].to_json()))["value"] == [256, 128]
