"""`iccld doctor`: a verdict that the exit status repeats."""

import json
import sys

import pytest

from iccld_cli.__main__ import main
from iccld_cli.inference import doctor


@pytest.fixture
def iccld(monkeypatch, capsys):
    """A function: arguments -> (exit status, standard output)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["iccld", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, capsys.readouterr().out

    return run


def test_json(iccld, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said = iccld("doctor", "--json")
    found = json.loads(said)
    assert status == 0
    assert found["problems"] == []
    assert found["h264"]["works"]
    assert found["forward"]["cpu"]["seconds"] > 0
    assert found["versions"]["torch"]
    assert found["disk"]["writable"]
    assert found["verdict"].startswith("ready")
    assert list(tmp_path.iterdir()) == []


def test_last_line_is_the_verdict(iccld, monkeypatch):
    monkeypatch.setattr(doctor, "broken_imports", dict.fromkeys)  # which the test above tries for real
    status, said = iccld("doctor")
    assert status == 0
    assert said.strip().splitlines()[-1].startswith("ready")


def test_a_machine_without_an_encoder_is_not_usable(iccld, monkeypatch):
    monkeypatch.setattr(doctor, "broken_imports", dict.fromkeys)
    monkeypatch.setitem(sys.modules, "av", None)  # cannot be imported
    status, said = iccld("doctor")
    assert status == 1
    assert said.strip().splitlines()[-1].startswith("not usable: H.264 video cannot be written (import of av")
