"""What a machine, a scheduler or a second run may do to a training, and what must come of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import training_runs as runs

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_video

from iccld_cli.data.batches import FramePool, TrainingBatches, read_steps
from iccld_cli.data.loading import load_ahead
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.sections import DataConfig

SMALL_SHM = """
import sys
from iccld_cli.data.loading import load_ahead
import torch
def make(item):
    return {"pixels": torch.full((4, 3, 512, 512), item % 251, dtype=torch.uint8), "number": item}
if __name__ == "__main__":
    with load_ahead(make, 0, 16, 4, False) as items:
        for number, item in enumerate(items):
            assert item["number"] == number and int(item["pixels"].max()) == int(item["pixels"].min()) == number
    print("all")
"""


@pytest.fixture
def world(tmp_path):
    runs.make_dataset(tmp_path / "source", seed=1)
    runs.make_dataset(tmp_path / "target", (("train", 4), ("val", 2)), size=(72, 64), seed=2)
    return tmp_path


def batches(world, workers, batch=2):
    pools = [FramePool.of([PreparedDataset(world / name)]) for name in ("source", "target")]
    return TrainingBatches(
        DataConfig(crop=(64, 32), batch_size=batch, workers=workers), 7, pools[0], pools[1], (0, 2, 10, 13)
    )


def children(pid):
    """Processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        state, parent = text.rpartition(")")[2].split()[:2]
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A3: shared memory of a container, and lost workers


@pytest.mark.parametrize("megabytes", [1, 0])
def test_batches_arrive_where_shared_memory_is_small_or_read_only(tmp_path, megabytes):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    kind = f"size={megabytes}m" if megabytes else "ro"
    script = tmp_path / "load.py"
    script.write_text(SMALL_SHM)
    inside = f"mount -t tmpfs -o {kind} tmpfs /dev/shm && echo ready && exec {sys.executable} {script}"
    command = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m", "bash", "-c", inside]
    found = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    if "ready" not in found.stdout:
        pytest.skip("may not mount here")
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["ready", "all"]


def test_pipes_bring_every_layout_and_value_to_the_bit():
    def make(item):
        generator = torch.Generator().manual_seed(item)
        image = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        return {
            "image": image, "mask": image[:, 0] > 100, "places": torch.arange(4).view(2, 2) * item,
            "part": torch.arange(20.0)[3:9], "none": torch.empty(0, 3), "names": [["a", "b"]], "micro": (item, 2),
        }  # fmt: skip

    with load_ahead(make, 3, 8, 2, False) as items:
        found = list(items)
    assert len(found) == 5
    for number, item in enumerate(found, 3):
        for key, value in make(number).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(item[key], value) and item[key].stride() == value.stride(), key
                assert item[key].dtype == value.dtype
            else:
                assert item[key] == value


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_any_number_of_workers_gives_the_same_batches(world, workers):
    alone = list(read_steps(batches(world, 0), 2, 7, pin_memory=False))
    helped = list(read_steps(batches(world, workers), 2, 7, pin_memory=False))
    assert len(helped) == 5
    for (one,), (other,) in zip(alone, helped, strict=True):
        assert all(
            torch.equal(getattr(one, k), getattr(other, k))
            for k in ("source", "label", "paste", "target", "pseudo_valid")
        )
        assert one.names == other.names


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, 2), slice(None)])
def test_a_worker_killed_for_lack_of_memory_ends_the_loading_with_its_reason(world, which):
    others = set(children(os.getpid()))
    steps = read_steps(batches(world, 2), 0, 5000, pin_memory=False)
    next(steps)
    victims = sorted(set(children(os.getpid())) - others)
    assert len(victims) == 2
    for pid in victims[which]:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(IccldError, match=r"a loading process died \(ended by signal 9, probably for lack of memory\)"):
        for _ in steps:
            pass
    assert time.monotonic() - began < 15
    assert not set(victims) & set(children(os.getpid()))


def test_a_worker_that_leaves_by_itself_is_named_with_its_status():
    def make(item):
        if item == 2:
            os._exit(7)
        return {"number": item}

    with load_ahead(make, 0, 9, 2, False) as items, pytest.raises(IccldError, match=r"ended with status 7\)"):
        list(items)


def test_an_error_of_the_program_in_a_worker_keeps_its_traceback():
    def make(item):
        return {"number": [][item]}

    with load_ahead(make, 0, 9, 2, False) as items, pytest.raises(RuntimeError, match=r"IndexError[\s\S]*in make"):
        list(items)


def test_memory_that_runs_out_in_a_worker_is_told_as_that():
    def make(item):
        raise MemoryError

    with load_ahead(make, 0, 9, 2, False) as items, pytest.raises(IccldError, match="memory ran out while loading"):
        list(items)


def test_whoever_stops_early_leaves_no_process_behind(world):
    others = set(children(os.getpid()))
    steps = read_steps(batches(world, 3), 0, 5000, pin_memory=False)
    next(steps)
    workers = set(children(os.getpid())) - others
    assert len(workers) == 3
    steps.close()
    assert not [pid for pid in workers if alive(pid)]


def test_workers_of_a_killed_training_end_at_once(tmp_path):
    script = tmp_path / "load.py"
    script.write_text(
        "import time\nfrom iccld_cli.data.loading import load_ahead\n"
        "def make(item):\n    time.sleep(0.01 if item < 3 else 100)\n    return {'n': item}\n"
        "with load_ahead(make, 0, 99, 3, False) as items:\n"
        "    for item in items:\n        print(item['n'], flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
    workers = children(process.pid)
    assert len(workers) == 3
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)], "each would hold what the training had locked"
    process.stdout.close()


# A8: two trainings in one folder


def held(run, script):
    """A process that holds the lock of a run folder; `script` runs inside."""
    text = (
        "import os, sys, time\nfrom pathlib import Path\nfrom iccld_cli.train.lock import hold_run\n"
        f"with hold_run(Path({str(run)!r})):\n    print('held', flush=True)\n    {script}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_training_in_the_folder_is_refused_and_changes_nothing_and_a_killed_one_leaves_no_lock(world):
    run = world / "run"
    first = held(run, "time.sleep(100)")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert runs.run(runs.seg_arguments(world, run)) == [1]
    line = runs.said(run).strip()
    assert line.startswith("error: another training is writing to ") and f"(process {first.pid} on " in line
    assert line.endswith("wait for it or stop it, or choose another --out") and "\n" not in line
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    first.kill()
    first.wait()
    assert runs.run(runs.seg_arguments(world, run, steps=2)) == [0], runs.said(run)
    assert (run / "stage1.safetensors").is_file()


def test_a_child_that_outlives_the_training_does_not_keep_the_lock_of_one_that_ended(tmp_path):
    script = "os.fork() or (os.close(1), time.sleep(30), os._exit(0))"
    with held(tmp_path / "run", script) as first:
        assert first.wait(20) == 0
        began = time.monotonic()
        from iccld_cli.train.lock import hold_run

        with hold_run(tmp_path / "run"):
            assert time.monotonic() - began < 3


def test_a_training_that_waits_a_moment_takes_over_from_one_that_ends(tmp_path):
    from iccld_cli.train.lock import hold_run

    with held(tmp_path / "run", "time.sleep(1)"), hold_run(tmp_path / "run"):
        assert (tmp_path / "run" / "state" / "lock").is_file()
    assert not (tmp_path / "run").exists(), "nothing was written in it"


def test_what_is_already_there_stays_when_the_lock_is_released(tmp_path):
    from iccld_cli.train.lock import hold_run

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with hold_run(tmp_path / "run"):
        (tmp_path / "run" / "config.toml").write_text("")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"notes.txt", "config.toml"}


def test_a_pipe_in_place_of_the_lock_is_one_line(tmp_path):
    from iccld_cli.train.lock import hold_run

    (tmp_path / "run" / "state").mkdir(parents=True)
    os.mkfifo(tmp_path / "run" / "state" / "lock")
    with pytest.raises(IccldError, match="lock"), hold_run(tmp_path / "run"):
        pass


# A9: nothing to learn from


def void(root, value=255):
    """Turn all labels of a set into one value, and its index with them."""
    import cv2

    rows = [json.loads(line) for line in (root / "index.jsonl").read_text().splitlines()]
    for row in rows:
        cv2.imwrite(str(root / row["label"]), np.full((row["height"], row["width"]), value, np.uint8))
        row["pixels"] = {str(value): row["height"] * row["width"]}
    (root / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("value", [255, 5])
def test_a_source_without_a_labelled_pixel_of_the_trained_classes_is_refused(world, value):
    # 5 is a pole, which neither set knows.
    void(world / "source", value)
    assert runs.run(runs.seg_arguments(world, world / "run")) == [1]
    assert "has no labelled pixel of the classes trained on" in runs.said(world / "run").splitlines()[-1]
    assert not (world / "run").exists()


def test_one_of_two_sources_without_a_labelled_pixel_is_refused_by_name(world):
    void(runs.make_dataset(world / "empty", seed=3))
    pool = FramePool.of([PreparedDataset(world / name) for name in ("source", "empty")])
    with pytest.raises(IccldError, match=r"source \S+/empty has no labelled pixel"):
        pool.check_labelled([0, 2, 10, 13])


def test_nothing_is_scored_on_a_split_without_a_labelled_pixel(world):
    from iccld_cli.inference.evaluate import labelled_frames
    from iccld_cli.train.data import open_data

    data = open_data([world / "source"], [world / "target"])
    assert data.held_back() is not None
    void(world / "target")
    with pytest.raises(IccldError, match="has no labelled pixel in split 'val'"):
        labelled_frames(PreparedDataset(world / "target"), "val")
    assert open_data([world / "source"], [world / "target"]).held_back() is None


COLLECTING = """
import gc, sys
import av
from iccld_cli.data.loading import load_ahead

gc.disable()
container = av.open(sys.argv[1])
stream = container.streams.video[0]
stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", 2
next(container.decode(stream))
knot = [stream, stream.codec_context, container]
knot.append(knot)
del container, stream, knot
with load_ahead(lambda item: {"item": item, "found": gc.collect()}, 0, 4, 2, False) as items:
    print([item["item"] for item in items])
"""


def test_a_loading_process_leaves_decoders_of_its_parent_alone(tmp_path):
    """Collecting one waits for its threads, which a forked process does not have."""
    video = make_video(tmp_path / "v.mp4", frames=8, size=(64, 48))
    found = subprocess.run(
        [sys.executable, "-c", COLLECTING, video], capture_output=True, text=True, timeout=400, check=False
    )
    assert found.stdout.strip() == "[0, 1, 2, 3]", found.stderr
