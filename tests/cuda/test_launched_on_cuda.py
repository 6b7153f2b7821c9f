"""One process as a launcher starts it: NCCL, data parallelism, and parameters in shards on a mesh of one."""

import subprocess
import sys

import pytest
from runs import PATIENCE, adv, launcher, run_python, seg, train


@pytest.mark.parametrize("stage", ["seg", "adv"])
@pytest.mark.parametrize("more", [(), ("run.shard=true",)], ids=["plain", "shard"])
def test_a_launched_process_trains_as_one_without(device, world, stage1, stage, more):
    begin, start = (seg, world) if stage == "seg" else (adv, stage1)
    plain, launched = (
        begin(start, world / f"{name}-{stage}{len(more)}", device, "--precision", "fp32", *sets)
        for name, sets in (("alone", ()), ("launched", more))
    )
    one, other = train(plain), train(launched, launched=True)
    assert (one.status, other.status) == (0, 0), one.said[-2000:] + other.said[-3000:]
    assert other.losses()[0] == pytest.approx(one.losses()[0], rel=1e-4)
    assert other.losses()[-1] == pytest.approx(one.losses()[-1], rel=1e-2)


def test_torchrun_starts_a_training(device, world):
    """The launcher itself, once: it costs two more starts of Python."""
    arguments = seg(world, world / "torchrun", device, "--precision", "fp32", steps=2)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1")
    done = subprocess.run(
        [*torchrun, "-m", "iccld_cli", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world / "torchrun/stage1.safetensors").exists()


def test_shards_compute_what_whole_networks_do(device, tmp_path):
    """FSDP2 over NCCL with a single process: the same loss and gradients."""
    status, said = run_python(_SCRIPT, [device], tmp_path / "shards", PATIENCE, launcher())
    assert status == 0, said
    assert "same DTensor" in said


_SCRIPT = """
import copy, sys, types
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from iccld_cli.parallel.sharding import Sharded
from iccld_cli.config import load_config
from iccld_cli.models.build import build_segmenter

kind = sys.argv[1]
dist.init_process_group("nccl" if kind == "cuda" else "gloo")
device = torch.device(kind, 0) if kind == "cuda" else torch.device("cpu")
whole = build_segmenter(load_config("tiny"), 5, denoiser=False, seed=0)
cut = copy.deepcopy(whole)
whole.to(device).eval()
Sharded(types.SimpleNamespace(device=device, mixed_precision="no", num_processes=1)).place([cut])
cut.eval()
images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
losses = []
for network in (whole, cut):
    loss = network(images)[0].square().mean()
    loss.backward()
    losses.append(float(loss))
assert abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[0]), losses
for (name, a), b in zip(whole.named_parameters(), cut.parameters(), strict=True):
    if a.grad is not None:
        other = b.grad.full_tensor() if isinstance(b.grad, DTensor) else b.grad
        assert torch.allclose(a.grad, other, rtol=1e-2, atol=1e-5), name
print("same", type(next(iter(cut.parameters()))).__name__)
dist.destroy_process_group()
"""
