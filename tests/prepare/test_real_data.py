"""The real files of CARLA and CamVid, where ICCLD_REAL_DATA names the folder that holds carla/ and camvid/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.prepare.adapters import ADAPTERS
from iccld_cli.prepare.inspect import inspect
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree

ROOT = Path(os.environ.get("ICCLD_REAL_DATA", ""))
pytestmark = pytest.mark.skipif(
    "ICCLD_REAL_DATA" not in os.environ, reason="ICCLD_REAL_DATA is not set to a folder with carla/ and camvid/"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, PreparedDataset]:
    """Both data sets at their own size."""
    out = tmp_path_factory.mktemp("data")
    return {n: prepare(ADAPTERS[n](FolderTree(ROOT / n)), out, n, PrepareOptions())[0] for n in ("carla", "camvid")}


def test_camvid(prepared):
    info = prepared["camvid"].info
    assert info.splits == {"test": 233, "train": 367, "val": 101}
    assert info.extra["duplicates"]["frames"] == 0
    shares = {name: pixels / sum(info.extra["pixels"].values()) for name, pixels in info.extra["pixels"].items()}
    assert shares["road"] == pytest.approx(0.2932, abs=1e-3)
    assert shares["rider"] == pytest.approx(0.0054, abs=1e-3)


def test_carla(prepared):
    data = prepared["carla"]
    assert data.info.splits == {"train": 383}
    assert data.info.source["options"] == {"ids": "lyft"}
    sky, bonnet = [], []
    for frame in data.frames("train")[::40]:
        label = data.read_label(frame)
        sky.append((label[:100] == 10).mean())
        bonnet.append((label[498:] == 13).sum())
    assert np.mean(sky) > 0.5
    assert sum(bonnet) == 0


def test_together_they_score_ten_classes(prepared):
    assert inspect(prepared["carla"], prepared["camvid"]).scored == (
        *("road", "sidewalk", "building", "fence", "pole", "traffic sign"),
        *("vegetation", "sky", "person", "car"),
    )
