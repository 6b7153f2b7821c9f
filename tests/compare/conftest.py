"""Small comparisons: a TOML file on prepared sets, and the command called in this process."""

import pytest
import training_runs

FILE = """
title = "Small"
base = "source-only"
seeds = [0]

[sets]
game = "source"
camera = "target"

[training]
preset = "tiny"
source = ["game"]
target = ["camera"]
batch_size = 2
crop = [64, 64]
settings = { SETTINGS }

[training.seg]
iterations = 4

[training.adv]
iterations = 2

[[row]]
name = "source-only"
title = "source only"
seg = { source_only = true }

[[row]]
name = "stage1"
title = "stage 1"
seg = {}

[[row]]
name = "stage2"
title = "stage 2"
parent = "stage1"
adv = {}

[[row]]
name = "stage2-0"
title = "stage 2, 0 steps"
model_of = "stage2"
sampling = { steps = 0 }

[[row]]
name = "shipped"
model = "free"

[[evaluation]]
name = "val"
set = "camera"
classes = ["19", "four"]

[class_sets]
four = ["road", "building", "sky", "car"]

[[published]]
title = "Others & more_"
network = "R101"
source = "their README"
scores = { "val 19" = 50 }
"""


def _toml(setting):
    key, _, value = setting.partition("=")
    return f'"{key}" = {value}'


@pytest.fixture
def file(world):
    """The TOML text of a small comparison, with the sets of `world` by their full paths."""
    text = FILE.replace("SETTINGS", ", ".join(_toml(setting) for setting in training_runs.SMALL))
    text = text.replace('"source"\n', f'"{world / "source"}"\n', 1)
    return text.replace('"target"\n', f'"{world / "target"}"\n', 1)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Lines that no message has to be broken for."""
    monkeypatch.setenv("COLUMNS", "200")
