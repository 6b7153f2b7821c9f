"""Answers as a set of labels: what is kept, and that the program takes what is written."""

import numpy as np
import pytest
from training_runs import make_dataset

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.pseudoset import in_steps, write_pseudo_set
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE
from iccld_cli.train.data import open_data


@pytest.fixture
def source(tmp_path):
    return PreparedDataset(make_dataset(tmp_path / "source", (("train", 3), ("val", 1))))


def answers(source, split="train"):
    """Roads above, cars below; roads are sure, ever surer to the right and frame by frame, and cars hardly."""
    for number, frame in enumerate(source.frames(split)):
        labels = np.zeros((frame.height, frame.width), np.uint8)
        labels[frame.height // 2 :] = 13
        rising = (np.arange(frame.width, dtype=np.float32)[None] + 1 + frame.width * number) / (3 * frame.width + 1)
        confidence = np.where(labels == 0, 0.9 + 0.1 * rising, 0.3 * rising).astype(np.float32)
        yield frame, labels, confidence


def test_of_every_class_the_surest_pixels_of_all_frames_keep_their_label(source, tmp_path):
    write_pseudo_set(source, tmp_path / "labels", answers(source), keep=1 / 3)
    found = PreparedDataset(tmp_path / "labels")
    labels = [found.read_label(frame) for frame in found.frames("train")]
    assert found.info.classes_known == ("road", "car") and found.info.splits == {"train": 3}
    assert (labels[0] == IGNORE).all() and (labels[1] == IGNORE).all()  # the third of each class lies in the last
    _, whole, _ = list(answers(source))[2]
    assert np.array_equal(labels[2], whole)
    for frame, label in zip(found.frames("train"), labels, strict=True):
        assert frame.pixels == {int(i): int((label == i).sum()) for i in np.unique(label)}
    assert found.info.extra["pixels"]["road"] == (whole == 0).sum()


def test_frames_are_the_sources_and_stay_so(source, tmp_path):
    before = (source.root / "index.jsonl").read_bytes()
    write_pseudo_set(source, tmp_path / "labels", answers(source), keep=1.0)
    found = PreparedDataset(tmp_path / "labels")
    for one, other in zip(found.frames("train"), source.frames("train"), strict=True):
        assert np.array_equal(found.read_image(one), source.read_image(other))
    assert (source.root / "index.jsonl").read_bytes() == before
    assert all((found.read_label(frame) != IGNORE).all() for frame in found.frames("train"))


def test_training_takes_it_as_labels(source, tmp_path):
    write_pseudo_set(source, tmp_path / "labels", answers(source), keep=0.5)
    data = open_data([source.root], [source.root], labelled=[tmp_path / "labels"])
    assert data.space.ids_of(["road", "car"]) == tuple(i for i in data.classes if i in (0, 13))


def test_what_does_not_fit_is_refused_and_nothing_written(source, tmp_path):
    out = tmp_path / "labels"
    frame, labels, confidence = next(answers(source))
    for wrong, what in (
        ((frame, labels[1:], confidence), "give uint8"),
        ((frame, np.full_like(labels, 200), confidence), "the label 200"),
        ((frame, labels, confidence + 1), "outside"),
    ):
        with pytest.raises(IccldError, match=what) as caught:
            write_pseudo_set(source, out, [wrong], keep=0.5)
        assert isinstance(caught.value, IccldError)
    with pytest.raises(IccldError, match="two answers"):
        write_pseudo_set(source, out, [(frame, labels, confidence)] * 2, keep=0.5)
    lost = Frame("train", "images/train/none.jpg", None, frame.width, frame.height, None)
    with pytest.raises(OSError):
        write_pseudo_set(source, out, [(lost, labels, confidence)], keep=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    out.mkdir()
    with pytest.raises(IccldError, match="exists"):
        write_pseudo_set(source, out, answers(source), keep=0.5)


def test_answers_that_can_be_read_twice_give_the_same_set(source, tmp_path):
    """What is held in memory, and what is read anew and has its confidence in steps."""

    class Kept:
        def __iter__(self):
            return ((frame, labels, in_steps(confidence)) for frame, labels, confidence in answers(source))

    write_pseudo_set(source, tmp_path / "one", answers(source), keep=0.4)
    write_pseudo_set(source, tmp_path / "other", Kept(), keep=0.4, name="another")
    assert PreparedDataset(tmp_path / "one").digest == PreparedDataset(tmp_path / "other").digest
    assert [PreparedDataset(tmp_path / name).info.name for name in ("one", "other")] == ["one", "another"]
