"""What inspect reports about one data set and about a pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iccld_cli.data.prepared import DatasetInfo, Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.inspect import inspect


def make(root: Path, classes: tuple[str, ...] | None, pixels: dict[str, int], **fields) -> PreparedDataset:
    """A prepared data set without its images."""
    root.mkdir()
    frames = dict.fromkeys(pixels, 50)
    info = DatasetInfo(
        **{
            "name": root.name,
            "classes_known": classes,
            "splits": {"train": 2, "val": 1},
            "extra": {"pixels": pixels, "frames": frames, "labelled": 3} if classes else {},
            **fields,
        }
    )
    (root / "dataset.json").write_text(json.dumps(info.to_json()))
    lines = [Frame("train", f"{i}.png", None, w, 10, None).to_json() for i, w in enumerate((20, 20, 30))]
    (root / "index.jsonl").write_text("\n".join(lines) + "\n")
    return PreparedDataset(root)


def test_one_data_set(tmp_path):
    data = make(
        tmp_path / "a",
        ("road", "sky", "bus"),
        {"road": 10_000, "sky": 2, "ignore": 20_000},
        skipped=({"file": "x", "reason": "y"},),
    )
    report = inspect(data)
    assert report.sizes == [[((20, 10), 2), ((30, 10), 1)]]
    text = "\n".join(report.warnings)
    assert "in the label map but in no frame: bus" in text
    assert "tiny share of the pixels: sky 0.007 %" in text
    assert "only 3 labelled frames" in text
    many = make(
        tmp_path / "b", ("road",), {"road": 1}, extra={"pixels": {"road": 9}, "frames": {"road": 3}, "labelled": 99}
    )
    assert inspect(many).warnings == ["b: in fewer than 20 frames: road 3"]
    assert "67 % of the labelled pixels are ignored" in text
    assert "1 frame was left out (" in text


def test_a_target_without_labels(tmp_path):
    source, target = make(tmp_path / "a", ("road",), {"road": 1}), make(tmp_path / "b", None, {})
    report = inspect(source, target)
    assert report.scored == ("road",)
    assert any("nothing can be scored" in text for text in report.warnings)
    with pytest.raises(IccldError, match="cannot be a source"):
        inspect(target, source)


def test_pairs_that_do_not_fit(tmp_path):
    source = make(tmp_path / "a", ("road",), {"road": 1})
    with pytest.raises(IccldError, match="no class in common"):
        inspect(source, make(tmp_path / "b", ("sky",), {"sky": 1}))
    space = LabelSpace("own", ("road",), (CITYSCAPES.colors[0],))
    with pytest.raises(IccldError, match="label space"):
        inspect(source, make(tmp_path / "c", ("road",), {"road": 1}, label_space=space))


def test_a_target_that_does_not_tell_classes_apart(tmp_path):
    source = make(tmp_path / "a", ("road", "car", "truck", "bus"), {"road": 1})
    target = make(tmp_path / "b", ("road", "car"), {"road": 1}, covers={"truck": "car"})
    warnings = inspect(source, target).warnings
    assert "b does not distinguish some classes; they are trained as others: truck as car" in warnings
    assert "bus is unknown to the target b: it is not scored" in warnings
    assert not any(text.startswith("truck is unknown") for text in warnings)
