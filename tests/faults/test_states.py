"""Training states that were damaged or edited: refused in one line, before anything of the run is touched."""

import json
import os
import shutil

import pytest
import torch
import training_runs as runs
from accelerate import Accelerator
from torch import nn

from iccld_cli.errors import IccldError
from iccld_cli.parallel.layout import Replicated
from iccld_cli.train.loop import extras_problem
from iccld_cli.train.state import Contents, list_states, load_state, save_state

WHOLE = Replicated(Accelerator(cpu=True))
EXTRAS = {"window": [{"loss": 0.5}], "health": [], "validation": {"miou": 3.0}, "scaler": None}


def contents():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    facts = {"seed": 1, "sizes": (3, 4), "classes": {0: "road", 10: "sky", 2: "car"}}
    return Contents({"net": network}, {"adam": optimizer}, json.loads(json.dumps(facts)), EXTRAS, WHOLE)


@pytest.fixture
def state(tmp_path):
    save_state(tmp_path, "stage1", 7, contents(), keep=1)
    return list_states(tmp_path)[0]


def edit(state, old=False, **change):
    path = state.path / "state.json"
    record = {**json.loads(path.read_text()), **change}
    if old:
        del record["record_sha256"]
    path.write_text(json.dumps(record))


def refused(state, match):
    with pytest.raises(IccldError, match=match) as error:
        load_state(state, contents())
    assert "\n" not in str(error.value) and "start anew in another --out" in str(error.value)


def test_an_untouched_state_and_one_of_an_older_version_load(state):
    assert load_state(state, contents()) == (7, EXTRAS)
    edit(state, old=True)
    assert load_state(state, contents()) == (7, EXTRAS)


@pytest.mark.parametrize("step", [0, 6, 8, -7, 10**9, 10**30, 7.0, "7", None, True, [7], float("inf"), float("nan")])
@pytest.mark.parametrize("old", [False, True])
def test_b20_a_state_that_claims_another_step_is_refused(state, step, old):
    edit(state, old, step=step)
    refused(state, r"does not match its checksum" if not old else "it says step .*, its folder's name step 7")


@pytest.mark.parametrize(
    "change",
    [
        {"extras": {**EXTRAS, "window": [{"loss": 0.25}]}}, {"extras": {**EXTRAS, "validation": {"best_miou": 99}}},
        {"extras": {}}, {"facts": {}}, {"stage": "stage2"}, {"param_groups": {}}, {"sha256": "0" * 64}, {"more": 1},
    ],
)  # fmt: skip
def test_b20_everything_in_a_state_is_under_its_checksum(state, change):
    edit(state, **change)
    refused(state, "does not match its checksum")


@pytest.mark.parametrize("key", ["facts", "extras", "param_groups"])
@pytest.mark.parametrize("value", [None, 5, "x", []])
def test_b17_fields_of_another_kind_in_an_older_state_are_named(state, key, value):
    edit(state, old=True, **{key: value})
    refused(state, f"{key} is no object")


@pytest.mark.parametrize("groups", [{"adam": 5}, {"adam": [5]}, {"adam": [{}]}, {"adam": [{"params": "x"}]}, {}])
def test_b17_optimizer_settings_of_another_kind_are_one_line(state, groups):
    edit(state, old=True, param_groups=groups)
    refused(state, "does not fit these networks")


@pytest.mark.parametrize(
    "extras",
    [
        {}, {**EXTRAS, "window": 5}, {**EXTRAS, "window": [5]}, {**EXTRAS, "window": [{"loss": "x"}]},
        {**EXTRAS, "health": None}, {**EXTRAS, "health": [[1]]}, {**EXTRAS, "validation": None},
        {**EXTRAS, "validation": {"miou": None}}, {**EXTRAS, "validation": []},
    ],
)  # fmt: skip
def test_b17_extras_of_another_kind_are_found(extras):
    assert extras_problem(EXTRAS, scaled=False) is None
    assert extras_problem(extras, scaled=False)


def test_b17_a_missing_loss_scaler_is_found():
    assert extras_problem(EXTRAS, scaled=True) == "it has no loss scaler"


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 3000, b"9" * 6000, b'{"step": 1e999}']
)
def test_b17_a_state_that_is_no_json_object_is_one_line(state, text):
    (state.path / "state.json").write_bytes(text)
    refused(state, r"stage1-00000007 cannot be read")


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a11_a_pipe_or_a_device_in_a_state_does_not_wait(state, name):
    (state.path / name).unlink()
    os.mkfifo(state.path / name)
    refused(state, f"{name} is a named pipe")
    (state.path / name).unlink()
    (state.path / name).symlink_to("/dev/zero")
    refused(state, f"{name} is a device")


def test_a11_a_state_file_without_an_end_is_not_read_whole(state):
    with open(state.path / "state.json", "r+b") as file:
        file.truncate(300 << 20)  # takes no room on the disk
    refused(state, "state.json is larger than 256 MiB")


def test_b20_a_run_with_a_state_beyond_its_end_is_refused_and_its_log_stays(tmp_path):
    runs.make_dataset(tmp_path / "source", seed=1)
    runs.make_dataset(tmp_path / "target", seed=2)
    run = tmp_path / "run"
    command = runs.seg_arguments(tmp_path, run, steps=4)
    assert runs.run(command) == [0], runs.said(run)
    log = (run / "log.jsonl").read_bytes()
    (run / "stage1.safetensors").unlink()
    whole = list_states(run)[-1].path

    for step, extras in ((10**9, None), (4, {"window": 5})):
        false = run / "state" / f"stage1-{step:08d}"
        if false != whole:
            shutil.move(whole, false)
        record = json.loads((false / "state.json").read_text())
        record |= {"step": step, "extras": extras or record["extras"]}
        record.pop("record_sha256", None)
        (false / "state.json").write_text(json.dumps(record))
        assert runs.run([*command, "--resume"]) == [1]
        last = runs.said(run).splitlines()[-1]
        assert last.startswith("error: cannot resume") and ("step 1000000000 of 4" in last or "window" in last)
        assert (run / "log.jsonl").read_bytes() == log
        assert not (run / "stage1.safetensors").exists()
        if false != whole:
            shutil.move(false, whole)
