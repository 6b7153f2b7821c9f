"""`benchmarks/labelled.py`: which labels its rows have, and what it makes of what was not run."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import make_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import labelled

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.labels import IGNORE
from iccld_cli.prepare.labelmap import parse_label_map
from iccld_cli.reading import parse_toml


@pytest.fixture
def options(tmp_path):
    target = make_dataset(tmp_path / "target", (("train", 30), ("test", 1)))
    info = json.loads((target / "dataset.json").read_text()) | {"covers": {"truck": "car"}}
    (target / "dataset.json").write_text(json.dumps(info))
    return argparse.Namespace(
        target=target, out=tmp_path / "out", seed=3, ckpt="free", iterations=2, batch_size=2, precision="fp32",
        split="test", set=[], device="cpu", limit=0, classes=None, source=[],
    )  # fmt: skip


def test_rows_of_points_have_the_frames_of_the_masks_and_a_few_of_their_pixels(options):
    points, masks = (
        PreparedDataset(labelled.labelled_set(labelled.BY_NAME[name], options)) for name in ("points-20", "masks-20")
    )
    assert [f.image for f in points.frames("train")] == [f.image for f in masks.frames("train")]
    assert points.info.classes_known == masks.info.classes_known == ("road", "building", "sky", "car")
    assert points.info.covers == {"truck": "car"}
    for few, whole in zip(points.frames("train"), masks.frames("train"), strict=True):
        some, every = points.read_label(few), masks.read_label(whole)
        assert (some != IGNORE).sum() == labelled.POINTS
        assert np.array_equal(some[some != IGNORE], every[some != IGNORE])
    again = PreparedDataset(options.target).read_label(PreparedDataset(options.target).frames("train")[0])
    assert np.array_equal(masks.read_label(masks.frames("train")[0]), again)


def test_choices_hold_as_many_frames_as_they_say(options):
    frames = PreparedDataset(options.target).frames("train")
    even, random = (labelled.chosen(labelled.BY_NAME[name], frames, options) for name in ("masks-5", "random-20"))
    assert even == [0, 6, 12, 18, 24]
    assert len(set(random)) == 20 and random == labelled.chosen(labelled.BY_NAME["random-20"], frames, options)


def test_the_label_map_is_one(options):
    table = parse_label_map(parse_toml(labelled.map_of(PreparedDataset(options.target))))
    assert table.ids[255] is None and table.covers == {"truck": "car"}


def test_what_was_not_run_is_null_and_the_rest_is_drawn(options):
    folder = options.out / "start"
    folder.mkdir(parents=True)
    scores = {"miou": 47.25, "pixel_accuracy": 80.0, "images": 1, "classes": {"road": {"iou": 90.0, "pixels": 5}}}
    (folder / "test.json").write_text(json.dumps(scores))
    found = labelled.collect(options)
    assert found["rows"]["start"]["miou"] == 47.25 and found["rows"]["start"]["labelled_pixels"] == 0
    assert [name for name, row in found["rows"].items() if row] == ["start"]
    labelled.draw(found, options.out / "labelled.png")
    assert (options.out / "labelled.png").read_bytes().startswith(b"\x89PNG")
