"""`benchmarks/adapt_trials.py`: its jobs, how it ranks variants, and its table."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import adapt_trials as trials

from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.training import training_config


def scored(new, old=None, score=0.8):
    found = {"miou": {"val": new, "test": new}, "score": score, "confidence": 0.9}
    return found | ({} if old is None else {"miou": {"val": new, "test": new, "test/0001TP": old}})


@pytest.fixture
def add(tmp_path):
    """A function: protocol, variant, seed, mIoU of the adapted model (of the averages it is 1 lower) -> its result."""

    def write(name, variant, seed, new, old=40.0, score=0.8):
        names = ["start", "norms", "views"] if variant == "start" else trials.candidate_names()
        judged = {key: scored(new - (key not in ("adapted", "start")), old, score) for key in names}
        folder = tmp_path / trials.job_name(name, variant, seed)
        folder.mkdir()
        result = {"protocol": name, "variant": variant, "seed": seed, "judged": judged}
        (folder / "result.json").write_text(json.dumps(result))

    return write


def test_jobs_need_what_comes_before_them():
    jobs, before = trials.jobs(), set()
    for job in jobs:
        assert set(job["needs"]) <= before and job["name"] not in before
        before.add(job["name"])
    assert {trials.job_name(name, variant, 0) for name in trials.PROTOCOLS for variant in trials.VARIANTS} - before == {
        trials.job_name(name, variant, 0) for name, variant in trials.SAME
    }


def test_the_best_is_best_in_both_and_keeps_the_old_road(add, tmp_path):
    for name, start in (("p1", 50.0), ("p2", 47.0)):
        add(name, "start", 0, start)
        add(name, "beside", 0, start + 2)
        add(name, "context", 0, start + (5 if name == "p1" else 1))  # more in one, less in the other
        add(name, "long", 0, start + 3, old=37.0)  # loses the old road
    add("p1", "masked", 0, 60.0)  # not tried in p2
    where = trials.Where(tmp_path, tmp_path)
    assert trials.Table(tmp_path).worth("long") == pytest.approx(0.5)
    assert [trials.claim(rank, where) for rank in ("best-1", "best-2", "best-1")] == ["beside", "context", "beside"]
    assert trials.claim("best-3", where) == "long"
    with pytest.raises(SystemExit, match="no variant is left"):
        trials.claim("best-4", where)


def test_the_table_has_gains_losses_and_what_is_kept(add, tmp_path):
    add("p1", "start", 0, 50.0, old=45.0, score=0.80)
    add("p1", "beside", 0, 52.0, old=44.0, score=0.83)
    add("p1", "beside", 1, 53.0, old=45.5, score=0.79)
    lines = trials.Table(tmp_path).lines()
    first = next(line for line in lines if line.startswith("| beside"))  # the adapted model gained most
    assert "| adapted | 0, 1 | +2.50 | +2.0, +3.0 | -1.0, +0.5 | +0.0300, -0.0100 | adapted, average |" in first
    assert lines[-1] == "p2: the start was not judged\n"


def test_a_trial_is_trained_as_before_with_its_own_settings_on_top(small_config):
    base = small_config("optim.lr=3e-5", preset="small")

    def trained(variant):
        config = trials.config_of(trials.VARIANTS[variant], base, 0, 300, "cpu")
        return config.optim.lr, config.optim.head_lr_factor, config.pseudo.gate, config.data.context

    assert trained("defaults") == (pytest.approx(0.9e-5), 30.0, "balanced", (0, 0))
    assert trained("flip") == (pytest.approx(3e-5), 3.0, "quantile", (480, 352))


def test_what_adapt_does_is_the_variant_that_was_measured(small_config):
    base = small_config("data.crop=[256,256]", "optim.lr=3e-5", preset="small")
    of_trial = trials.config_of(trials.VARIANTS["flip"], base, 0, 300, "cpu")
    options = FootageOptions((), Path(), device="cpu")
    of_program = training_config(base, "stage1", 300, options, frame=(480, 360))
    for section in ("model", "data", "augment", "optim", "seg", "pseudo"):
        assert getattr(of_trial, section) == getattr(of_program, section)
