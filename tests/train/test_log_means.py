"""Lines of the log: means, and what stops a run."""

import json

import pytest
import torch

from iccld_cli.errors import IccldError
from iccld_cli.parallel.ranks import Ranks
from iccld_cli.report.curves import read_log
from iccld_cli.train import runlog
from iccld_cli.train.log_means import LogMeans
from iccld_cli.train.runlog import RunLog


def add(window, step, **numbers):
    window.add(step, [{k: torch.tensor(v) for k, v in numbers.items()}], [f"carla/{step}.png"])


def test_a_line_is_the_mean_of_its_steps_whether_or_not_it_was_collected_in_between():
    whole, stopped = LogMeans(Ranks()), LogMeans(Ranks())
    for step in range(3):
        add(whole, step, loss=0.1 * step, **({"loss_mixed": 1.0 + step} if step else {}))
        add(stopped, step, loss=0.1 * step, **({"loss_mixed": 1.0 + step} if step else {}))
        if step == 1:
            stopped.collect()
            rows = json.loads(json.dumps(stopped.rows))  # as a training state keeps them
            stopped = LogMeans(Ranks(), rows=rows)
    whole.collect()
    stopped.collect()
    line = whole.close()
    assert line == stopped.close()
    assert line["loss"] == pytest.approx(0.1)
    assert line["loss_mixed"] == pytest.approx(2.5)  # over the steps that have it
    assert whole.rows == []


def test_micro_batches_of_a_step_are_averaged():
    window = LogMeans(Ranks())
    window.add(0, [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(3.0), "grad_norm": torch.tensor(7.0)}], [])
    window.collect()
    assert window.close() == {"loss": 2.0, "grad_norm": 7.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_names_step_term_and_frames(value):
    window = LogMeans(Ranks())
    add(window, 6, loss=1.0, loss_mixed=1.0)
    add(window, 7, loss=value, loss_mixed=value)
    add(window, 8, loss=value, loss_mixed=value)
    with pytest.raises(IccldError) as error:
        window.collect()
    assert error.value.message == "training broke at step 8: loss_mixed is not finite (frames carla/7.png)"


def test_overflows_of_half_precision_are_no_error():
    window = LogMeans(Ranks(), overflows=True)
    add(window, 0, loss=1.0, grad_norm=float("inf"))
    add(window, 1, loss=1.0, grad_norm=2.0)
    window.collect()
    assert window.close() == {"loss": 1.0, "grad_norm": 2.0}
    add(window, 2, loss=float("nan"), grad_norm=1.0)
    with pytest.raises(IccldError, match="step 3: loss is not finite"):
        window.collect()


def test_a_log_drops_what_will_be_written_again_and_lines_cut_by_a_kill(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"stage": "stage1", "step": 9, "loss": 1.0}\n'
        '{"stage": "stage2", "step": 4, "loss": 0.30000000000000004}\n'
        '{"stage": "stage2", "step": 8, "loss": 1.0}\n{"stage": "stage2", "st'
    )
    RunLog(tmp_path, "stage2", 4).write({"step": 5, "loss": 2.0})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"], r["loss"]) for r in rows] == [
        ("stage1", 9, 1.0),
        ("stage2", 4, 0.1 + 0.2),
        ("stage2", 5, 2.0),
    ]


def test_curves_of_two_stages_follow_each_other(tmp_path):
    log = RunLog(tmp_path, "stage1", 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0})
    log = RunLog(tmp_path, "stage2", 0)
    log.write({"step": 1, "loss": 2.0})
    log.plot()
    curves, stages = read_log(log.path)  # what is drawn
    assert curves["loss"] == [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 2.0)]
    assert stages == [(0.0, "stage1"), (3.0, "stage2")]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


def test_curves_are_not_drawn_again_at_once(tmp_path, monkeypatch):
    log, picture = RunLog(tmp_path, "stage1", 0), tmp_path / "curves.png"
    log.write({"step": 1, "loss": 2.0})
    log.plot(last=False)
    assert not picture.exists()
    monkeypatch.setattr(runlog, "_PAUSE", 0.0)
    log.plot(last=False)
    assert picture.read_bytes()[:4] == b"\x89PNG"
