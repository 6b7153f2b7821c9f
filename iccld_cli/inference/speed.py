"""How fast a model is on this machine: every backend and both stages of training, each in a process of its own.

Memory is the whole process's, libraries included, which is why each row needs its own. Frames are noise where a model
predicts and the virtual town where it trains, so that nothing has to be at hand; what is in a picture does not change
the time.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.inference.model import Sampling, find_model, load_model

PREDICTED_FRAMES = 200
"""Most frames of a row; slower backends make as many as `SECONDS` allow."""
SECONDS = 8.0
TRAINED_STEPS = 12
_PATIENCE = 900  # seconds that a row may take: a compiler needs minutes on some machines
TOWN_FRAMES = 12  # frames a look
TOWN_SIZE = "512x384"
_GIB = 2**30


def measure(
    ckpt: Path | str | None = None,
    size: tuple[int, int] = (540, 960),
    device: str = "auto",
    seconds: float | None = None,
    steps: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure prediction by every backend that can run the model, and training that starts from it.

    Args:
        ckpt: See `find_model`.
        size: (height, width) of the frames.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        seconds: How long each backend predicts, after its first frame; None for `SECONDS`.
        steps: Steps of each stage that are timed, None for `TRAINED_STEPS`; 0 leaves training out.
        tell: Called with a line before each row.

    Returns:
        JSON-ready: `model`, `size` "WxH", `height` (rows that the network sees), `predict` and `train` (lists of rows),
        `advice` (list of sentences). A row of `predict`: `backend`, `precision`, `device`, `frames_per_second`,
        `first_seconds` (import to first labels), `memory_gib`; of `train`: `stage`, `steps_per_second`, `crop`,
        `batch_size`, `memory_gib`. A row that failed has `error` instead of numbers.

    Raises:
        IccldError: There is no such model.
    """
    path = find_model(ckpt)
    seconds = SECONDS if seconds is None else seconds
    steps = TRAINED_STEPS if steps is None else steps
    header = read_header(path) if path.suffix == ".safetensors" else load_model(path).header
    found: dict[str, Any] = {
        "model": path.name,
        "size": f"{size[1]}x{size[0]}",
        "height": header.working_height or size[0],
        "predict": [],
        "train": [],
    }
    for backend in backends_for(path, device):
        tell(f"predicting with {backend}")
        given = {"ckpt": str(path), "size": size, "device": device, "backend": backend, "seconds": seconds}
        found["predict"].append(_in_process([sys.executable, "-m", __name__, json.dumps(given)], backend=backend))
    if steps and path.suffix == ".safetensors":
        found["train"] = _training(path, header, device, steps, tell)
    found["advice"] = advice(found)
    return found


def advice(found: dict[str, Any]) -> list[str]:
    """What the rows of `measure` say about what to choose, a sentence each."""
    lines = []
    rows = [row for row in found["predict"] if "error" not in row]
    if rows:
        best = max(rows, key=lambda row: row["frames_per_second"])
        first = next(row for row in found["predict"])  # what `--backend auto` takes
        rate = best["frames_per_second"]
        lines.append(f"predict: {best['backend']} is the fastest, {rate:.1f} frames a second at {found['size']}")
        if best is not first and "error" not in first:
            gain = rate / first["frames_per_second"]
            if gain > 1.1:
                lines.append(f"predict: --backend {best['backend']} is {gain:.1f} times faster than the default")
        lines.append(f"predict: an hour of video at 25 frames a second takes {_duration(90_000 / rate)}")
    for row in found["train"]:
        if "error" not in row:
            rate = row["steps_per_second"]
            lines.append(f"train: 1,000 steps of {row['stage']} take {_duration(1000 / rate)}")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def backends_for(path: Path, device: str) -> list[str]:
    """Backends to try, the default one first."""
    if path.suffix == ".onnx":
        return ["onnx"]
    if path.suffix == ".xml":
        return ["openvino"]
    from iccld_cli.inference.device import pick_device

    if pick_device(device).type != "cpu":
        return ["torch", "compiled"]
    first = ["openvino"] if importlib.util.find_spec("openvino") is not None else []
    return [*first, "torch", "compiled"]


def _in_process(command: list[str], **facts: Any) -> dict[str, Any]:
    """The JSON that a command prints last, or `facts` with its error."""
    said, error = _said(command)
    if error is not None:
        return {**facts, "error": error}
    found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return found


def _said(command: list[str]) -> tuple[str, str | None]:
    """What a command prints, and its last line of error where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return "", f"took more than {_PATIENCE // 60} minutes"
    if done.returncode == 0:
        return done.stdout, None
    lines = (done.stderr.strip() or done.stdout.strip() or f"ended with status {done.returncode}").splitlines()
    return done.stdout, lines[-1][:300]


def _training(
    path: Path, header: ModelHeader, device: str, steps: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Both stages through the commands that a user types, from the model's own weights, on the virtual town."""
    config = header.config
    width, height = config.data.crop
    facts = {"crop": f"{width}x{height}", "batch_size": config.data.batch_size}
    with tempfile.TemporaryDirectory(prefix="iccld-speed-") as folder:
        root = Path(folder)
        tell("rendering frames for training")
        town = ["prepare", "--virtual", str(TOWN_FRAMES), "--look", "game", "--look", "camera", "--size", TOWN_SIZE]
        failed = _command([*town, "--out", str(root / "data")])
        if failed:
            return [{"stage": "stage1", **facts, "error": failed}]
        sets = ["--source", str(root / "data/virtual-game"), "--target", str(root / "data/virtual-camera")]
        common = ["--iterations", str(steps), "--device", device, "--seed", "0", "--set", "run.validate_every=0"]
        common += ["--set", "run.log_every=1", "--set", "run.overlay_every=0", "--set", "seg.burn_in=0"]
        rows, start = [], path
        for command, stage in (("adapt-seg", "stage1"), ("adapt-adv", "stage2")):
            tell(f"training {stage}")
            out = root / stage
            began = time.perf_counter()
            failed = _command([command, "--ckpt", str(start), *sets, *common, "--out", str(out)])
            row: dict[str, Any] = {"stage": stage, **facts}
            if failed:
                rows.append({**row, "error": failed})
                break
            log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
            late = sorted(line["step_seconds"] for line in log[len(log) // 4 :])
            row |= {
                "steps_per_second": 1 / late[len(late) // 2],
                "memory_gib": max(line["memory_gib"] for line in log),
                "whole_seconds": time.perf_counter() - began,
            }
            rows.append(row)
            start = out / "stage1.safetensors"
        return rows


def _command(arguments: list[str]) -> str | None:
    """Run a command of this program; returns what it said where it failed."""
    return _said([sys.executable, "-m", "iccld_cli", *arguments])[1]


def _row(ckpt: str, size: tuple[int, int], device: str, backend: str, seconds: float) -> dict[str, Any]:
    """A row of `predict`, in this process."""
    import numpy as np

    began = time.perf_counter()
    model = load_model(ckpt, device, backend="auto" if Path(ckpt).suffix != ".safetensors" else backend)
    sampling = model.settle(Sampling())
    frames = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    model.segment(frames, sampling=sampling)
    first = time.perf_counter() - began
    model.segment(frames, sampling=sampling)
    times: list[float] = []
    while len(times) < PREDICTED_FRAMES and (sum(times) < seconds or len(times) < 3):
        started = time.perf_counter()
        model.segment(frames, sampling=sampling)
        times.append(time.perf_counter() - started)
    return {
        "backend": model.backend,
        "precision": model.precision,
        "device": model.device,
        "frames_per_second": 1 / sorted(times)[len(times) // 2],
        "first_seconds": first,
        "memory_gib": _peak_gib(model.device),
    }


def _peak_gib(device: str) -> float:
    """Most memory of this process, or of the GPU's allocator."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_reserved(device)) / _GIB
    if sys.platform == "win32":
        return float("nan")
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (used if sys.platform == "darwin" else 1024 * used) / _GIB


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        print(
            json.dumps(_row(given["ckpt"], tuple(given["size"]), given["device"], given["backend"], given["seconds"]))
        )
    except IccldError as error:
        sys.exit(error.message)
