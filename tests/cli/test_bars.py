"""Progress in a terminal of 80 columns, and in a pipe."""

import io
import re

import pytest
from rich.console import Console

from iccld_cli import bars
from iccld_cli.train.progress import TrainingProgress


def terminal(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)


def test_eighty_columns_hold_step_rate_and_time_left_of_a_training():
    console = terminal()
    with TrainingProgress("stage2", 0, 40000, console, enabled=True) as bar:
        for _ in range(3):
            bar.advance()
        losses = {f"loss_{name}": 0.123456 for name in ("latent", "decoded", "adversarial", "feature", "mixed")}
        bar.report({**losses, "memory_gib": 10.25}, 61.2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", console.file.getvalue().replace("\r", "\n")).splitlines()
    line = next(text for text in reversed(shown) if "3/40000" in text)
    assert len(line) <= 80
    assert line.startswith("stage2 ")
    for words in ("3/40000", "steps/s", "left", "latent 0.123"):
        assert words in line
    assert "…" in line  # the numbers alone are cut


def test_a_pipe_gets_a_line_every_ten_seconds(monkeypatch):
    console, clock = Console(file=io.StringIO(), width=200), [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock[0])
    with bars.progress_bar("predict", "frames", console) as update:
        for second in range(26):
            clock[0] = 100.0 + second
            update(20 + 2 * second, 120)
    assert console.file.getvalue().splitlines() == [
        "predict: 40/120 frames, 2.00 a second, 0:00:40 left",
        "predict: 60/120 frames, 2.00 a second, 0:00:30 left",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_fits_the_terminal(width):
    console = terminal(width)
    with bars.progress_bar("virtual-camera", "frames", console) as update:
        update(123456, 654321)
    lines = [line for line in console.file.getvalue().replace("\r", "\n").splitlines() if "123456/654321" in line]
    assert lines
    assert all("left" in line and len(line.split("\x1b")[0]) <= width for line in lines)
