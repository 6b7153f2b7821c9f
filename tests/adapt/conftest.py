"""Data sets and trained files that several tests of training share."""

import pytest
import training_runs


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with the prepared data sets `source` and `target`."""
    root = tmp_path_factory.mktemp("world")
    training_runs.make_dataset(root / "source", seed=1)
    training_runs.make_dataset(root / "target", (("train", 4), ("val", 2)), size=(72, 64), seed=2)
    return root


@pytest.fixture(scope="session")
def stage1(world):
    """The run folder of a finished stage 1: six steps without an interruption."""
    assert training_runs.run(training_runs.seg_arguments(world, world / "stage1")) == [0], training_runs.said(
        world / "stage1"
    )
    return world / "stage1"


@pytest.fixture(scope="session")
def pair(world):
    """The run folder of a finished stage 1 on two processes: six steps without an interruption."""
    out = world / "pair"
    assert training_runs.run(training_runs.seg_arguments(world, out), ranks=2) == [0, 0], training_runs.said(out, 1)
    return out
