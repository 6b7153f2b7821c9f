"""A training whose number of processes changes goes on with the same whole batch."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import training_runs as runs

from iccld_cli.header import read_header
from iccld_cli.train.state import list_states

ASKED = os.environ.get("ICCLD_ELASTIC_TESTS") is not None
PATIENCE = 600


def command(world, out, *more, batch=1):
    every = ("--save-every", "2", "run.keep_states=100", "--resume")
    return runs.seg_arguments(world, out, *every, *more, steps=8, batch=batch)


def cut(run, out, step):
    """A copy of a run as it was after a step."""
    shutil.copytree(run, out)
    for state in list_states(out):
        if state.step > step:
            shutil.rmtree(state.path)
    (out / "stage1.safetensors").unlink()
    return out


@pytest.fixture(scope="module")
def two(world):
    """A finished run of two processes."""
    out = world / "elastic"
    assert runs.run(command(world, out), ranks=2) == [0, 0], runs.said(out) + runs.said(out, 1)
    return out


def test_one_process_goes_on_with_the_batch_of_two(world, two, tmp_path):
    out = cut(two, tmp_path / "same", 4)
    assert runs.run(command(world, out, batch=2)) == [0], runs.said(out)  # one process x 2, as two x 1
    assert "they were 2 x 1 x 1" in runs.said(out)
    runs.same_within_rounding(runs.numbers(two), runs.numbers(out))

    out = cut(two, tmp_path / "micro", 4)
    assert runs.run(command(world, out)) == [0], runs.said(out)
    assert "batches of 2 are now 1 x 1 x 2" in " ".join(runs.said(out).split())
    assert runs.numbers(out)[:4] == runs.numbers(two)[:4]
    assert [row["step"] for row in runs.numbers(out)] == list(range(1, 9))
    # The same samples; batch norm sees one at a time.
    assert runs.numbers(out)[4]["loss_source"] == pytest.approx(runs.numbers(two)[4]["loss_source"], rel=0.1)

    out = cut(out, tmp_path / "back", 6)  # and two again
    assert runs.run(command(world, out), ranks=2) == [0, 0], runs.said(out)


def test_a_batch_that_cannot_be_kept_is_refused(world, two, tmp_path):
    out = cut(two, tmp_path / "run", 4)
    assert runs.run(command(world, out, batch=3)) == [1]
    assert "config.data.batch_size" in runs.said(out)
    assert runs.run(command(world, out), ranks=3) == [1, 1, 1]
    assert "batches of 2 (2 x 1 x 1, processes x batch size x accumulate)" in " ".join(runs.said(out).split())


def agent(arguments, port, host, log):
    """A torchrun agent in a process group of its own, with one worker."""
    conf = f"is_host={int(host)},last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3,timeout=120"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc_per_node", "1"]
    torchrun += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
    torchrun += ["--rdzv_conf", conf, "--max_restarts", "3", "--monitor_interval", "0.5", "-m", "iccld_cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(log, "w") as file:
        return subprocess.Popen(
            [*torchrun, *arguments], stdout=file, stderr=file, env=environment, start_new_session=True
        )


def children(process):
    """Processes that an agent has started, with theirs: torchrun gives each worker a session of its own."""
    found, wanted = [], [process]
    while wanted:
        parent = wanted.pop()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                text = Path(f"/proc/{int(entry)}/stat").read_text()
                if int(text.rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry))
                    wanted.append(int(entry))
    return found


@pytest.mark.skipif(not ASKED, reason="ICCLD_ELASTIC_TESTS is not set: takes a minute and more")
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_node_that_dies_does_not_end_the_job(world, tmp_path):
    out = tmp_path / "run"
    arguments = command(world, out)
    arguments[arguments.index("--iterations") + 1] = "24"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = [agent(arguments, port, number == 0, tmp_path / f"{number}.txt") for number in range(2)]
    try:
        end = time.monotonic() + PATIENCE
        while not (out / "log.jsonl").exists() or len(runs.numbers(out)) < 5:
            assert time.monotonic() < end and all(a.poll() is None for a in agents), (tmp_path / "0.txt").read_text()
            time.sleep(0.05)
        for process in (agents[1].pid, *children(agents[1].pid)):  # the node is gone at once, nothing is said
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert agents[0].wait(PATIENCE) == 0, (tmp_path / "0.txt").read_text()
    finally:
        for process in [p for a in agents for p in (a.pid, *children(a.pid))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    text = (tmp_path / "0.txt").read_text()
    step = int(re.findall(r"resuming stage1 after step (\d+)", text)[-1])
    assert "stage1 on 2 x cpu" in text and "batches of 2 are now 1 x 1 x 2" in " ".join(text.split())
    assert 2 <= step < 24
    assert read_header(out / "stage1.safetensors").iterations == 24
    # Up to there the numbers are those of one process with the whole batch, from there on to the bit those of one
    # process that goes on from the same state.
    whole = tmp_path / "whole"
    alone = command(world, whole, batch=2)
    alone[alone.index("--iterations") + 1] = "24"
    assert runs.run(alone, timeout=PATIENCE) == [0], runs.said(whole)
    runs.same_within_rounding(runs.numbers(whole)[:step], runs.numbers(out)[:step])
    again = cut(out, tmp_path / "again", step)
    arguments[arguments.index("--out") + 1] = str(again)
    assert runs.run(arguments, timeout=PATIENCE) == [0], runs.said(again)
    assert runs.numbers(again) == runs.numbers(out)
    assert read_header(again / "stage1.safetensors").sha256 == read_header(out / "stage1.safetensors").sha256
