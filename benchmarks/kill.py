"""kill -9 at random moments of `prepare`, both stages and `predict`; the results equal those of undisturbed runs.

    python benchmarks/kill.py --seeds 20          # a minute of processor time
    python benchmarks/kill.py --seeds 200         # the long form

Each seed takes one of the four commands in turn and kills it up to three times: at a random operation on its output
folder, or after a random share of the processor time that it needs. The same command then runs to its end (the
trainings with --resume), and everything that it leaves is compared with what an undisturbed run left: files byte for
byte, model files by all their tensors and the description, videos by their decoded frames. What must differ is left
out: clocks in `log.jsonl` and `curves.png`, which shows them.

Processes are forked, so that a run costs no new start of the libraries. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from safetensors import safe_open

from iccld_cli.__main__ import main as iccld
from iccld_cli.inference.video import VideoWriter

LIBRARIES = (
    "iccld_cli.train.run", "iccld_cli.train.runlog", "iccld_cli.train.trackers", "iccld_cli.prepare.prepare",
    "iccld_cli.prepare.preview", "iccld_cli.inference.predict", "iccld_cli.inference.openvino_model",
    "iccld_cli.inference.torch_model", "iccld_cli.report.overlay", "kornia.augmentation", "openvino",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "transformers", "diffusers.models.unets",
    "diffusers.schedulers.scheduling_ddim", "torch._dynamo", "pydantic", "typer", "av",
)  # fmt: skip
"""Imported before anything is forked: most of a command's time would be spent on them, and most kills."""

COMMANDS = ("prepare", "stage 1", "stage 2", "predict")
OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
CLOCKS = ("step_seconds", "memory_gib")
KILLS = 3
SMALL = [
    "model.tiny_channels=[8,8,16,16]", "model.latent_channels=8", "model.fuse_channels=8", "model.skip_channels=4",
    "model.decoder_channels=8", "model.unet_channels=[16,16]", "model.discriminator_channels=8",
]  # fmt: skip
RUN = ["data.workers=0", "data.rare_class_pixels=20", "run.log_every=1", "run.validate_every=0", "run.overlay_every=0"]


@dataclass(frozen=True)
class Case:
    """A command under test.

    Attributes:
        words: Output folder -> the command line.
        expected: What an undisturbed run left, see `contents`.
        operations: Operations on files below its output folder.
        seconds: Processor time of an undisturbed run.
        status: Its exit status.
    """

    words: Callable[[Path], list[str]]
    expected: dict[str, Any]
    operations: int
    seconds: float
    status: int = 0


# ---- what is worked on ----


def picture(seed: int, width: int = 80, height: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A street of four flat classes: uint8 (height, width, 3) RGB and uint8 (height, width) trainIds."""
    rng = np.random.default_rng(seed)
    label = np.full((height, width), 10, np.uint8)
    label[height // 3 :, : int(rng.integers(20, width))] = 2
    label[height // 2 :] = 0
    left = int(rng.integers(0, width - 20))
    label[height // 2 : height // 2 + 14, left : left + 18] = 13
    image = (label[..., None] * np.array([9, 5, 13]) + rng.integers(0, 60, (height, width, 3))).astype(np.uint8)
    return image, label


def make_world(root: Path) -> None:
    """Raw images with masks, images without, and pictures and a video to predict."""
    for folder, first, count in (("source", 0, 12), ("target", 50, 8), ("inputs", 90, 6)):
        (root / folder / "rgb").mkdir(parents=True)
        for number in range(count):
            image, label = picture(first + number)
            cv2.imwrite(str(root / folder / f"rgb/{number:03d}.png"), image[..., ::-1])
            if folder == "source":
                (root / folder / "seg").mkdir(exist_ok=True)
                cv2.imwrite(str(root / folder / f"seg/{number:03d}.png"), label)
    from fractions import Fraction

    writer = VideoWriter(root / "inputs/drive.mp4", (80, 64), Fraction(25))
    for number in range(8):
        writer.write(picture(200 + number)[0], Fraction(number, 25))
    writer.close()


def prepare_words(root: Path, kind: str, out: Path) -> list[str]:
    """`iccld prepare` of the raw source or target."""
    masks = ["--masks", str(root / kind / "seg")] if kind == "source" else []
    return [
        "prepare", "--images", str(root / kind / "rgb"), *masks, "--name", kind, "--out", str(out), "--workers", "1",
    ]  # fmt: skip


def training_words(stage: str, root: Path, out: Path, steps: int) -> list[str]:
    """`iccld adapt-seg` or `adapt-adv`, to be begun or gone on with."""
    given = ["adapt-adv", "--ckpt", str(root / "whole/stage 1/stage1.safetensors")]
    settings = RUN
    if stage == "stage 1":
        data = root / "data"
        given = ["adapt-seg", "--source", str(data / "source"), "--target", str(data / "target")]
        settings = [*SMALL, *RUN, "seg.burn_in=0.3"]
    sets = [part for value in settings for part in ("--set", value)]
    numbers = ["--iterations", str(steps), "--batch-size", "1", "--crop", "64x64", "--save-every", "2"]
    return [*given, *numbers, *sets, "--device", "cpu", "--resume", "--out", str(out)]


def predict_words(root: Path, out: Path) -> list[str]:
    """`iccld predict` of the pictures and the video, everything that it can save."""
    model = root / "whole/stage 2/stage2.safetensors"
    save = "overlay,labels,color,confidence"
    return ["predict", str(root / "inputs"), "--ckpt", str(model), "--save", save, "--device", "cpu", "--out", str(out)]


# ---- what is left ----


def contents(folder: Path) -> dict[str, Any]:
    """Everything below a folder in a form that can be compared; see the head of this file."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name == "curves.png" or name in ("state/lock",) or name.endswith(".lock"):
            continue
        if path.suffix == ".mp4":
            with av.open(str(path)) as container:
                found[name] = [(f.pts, f.to_ndarray(format="rgb24").tobytes()) for f in container.decode(video=0)]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                found[name] = [file.metadata(), {k: file.get_tensor(k).tobytes() for k in file.keys()}]  # noqa: SIM118
        elif name == "log.jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]
        elif path.name == "state.json":
            record = json.loads(path.read_text(encoding="utf-8"))
            for row in record["extras"]["window"]:
                for key in CLOCKS:
                    row.pop(key, None)
            record.pop("record_sha256", None)
            found[name] = record
        else:
            found[name] = path.read_bytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is in one and not in the other, or differs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


# ---- processes ----


def call(words: Sequence[str]) -> int:
    """The command in this process: its exit status."""
    before, sys.argv = sys.argv, ["iccld", *words]
    try:
        iccld()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        sys.argv = before
    return 0


def fork(
    words: Sequence[str],
    folder: Path,
    said: Path,
    operation: int = 0,
    sent: int = signal.SIGKILL,
    first: Callable[[], object] = lambda: None,
) -> int:
    """Start the command in a forked process; returns its number.

    Args:
        words: The command line.
        folder: Where operations on files are counted.
        said: File that gets what it prints, and the number of operations in its last line.
        operation: Number of the operation at which it sends itself a signal; 0 for none.
        sent: The signal.
        first: Called in the new process before the command.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status, seen, prefix = 99, 0, str(folder)

    def watch(event: str, given: tuple) -> None:
        nonlocal seen
        if event in OPERATIONS and given and str(given[0]).startswith(prefix):
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), sent)

    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        # What a test runner has put in their place would write elsewhere.
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        torch.set_num_threads(1)
        first()
        sys.addaudithook(watch)
        status = call(words)
        os.write(handle, f"\n{seen}\n".encode())
    finally:
        os._exit(status)


def used(process: int) -> float:
    """Processor seconds of a process so far; 0 where it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def finish(process: int, kill_after: float | None = None) -> tuple[int, float]:
    """Wait for a process, or kill it.

    Args:
        process: Its number.
        kill_after: Processor seconds after which it is killed; None for never.

    Returns:
        Exit status or minus the signal that ended it, and the processor seconds that it took.
    """
    while kill_after is not None:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if used(process) >= kill_after:
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.003)
    _, status, usage = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


# ---- the trial ----


class Trial:
    """The four commands, each run once undisturbed, and then killed again and again."""

    def __init__(self, root: Path, steps: int = 6) -> None:
        """Make the inputs and run everything once.

        Args:
            root: An empty folder.
            steps: Of each training.
        """
        self.root, self.said = root, root / "said.txt"
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # a collection in a forked process would copy every page that holds an object
        make_world(root)
        words: dict[str, Callable[[Path], list[str]]] = {
            "prepare": lambda out: prepare_words(root, "source", out),
            "stage 1": lambda out: training_words("stage 1", root, out, steps),
            "stage 2": lambda out: training_words("stage 2", root, out, steps),
            "predict": lambda out: predict_words(root, out),
        }
        for kind in ("source", "target"):
            self._run(prepare_words(root, kind, root / "data"), root / "data")
        self.cases: dict[str, Case] = {}
        for name in COMMANDS:
            out = root / "whole" / name
            operations, seconds = self._run(words[name](out), out)
            self.cases[name] = Case(words[name], contents(out), operations, seconds)

    def _run(self, words: list[str], out: Path) -> tuple[int, float]:
        self.said.unlink(missing_ok=True)
        status, seconds = finish(fork(words, out, self.said))
        text = self.said.read_text(encoding="utf-8", errors="replace")
        if status:
            raise SystemExit(f"iccld {' '.join(words)} ended with {status}:\n{text}")
        return int(text.split()[-1]), seconds

    def seed(self, number: int) -> dict[str, Any]:
        """One seed: a command, killed up to three times and then left to finish.

        Returns:
            `command`, `seed`, `kills` (those that met the command at work) and `differs`, names of what is not as it
            should be; empty where all is well.
        """
        name, rng = COMMANDS[number % len(COMMANDS)], random.Random(number)
        case, out = self.cases[name], self.root / f"seed {number}"
        self.said.unlink(missing_ok=True)
        kills = 0
        for _ in range(rng.randint(1, KILLS)):
            if rng.random() < 0.5:
                moment = rng.randint(1, case.operations)
                status, _ = finish(fork(case.words(out), out, self.said, moment))
            else:
                moment_in_seconds = rng.uniform(0, case.seconds)
                status, _ = finish(fork(case.words(out), out, self.said), moment_in_seconds)
            if status != -signal.SIGKILL:  # it was done before
                break
            kills += 1
        status, _ = finish(fork(case.words(out), out, self.said))
        said = self.said.read_text(errors="replace")
        # Killed after its last result, a command was done: `predict` then says that the results exist.
        done = name == "predict" and status == 1 and " exists: " in said
        wrong = [] if status == case.status or done else [f"exit status {status}: {said}"]
        wrong += differences(contents(out), case.expected) if out.exists() else ["no output"]
        if not wrong:
            shutil.rmtree(out)
        return {"seed": number, "command": name, "kills": kills, "differs": wrong}


def main() -> None:
    """Run the seeds and print the result as JSON; exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--keep", type=Path, help="new folder that keeps what differs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        root = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        trial = Trial(root)
        rows = []
        for number in range(options.first, options.first + options.seeds):
            rows.append(trial.seed(number))
            if rows[-1]["differs"]:
                print(json.dumps(rows[-1]), file=sys.stderr)
    wrong = [row for row in rows if row["differs"]]
    kills = {name: sum(row["kills"] for row in rows if row["command"] == name) for name in COMMANDS}
    times = os.times()
    print(
        json.dumps(
            {
                "seeds": len(rows),
                "kills": kills,
                "differ": [row["seed"] for row in wrong],
                "seconds": round(time.monotonic() - began, 1),
                "processor_seconds": round(times.user + times.system + times.children_user + times.children_system, 1),
            }
        )
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
