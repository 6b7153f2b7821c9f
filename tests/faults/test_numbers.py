"""Numbers that break a computation, and data from which nothing can be learnt: told, and nothing written."""

import cv2
import pytest
import torch
import training_runs as runs
from commands import call, names
from factories import make_model, scene

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.explain import explain
from iccld_cli.train.data import open_data


@pytest.mark.parametrize("setting", ["optim.lr=1e300", "optim.lr=900", "optim.head_lr_factor=1e200"])
def test_b19_a_learning_rate_that_breaks_the_training_is_one_line(world, tmp_path, setting):
    out = tmp_path / "run"
    status = runs.run(runs.seg_arguments(world, out, setting))
    assert status in ([1], [2])
    said = runs.said(out)
    assert "Traceback" not in said and "internal error" not in said
    assert not (out / "stage1.safetensors").exists()


def test_c26_a_target_that_is_a_source_and_a_set_of_one_frame_are_warned_of(world, tmp_path):
    assert any("also a source" in line for line in open_data([world / "source"], [world / "source"]).warnings())
    one = runs.make_dataset(tmp_path / "one", (("train", 1),), seed=7)
    assert any("single frame" in line for line in open_data([world / "source"], [one]).warnings())
    assert open_data([world / "source"], [world / "target"]).warnings() == []


@pytest.mark.parametrize("factor", [1e15, 1e20])
def test_c26_a_model_whose_sums_overflow_is_told_as_that(tmp_path, capsys, factor):
    """It gave one class everywhere, without a word."""
    segmenter, header = load_segmenter(make_model(tmp_path / "sound.safetensors"))
    with torch.no_grad():
        for weight in segmenter.parameters():
            weight.mul_(factor)
    save_segmenter(tmp_path / "huge.safetensors", segmenter, header)
    cv2.imwrite(str(tmp_path / "x.png"), scene(0, 64, 48)[0])
    assert (
        call(["predict", tmp_path / "x.png", "--ckpt", tmp_path / "huge.safetensors", "--out", tmp_path / "out"]) == 1
    )
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_a_crop_too_small_for_batch_norm_is_one_line():
    norm = torch.nn.BatchNorm2d(2).train()
    with pytest.raises(ValueError) as told:
        norm(torch.zeros(1, 2, 1, 1))
    found = explain(told.value)
    assert isinstance(found, IccldError)
    assert "--crop" in str(found)
