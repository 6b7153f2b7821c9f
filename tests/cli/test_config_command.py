"""`iccld config` on the command line."""

import json

import pytest

from iccld_cli.settings import settings_page


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_all_keys_fit_into_80_columns(iccld):
    status, out, err = iccld("config")
    assert (status, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "optim.lr = 0.0002\n    number; above 0, at most 1000\n    Learning rate of the pretrained encoder.\n" in out


def test_one_key_shows_what_the_presets_say(iccld):
    status, out, _ = iccld("config", "optim.lr", "--preset", "small")
    assert status == 0
    assert out.splitlines()[0] == "[optim] The optimizer (AdamW, linear warm-up and decay)."
    assert "optim.lr = 0.0001\n" in out
    assert "default 6e-05; 0.0001 in small; 0.0002 in tiny; 2e-05 in xl" in out


def test_json_and_the_page(iccld):
    status, out, _ = iccld("config", "data", "--json")
    assert status == 0
    assert {entry["key"]: entry["value"] for entry in json.loads(out)}["data.crop"] == [256, 128]
    assert iccld("config", "--markdown") == (0, settings_page(), "")


def test_mistakes_are_one_line(iccld):
    status, out, err = iccld("config", "optim.rl")
    assert (status, out) == (1, "")
    assert err == "error: unknown configuration key 'optim.rl': did you mean 'optim.lr'?\n"
    assert iccld("config", "--preset", "smal")[2] == "error: unknown preset 'smal': did you mean 'small'?\n"
    assert iccld("config", "--markdown", "optim")[0] == 2
