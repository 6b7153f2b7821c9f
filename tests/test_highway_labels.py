"""The labels drawn on the motorway clip, and how a model is scored on them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from iccld_cli.labels import CITYSCAPES

FILE = Path(__file__).parents[1] / "benchmarks/highway.json"


@pytest.fixture
def highway(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(FILE.parent))
    import highway

    return highway


def test_polygons_lie_in_the_frame_and_name_classes():
    frames = json.loads(FILE.read_text())["frames"]
    assert len(frames) == 10
    for classes in frames.values():
        assert list(classes) == ["road", "sky", "vegetation", "fence", "terrain", "car"]
        for name, polygons in classes.items():
            assert name in CITYSCAPES.names
            points = np.concatenate([np.array(p) for p in polygons])
            assert min(map(len, polygons)) >= 4
            assert (points >= 0).all() and (points < (960, 540)).all()


@pytest.mark.parametrize(("said", "share"), [("road", 100.0), ("terrain", 0.0)])
def test_scores(highway, said, share):
    drawn = {"0": {"road": [[(0, 0), (9, 0), (9, 9), (0, 9)]], "terrain": [[(20, 0), (29, 0), (29, 9), (20, 9)]]}}
    number = CITYSCAPES.names.index(said)

    class Constant:
        header = SimpleNamespace(label_space=CITYSCAPES, classes=tuple(range(19)))

        def settle(self, sampling):
            return sampling

        def segment(self, frames, sampling):
            return SimpleNamespace(labels=np.full(frames.shape[:3], number, np.uint8))

    drawn["0"]["fence"] = [[(40, 0), (41, 0), (41, 1), (40, 1)]]
    found, _ = highway.score(Constant(), {"0": np.zeros((20, 60, 3), np.uint8)}, drawn)
    assert found["classes"]["road"]["recall"] == (100 if said == "road" else 0)
    # 100 pixels of each, 4 of fence: all are taken for the one class.
    assert found["classes"][said]["iou"] == pytest.approx(100 * 100 / 204, abs=0.01)
    if said == "road":
        assert found["verge_and_fence_as_road_or_building"] == share
    else:
        assert found["verge_and_fence_as_road_or_building"] == 0
