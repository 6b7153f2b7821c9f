"""What all tests share: quiet, single-threaded, offline, and small models."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network is a bug
os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands that tests start share the cores with one another

import atexit
import functools
import tempfile

import hypothesis
import pytest
import torch
import training_runs
import typer.main
from own_process import pytest_runtest_logreport, pytest_runtest_protocol  # noqa: F401  (hooks)

from iccld_cli.config import Config, load_config
from iccld_cli.models.build import build_segmenter

SMALL = (
    "model.tiny_channels=[8, 8, 16, 16]",
    "model.latent_channels=8",
    "model.fuse_channels=8",
    "model.skip_channels=4",
    "model.decoder_channels=8",
    "model.unet_channels=[16, 16]",
    "model.discriminator_channels=8",
)


# Conversions of these models are no use to anyone afterwards. Workers of pytest-xdist share those of the process that
# started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="iccld-tests-")
    atexit.register(_CACHE.cleanup)
    os.environ["ICCLD_CACHE"] = _CACHE.name

# A change is judged by the same examples each time; `pytest --hypothesis-profile=new` tries new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("new")
hypothesis.settings.load_profile("same")

# Thread teams cost more than they give at these sizes, and a process that was forked beside one waits for it for ever.
torch.set_num_threads(1)

# A process that calls the command line hundreds of times need not build its commands as often.
typer.main.get_command = functools.cache(typer.main.get_command)

# Files that take long, the longest first. A worker takes whole files, and one that was begun last would keep its worker
# busy while the others have nothing left to do.
LONG = (
    "test_fleet_engine.py",
    "test_compare_command.py",
    "test_processes.py",
    "test_footage.py",
    "test_demo.py",
    "test_export.py",
    "test_resume.py",
    "test_backends.py",
    "test_sharding.py",
    "test_exported.py",
    "test_speed.py",
    "test_elastic.py",
    "test_training.py",
    "test_hub.py",
    "test_model_files.py",
    "test_adapt_commands.py",
    "test_evaluate_command.py",
    "test_predict.py",
    "test_api.py",
    "test_architectures.py",
    "test_stages_on_device.py",
    "test_prepare_command.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Take files in the order below: that of pytest-xdist is by the number of their tests, which is not their time.

    A worker that dies ends the run: pytest-xdist 3.8 would hand its files, those that are done among them, to others,
    which wait for ever for a result from a file that has nothing left to do.
    """
    config.addinivalue_line("markers", "own_process: the module's tests run in a process of their own, own_process.py")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the long files first; all others stay as they are."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture
def iccld(monkeypatch, capsys):
    """A function: arguments -> (exit status, standard output, error output)."""
    from iccld_cli.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["iccld", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def small_config():
    """A function: assignments on top of a model of some ten thousand parameters -> `Config`."""

    def build(*assignments: str, preset: str = "tiny") -> Config:
        return load_config(preset, assignments=[*SMALL, *assignments])

    return build


@pytest.fixture(scope="session")
def small_settings():
    """The assignments that make a model small."""
    return SMALL


@pytest.fixture(scope="session")
def small_segmenter(small_config):
    """A function: assignments -> a small `Segmenter` with random weights, in evaluation mode.

    With `lively`, the denoiser's last layer, which starts at zero, gets random weights, so that noise matters.
    """

    def build(*assignments: str, classes: int = 5, denoiser: bool = True, seed: int = 0, lively: bool = True):
        model = build_segmenter(small_config(*assignments), classes, denoiser=denoiser, seed=seed).eval()
        if denoiser and lively:
            torch.nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.2)
        return model

    return build


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
