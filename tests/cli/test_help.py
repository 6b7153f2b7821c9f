"""Asking for help costs no heavy import."""

import inspect
import os
import shlex
import subprocess
import sys

import pytest
import typer.main

from iccld_cli.cli import helptext, training
from iccld_cli.cli.app import app
from iccld_cli.inference.model import BACKENDS
from iccld_cli.inference.outputs import KINDS
from iccld_cli.prepare.adapters import ADAPTERS

HEAVY = ("torch", "transformers", "diffusers", "cv2", "av", "matplotlib", "jinja2")
COMMANDS = ("prepare", "adapt-seg", "adapt-adv", "config", "compare", "evaluate", "predict", "export", "doctor")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from iccld_cli.__main__ import main\n"
        f"sys.argv = ['iccld', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        f"print('HEAVY', *[m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY")
    if arguments == ["--help"]:
        assert all(command in done.stdout for command in COMMANDS)


def commands():
    return typer.main.get_command(app).commands


def test_every_command_has_an_example_that_it_understands(monkeypatch):
    found = commands()
    assert set(helptext.EXAMPLES) == set(found)
    for name, examples in helptext.EXAMPLES.items():
        assert "For example:" in found[name].epilog
        for example in examples:
            first, *words = shlex.split(example)
            assert first == name
            found[name].make_context(name, words)  # raises where an option is unknown


def test_values_have_plain_names():
    for name, command in commands().items():
        for option in command.params:
            if option.param_type_name == "option":
                shown = option.display_type_rich(None)
                assert "<" not in shown and shown.strip() not in ("TEXT", "INTEGER"), (name, option.name)


def test_every_option_stands_in_a_group_by_intent():
    for name, command in commands().items():
        groups = {o.name: o.rich_help_panel for o in command.params if o.param_type_name == "option"}
        assert helptext.OTHERS not in groups.values(), (name, groups)
        raw = {option for option, group in groups.items() if group == helptext.RAW_SETS}
        assert raw == ({key.replace("-", "_") for key in ADAPTERS} if name == "prepare" else set())
    for name in ("predict", "adapt-seg", "prepare", "evaluate", "export"):
        assert {"Data", "Results"} <= {option.rich_help_panel for option in commands()[name].params}


def test_the_tables_name_options_that_exist():
    found = {option.name for command in commands().values() for option in command.params}
    planned = {"part", "merge"}
    assert set(helptext.PANELS) - planned <= found
    assert set(helptext.METAVARS) <= found
    assert {key.rpartition(" ")[2] for key in (*helptext.VALUES, *helptext.LISTS)} <= found


@pytest.mark.parametrize(
    ("command", "option", "begun", "found"),
    [
        ("adapt-seg", "preset", "paper", ["paper-gta5", "paper-synthia"]),
        ("predict", "backend", "", list(BACKENDS)),
        ("predict", "save", "labels,pal", ["labels,palette"]),
        ("adapt-seg", "classes", "road,sk", ["road,sky"]),
        ("adapt-seg", "classes", "traffic ", ["traffic light", "traffic sign"]),
        ("export", "precision", "i", ["int8"]),
        ("adapt-seg", "precision", "b", ["bf16"]),
    ],
)
def test_the_shell_completes_values(command, option, begun, found):
    parameter = next(p for p in commands()[command].params if p.name == option)
    assert [item.value for item in parameter.shell_complete(None, begun)] == found


def test_what_is_completed_is_what_there_is():
    assert list(KINDS) == helptext._KINDS
    assert all(name in inspect.getsource(training) for name in helptext.VALUES["preset"]())


def test_the_shell_asks_the_program_itself():
    words = {"_ICCLD_COMPLETE": "complete_bash", "COMP_WORDS": "iccld adapt-seg --preset ti", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['iccld']; from iccld_cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert done.stdout.split() == ["tiny"], done.stderr
