"""Two processes train as one does, and end together."""

import pytest
import training_runs as runs

from iccld_cli.checkpoint import load_segmenter


def same_within_rounding(one, many):
    assert [row["step"] for row in one] == [row["step"] for row in many]
    for a, b in zip(one, many, strict=True):
        for key in (
            "loss",
            "loss_source",
            "loss_mixed",
            "loss_latent",
            "loss_decoded",
            "loss_adversarial",
            "disc_loss",
        ):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=2e-3), (a["step"], key)


def test_two_ranks_train_stage_1_as_one_does(world, tmp_path):
    # One rank's labels hold far fewer pixels than the other's in some steps, so means of means would differ.
    assert runs.run(runs.seg_arguments(world, tmp_path / "one", batch=4)) == [0], runs.said(tmp_path / "one")
    assert runs.run(runs.seg_arguments(world, tmp_path / "two", batch=2), ranks=2) == [0, 0], runs.said(
        tmp_path / "two", 1
    )
    same_within_rounding(runs.numbers(tmp_path / "one"), runs.numbers(tmp_path / "two"))
    one, two = (load_segmenter(tmp_path / n / "stage1.safetensors")[0].state_dict() for n in ("one", "two"))
    for name, value in one.items():
        assert two[name].float().numpy() == pytest.approx(value.float().numpy(), rel=0.02, abs=2e-3), name
    assert "wrote" in runs.said(tmp_path / "two", 0)
    assert "wrote" not in runs.said(tmp_path / "two", 1)


def test_two_ranks_train_stage_2_as_one_does(stage1, tmp_path):
    file = stage1 / "stage1.safetensors"
    assert runs.run(runs.adv_arguments(file, tmp_path / "one", batch=2)) == [0], runs.said(tmp_path / "one")
    assert runs.run(runs.adv_arguments(file, tmp_path / "two", batch=1), ranks=2) == [0, 0], runs.said(
        tmp_path / "two", 1
    )
    same_within_rounding(runs.numbers(tmp_path / "one"), runs.numbers(tmp_path / "two"))
