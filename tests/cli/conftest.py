"""The command line, called in this process."""

import sys

import pytest

from iccld_cli.__main__ import main


@pytest.fixture
def iccld(monkeypatch, capsys):
    """A function: arguments -> (exit status, standard output, error output)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["iccld", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run
