"""benchmarks/town_statistics.py counts what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

_PATH = Path(__file__).parents[1] / "benchmarks/town_statistics.py"
_SPEC = importlib.util.spec_from_file_location("town_statistics", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
town_statistics = importlib.util.module_from_spec(_SPEC)
sys.modules["town_statistics"] = town_statistics
_SPEC.loader.exec_module(town_statistics)

ROAD, WALK, BUILDING, SKY = 0, 1, 2, 10


def scene(horizon: int, walk: int) -> town_statistics.Statistics:
    label = np.full((48, 20), ROAD, np.uint8)
    label[:horizon] = SKY
    label[horizon : horizon + 8, :10] = BUILDING
    label[horizon + 8 : horizon + 8 + walk, :10] = WALK
    label[-2:] = 255
    found = town_statistics.Statistics()
    found.add(label)
    return found


def test_shares_and_neighbours():
    found = scene(16, 4)
    assert found.shares()[[SKY, BUILDING, WALK]] == pytest.approx(np.array([320, 80, 40]) / (46 * 20))
    assert found.shares().sum() == pytest.approx(1)
    assert found.below[BUILDING, WALK] == 0.5
    assert found.below[BUILDING, ROAD] == 0
    assert found.below[SKY, ROAD] == found.below[SKY, BUILDING] == 0.5


def test_divergence_is_nought_for_equal_rows_and_grows_with_the_difference():
    same = town_statistics.row_divergence(scene(16, 4), scene(16, 4)).mean()
    near = town_statistics.row_divergence(scene(16, 4), scene(18, 4)).mean()
    far = town_statistics.row_divergence(scene(16, 4), scene(26, 4)).mean()
    assert same == pytest.approx(0, abs=1e-9)
    assert 0 < near < far


def test_classes_that_a_set_does_not_know_are_folded_or_left_out():
    table = town_statistics.fold(["road", "truck", "car", "terrain"], {"road", "car"}, {"truck": "car"})
    assert table[:5].tolist() == [0, 2, 2, 255, 255]
