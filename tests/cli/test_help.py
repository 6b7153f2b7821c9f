"""Asking for help costs no heavy import."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "diffusers", "cv2", "av", "matplotlib", "jinja2")
COMMANDS = ("prepare", "adapt-seg", "adapt-adv", "config", "evaluate", "predict", "export", "doctor")


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
