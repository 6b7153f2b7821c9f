"""Two processes train as one does, and end together."""

import pytest
import training_runs as runs

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.parallel.ranks import refuse_launcher_sharding


def test_two_ranks_train_stage_1_as_one_does(world, pair, tmp_path):
    # One rank's labels hold far fewer pixels than the other's in some steps, so means of means would differ.
    assert runs.run(runs.seg_arguments(world, tmp_path / "one", batch=4)) == [0], runs.said(tmp_path / "one")
    runs.same_within_rounding(runs.numbers(tmp_path / "one"), runs.numbers(pair))
    one, two = (load_segmenter(out / "stage1.safetensors")[0].state_dict() for out in (tmp_path / "one", pair))
    for name, value in one.items():
        if name.startswith("encoder.laterals.") and name.endswith(".bias"):
            continue  # batch norm takes it out again: its gradient is rounding, of which Adam makes whole steps
        assert two[name].float().numpy() == pytest.approx(value.float().numpy(), rel=0.02, abs=2e-3), name
    assert "wrote" in runs.said(pair, 0)
    assert "wrote" not in runs.said(pair, 1)


def test_two_ranks_train_stage_2_as_one_does(stage1, tmp_path):
    file = stage1 / "stage1.safetensors"
    assert runs.run(runs.adv_arguments(file, tmp_path / "one", batch=2)) == [0], runs.said(tmp_path / "one")
    assert runs.run(runs.adv_arguments(file, tmp_path / "two", batch=1), ranks=2) == [0, 0], runs.said(
        tmp_path / "two", 1
    )
    runs.same_within_rounding(runs.numbers(tmp_path / "one"), runs.numbers(tmp_path / "two"))


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_shards_is_refused_and_the_own_way_named(monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(IccldError, match=r"run\.shard=true"):
        refuse_launcher_sharding()
