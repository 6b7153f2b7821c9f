"""A training that is killed and resumed is the training that was not."""

import os
import signal
import subprocess
import sys
import time

import pytest
import training_runs as runs

from iccld_cli.train.state import list_states


def wait_for_lines(out, count, processes=()):
    """Until the log holds so many lines."""
    log, end = out / "log.jsonl", time.monotonic() + 100
    while not (log.is_file() and len(log.read_text().splitlines()) >= count):
        assert time.monotonic() < end and all(p.is_alive() for p in processes), "no progress"
        time.sleep(0.01)


def same_tensors(one, other):
    """The same weights to the bit: the headers name the same digest."""
    from iccld_cli.header import read_header

    assert read_header(one).sha256 == read_header(other).sha256


def test_stage_1_killed_twice_equals_the_uninterrupted_run_to_the_bit(world, stage1, tmp_path):
    # Once without any state yet, once between two states, which are no multiple of anything.
    command = runs.seg_arguments(world, tmp_path / "run", "--save-every", "4")
    for lines in (2, 5):
        (process,) = runs.start([*command, "--resume"])
        wait_for_lines(tmp_path / "run", lines, [process])
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (tmp_path / "run" / "log.jsonl").open("a").write('{"stage": "stage1", "st')  # a line cut by the kill
    assert runs.run([*command, "--resume"]) == [0], runs.said(tmp_path / "run")
    assert runs.numbers(tmp_path / "run") == runs.numbers(stage1)
    same_tensors(tmp_path / "run" / "stage1.safetensors", stage1 / "stage1.safetensors")
    assert not list((tmp_path / "run" / "state").glob(".*"))


def test_stage_2_on_two_ranks_killed_equals_the_uninterrupted_run_to_the_bit(stage1, tmp_path):
    def command(name, *more):
        return runs.adv_arguments(stage1 / "stage1.safetensors", tmp_path / name, *more, batch=1)

    assert runs.run(command("whole"), ranks=2) == [0, 0], runs.said(tmp_path / "whole", 1)
    processes = runs.start(command("run", "--save-every", "2"), ranks=2)
    wait_for_lines(tmp_path / "run", 3, processes)
    began = time.monotonic()
    os.kill(processes[1].pid, signal.SIGKILL)
    for process in processes:
        process.join(400)
    assert processes[0].exitcode == 1, "a dying rank must end the others"
    assert time.monotonic() - began < 60
    assert "lost another process" in runs.said(tmp_path / "run")
    assert runs.run(command("run", "--save-every", "2", "--resume"), ranks=2) == [0, 0], runs.said(tmp_path / "run", 1)
    assert runs.numbers(tmp_path / "run") == runs.numbers(tmp_path / "whole")
    same_tensors(tmp_path / "run" / "stage2.safetensors", tmp_path / "whole" / "stage2.safetensors")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_leaves_with_130(world, tmp_path, number):
    out = tmp_path / "run"
    command = runs.seg_arguments(world, out, "run.log_every=3", "--save-every", "0", steps=4000)
    if number == signal.SIGTERM:  # once through the command as a user starts it
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-m", "iccld_cli", *command], env=environment)
    else:
        (process,) = runs.start(command)
    wait_for_lines(out, 1)
    os.kill(process.pid, number)
    if number == signal.SIGTERM:
        assert process.wait(400) == 130
    else:
        process.join(400)
        assert process.exitcode == 130, runs.said(out)
        assert "go on with --resume" in runs.said(out)
    (state,) = list_states(out)
    assert state.step < 3000
    logged = [row["step"] for row in runs.numbers(out)]
    assert all(step % 3 == 0 for step in logged), "an interruption must not shift the lines of the log"


def test_stage_1_on_two_ranks_killed_equals_the_uninterrupted_run_to_the_bit(world, pair, tmp_path):
    command = runs.seg_arguments(world, tmp_path / "run", "--save-every", "2")
    processes = runs.start(command, ranks=2)
    wait_for_lines(tmp_path / "run", 3, processes)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert runs.run([*command, "--resume"], ranks=2) == [0, 0], runs.said(tmp_path / "run", 1)
    assert runs.numbers(tmp_path / "run") == runs.numbers(pair)
    same_tensors(tmp_path / "run" / "stage1.safetensors", pair / "stage1.safetensors")


def test_stage_2_killed_equals_the_uninterrupted_run_to_the_bit(stage1, tmp_path):
    def command(name, *more):
        return runs.adv_arguments(stage1 / "stage1.safetensors", tmp_path / name, *more, batch=1)

    assert runs.run(command("whole")) == [0], runs.said(tmp_path / "whole")
    (process,) = runs.start(command("run", "--save-every", "2"))
    wait_for_lines(tmp_path / "run", 3, [process])
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert runs.run(command("run", "--save-every", "2", "--resume")) == [0], runs.said(tmp_path / "run")
    assert runs.numbers(tmp_path / "run") == runs.numbers(tmp_path / "whole")
    same_tensors(tmp_path / "run" / "stage2.safetensors", tmp_path / "whole" / "stage2.safetensors")


@pytest.mark.parametrize("shard", ["false", "true"])
def test_a_signal_to_one_of_two_ranks_stops_both_with_all_saved(world, tmp_path, shard):
    out = tmp_path / "run"
    command = runs.seg_arguments(world, out, f"run.shard={shard}", "--save-every", "0", steps=30, batch=1)
    processes = runs.start(command, ranks=2)
    wait_for_lines(out, 1, processes)
    os.kill(processes[1].pid, signal.SIGTERM)  # as a node's scheduler does; the other rank hears of it from this one
    for process in processes:
        process.join(400)
    assert [p.exitcode for p in processes] == [130, 130], runs.said(out) + runs.said(out, 1)
    (state,) = list_states(out)
    assert state.step < 30
    assert runs.run([*command, "--resume"], ranks=2) == [0, 0], runs.said(out, 1)
    assert [row["step"] for row in runs.numbers(out)] == list(range(1, 31))
    assert f"resuming stage1 after step {state.step}" in runs.said(out)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process's memory as Linux does")
def test_too_little_memory_ends_with_a_line_that_names_what_to_lower(world, tmp_path):
    out = tmp_path / "run"
    command = runs.seg_arguments(world, out, "--crop", "1024x1024", batch=8)
    (process,) = runs.start(command, room=600 * 2**20)
    process.join(400)
    said = runs.said(out)
    assert process.exitcode == 1, said
    (line,) = [row for row in said.splitlines() if "error:" in row]
    assert "ran out of memory in step 1 of stage1" in line
    for option in ("--batch-size", "--crop", "run.accumulate", "run.checkpointing"):
        assert option in line
    assert "Traceback" not in said


def test_looking_at_a_run_changes_no_weight(world, stage1, tmp_path):
    looks = ("run.validate_every=1", "run.overlay_every=2", "--save-every", "3")
    assert runs.run(runs.seg_arguments(world, tmp_path / "run", *looks)) == [0], runs.said(tmp_path / "run")
    assert all("miou" in row for row in runs.numbers(tmp_path / "run"))
    same_tensors(tmp_path / "run" / "stage1.safetensors", stage1 / "stage1.safetensors")
    for name in ("whole", "seen"):
        more = looks if name == "seen" else ()
        command = runs.adv_arguments(stage1 / "stage1.safetensors", tmp_path / name, *more, steps=4)
        assert runs.run(command) == [0], runs.said(tmp_path / name)
    same_tensors(tmp_path / "seen" / "stage2.safetensors", tmp_path / "whole" / "stage2.safetensors")
