"""What a training state keeps, and what it refuses."""

import json
import os

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from iccld_cli.config import load_config
from iccld_cli.errors import IccldError
from iccld_cli.parallel.layout import Replicated
from iccld_cli.train.state import Contents, list_states, load_state, remove_leftovers, save_state

pytestmark = pytest.mark.own_process  # signals


def contents(seed=0, resume_key=None, extras=None, steps=0, fused=False):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)
    for _ in range(steps):
        network(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return Contents(
        {"net": network},
        {"adam": optimizer},
        resume_key or {"seed": 1},
        extras or {},
        Replicated(Accelerator(cpu=True)),
    )


def test_a_state_brings_everything_back_to_the_bit(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))  # makes the lazily built scale
    extras = {"window": [{"loss": 0.1 + 0.2}], "scaler": scaler.state_dict()}
    before = contents(seed=0, steps=3, extras=extras)
    save_state(tmp_path, "stage1", 3, before, keep=1)
    after = contents(seed=9)
    step, found = load_state(list_states(tmp_path)[0], after)
    assert (step, found) == (3, extras)
    fresh = torch.amp.GradScaler("cpu")
    fresh.load_state_dict(found["scaler"])
    assert fresh.get_scale() == 1024.0
    for x, y in zip(
        before.modules["net"].state_dict().values(), after.modules["net"].state_dict().values(), strict=True
    ):
        assert torch.equal(x, y)
    for p, q in zip(before.modules["net"].parameters(), after.modules["net"].parameters(), strict=True):
        for key, value in before.optimizers["adam"].state[p].items():
            other = after.optimizers["adam"].state[q][key]
            assert torch.equal(value, other)
            assert value.stride() == other.stride(), "another layout in memory takes kernels that round differently"


@pytest.mark.parametrize("fused", [False, True])
def test_the_kernels_of_the_optimizer_are_those_of_this_device(tmp_path, fused):
    save_state(tmp_path, "stage1", 3, contents(steps=3, fused=not fused), keep=1)
    after = contents(seed=9, fused=fused)
    load_state(list_states(tmp_path)[0], after)
    optimizer = after.optimizers["adam"]
    assert [group["fused"] for group in optimizer.param_groups] == [fused]
    after.modules["net"](torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}


def test_only_the_newest_states_of_a_stage_are_kept(tmp_path):
    save_state(tmp_path, "stage1", 9, contents(), keep=2)
    for step in (1, 2, 10, 3, 10):
        save_state(tmp_path, "stage2", step, contents(), keep=2)
    assert [(s.stage, s.step) for s in list_states(tmp_path)] == [("stage2", 3), ("stage1", 9), ("stage2", 10)]
    assert {p.name[0] for p in (tmp_path / "state").iterdir()} == {"s"}


def test_what_changed_is_refused_by_name(tmp_path):
    key = {"config": {"optim": {"lr": 0.1}}, "data": {"source 0 (carla)": "ab"}, "processes": 2}
    save_state(tmp_path, "stage1", 1, contents(resume_key=key), keep=1)
    other = {"config": {"optim": {"lr": 0.2}}, "data": {"source 0 (carla)": "cd"}, "processes": 1}
    with pytest.raises(IccldError) as error:
        load_state(list_states(tmp_path)[0], contents(resume_key=other))
    assert "config.optim.lr (0.1 -> 0.2), data.source 0 (carla), processes (2 -> 1)" in str(error.value)


def test_a_state_from_before_a_key_was_renamed_goes_on(tmp_path):
    key = {"config": {"seg": {"confidence": "quantile", "burn_in": 0.3}, "run": {"seed": 1}}}
    save_state(tmp_path, "stage1", 3, contents(resume_key=key), keep=1)
    saved = list_states(tmp_path)[0]
    now = {"config": {"seg": {"burn_in": 0.3}, "pseudo": {"gate": "quantile"}, "run": {"seed": 1}}}
    assert load_state(saved, contents(resume_key=now))[0] == 3
    now["config"]["pseudo"]["gate"] = "balanced"
    with pytest.raises(IccldError, match=r"differs from the run is config\.pseudo\.gate"):
        load_state(saved, contents(resume_key=now))


def test_a_state_from_before_there_was_a_key_goes_on(tmp_path):
    now = load_config("tiny").model_dump(mode="json")
    old = {name: dict(part) if isinstance(part, dict) else part for name, part in now.items()}
    del old["recipe"], old["seg"]["boundary_weight"]
    save_state(tmp_path, "stage1", 3, contents(resume_key={"config": old}), keep=1)
    saved = list_states(tmp_path)[0]
    assert load_state(saved, contents(resume_key={"config": now}))[0] == 3
    with pytest.raises(IccldError, match=r"differs from the run is config\.recipe"):
        load_state(saved, contents(resume_key={"config": now | {"recipe": "dacs"}}))


def test_a_damaged_state_is_named_and_the_older_one_still_loads(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, "stage1", step, contents(steps=step), keep=2)
    older, newest = list_states(tmp_path)
    file = newest.path / "tensors.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 0x40  # one bit, which safetensors itself does not notice
    file.write_bytes(raw)
    with pytest.raises(IccldError, match=r"stage1-00000002 is damaged.*checksum.*older state"):
        load_state(newest, contents())
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(IccldError, match="stage1-00000002 cannot be read"):
        load_state(newest, contents())
    (newest.path / "state.json").write_text("{}")
    with pytest.raises(IccldError, match="cannot be read"):
        load_state(newest, contents())
    assert load_state(older, contents())[0] == 1


def test_what_is_not_finite_is_never_saved(tmp_path):
    good = contents(steps=1)
    save_state(tmp_path, "stage1", 1, good, keep=1)
    with torch.no_grad():
        good.modules["net"][2].bias[0] = np.nan
    with pytest.raises(IccldError, match=r"module/net/2.bias is not finite after step 2"):
        save_state(tmp_path, "stage1", 2, good, keep=1)
    assert [s.step for s in list_states(tmp_path)] == [1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    import resource

    save_state(tmp_path, "stage1", 1, contents(steps=1), keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises((IccldError, OSError)):
            save_state(tmp_path, "stage1", 2, contents(steps=2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    (state,) = list_states(tmp_path)
    assert load_state(state, contents())[0] == 1
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_what_a_kill_left_is_not_a_state_and_is_cleared(tmp_path):
    part = tmp_path / "state" / ".0123abcd.part"
    part.mkdir(parents=True)
    (part / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / ".config.1234.part.toml").write_text("half")
    assert list_states(tmp_path) == []
    remove_leftovers(tmp_path)
    assert list(tmp_path.rglob("*.part*")) == []


def test_a_state_holds_nothing_that_is_unpickled(tmp_path):
    path = save_state(tmp_path, "stage1", 1, contents(steps=1), keep=1)
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "tensors.safetensors"]
    json.loads((path / "state.json").read_text())
