"""The commands as functions: the documentation's example, callbacks, and names that nothing hides."""

import ast
import doctest
import pkgutil
import threading

import numpy as np
import pytest
import training_runs

from iccld_cli import adapt_adv, adapt_footage, adapt_seg, calls, load, prepare_data
from iccld_cli.errors import IccldError
from iccld_cli.header import read_header


def settings():
    """The keys of a network of some ten thousand parameters."""
    small = [value.partition("=")[::2] for value in training_runs.SMALL]
    return {key: ast.literal_eval(value) for key, value in small}


def test_no_public_function_has_the_name_of_a_subpackage():
    import iccld_cli.prepare.prepare

    modules = {module.name for module in pkgutil.iter_modules(iccld_cli.__path__)}
    assert not modules & set(iccld_cli._FUNCTIONS)
    assert all(callable(getattr(iccld_cli, name)) for name in iccld_cli._FUNCTIONS)
    assert set(iccld_cli._FUNCTIONS) <= set(dir(iccld_cli))


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(calls, raise_on_error=True).attempted >= 6


def test_both_stages_with_callbacks_beside_the_main_thread(world, tmp_path, capfd):
    rows, steps, done = [], [], {}

    def train():
        common = dict(iterations=2, batch_size=2, crop=(64, 64), on_log=rows.append)
        done["seg"] = adapt_seg(
            world / "source", tmp_path / "run", target=[str(world / "target")], preset="tiny", settings=settings(),
            on_step=lambda number, total: steps.append((number, total)), **common,
        )  # fmt: skip
        own = {key: value for key, value in settings().items() if key.startswith(("data.", "run."))}
        done["adv"] = adapt_adv(done["seg"], settings=own, **common)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert steps == [(1, 2), (2, 2)]
    assert [row["step"] for row in rows] == [1, 2, 1, 2]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert done["adv"] == tmp_path / "run/stage2.safetensors"
    assert [read_header(path).stage for path in done.values()] == ["stage1", "stage2"]
    assert load(done["adv"], backend="torch").predict(np.zeros((32, 48, 3), np.uint8)).labels.shape == (32, 48)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: prepare_data(folder), "nothing to prepare"),
        (lambda folder: prepare_data(folder, gta6="x"), "no raw data set 'gta6'"),
        (lambda folder: adapt_seg(folder / "gone", folder / "run"), "no prepared data set"),
        (lambda folder: adapt_adv(folder / "gone.safetensors"), "no model file at"),
        (lambda folder: adapt_footage("x.mp4", folder / "run", ckpt=folder / "gone.safetensors"), "no model file at"),
        (lambda folder: adapt_footage(folder / "gone.mp4", folder / "run"), "gone.mp4"),
    ],
)
def test_mistakes_are_errors_to_catch(tmp_path, call, words):
    with pytest.raises(IccldError, match=words):
        call(tmp_path)
    assert not (tmp_path / "run").exists()
