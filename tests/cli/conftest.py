"""The command line, called in this process."""

import shlex
from pathlib import Path

import pytest
import typer.main

from iccld_cli.cli.app import app


@pytest.fixture
def next_command():
    """A function: what a command printed -> the words of the command that its last line names, which is one."""

    def read(said):
        line = said.rstrip().splitlines()[-1]
        assert line.startswith("next: iccld ")
        name, *words = shlex.split(line.removeprefix("next: iccld "))
        command = typer.main.get_command(app).commands[name]
        command.make_context(name, [*words])  # raises where a word is unknown
        made = {words[at + 1] for at, word in enumerate(words) if word == "--out"}
        assert all(Path(word).exists() for word in words if "/" in word and word not in made), line
        return [name, *words]

    return read
