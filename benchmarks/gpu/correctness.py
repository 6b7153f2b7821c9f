"""The CUDA part of the test suite: tests/cuda in a process of its own, a row a test, noted as soon as it is known."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from results import Deadline, Results, call
from setting import Setting

PIECE = "correctness"


def run(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Run the tests that have not passed or skipped yet."""
    lines = setting.work / "tests.jsonl"
    lines.unlink(missing_ok=True)
    done = [name for name in results.rows(PIECE) if results.has(PIECE, name)]
    command = [sys.executable, "-m", "pytest", "tests/cuda", "-p", "gpu_lines", "-q", "--tb=short", "-rs"]
    command += [part for name in done for part in ("--deselect", name)]
    environment = {"ICCLD_GPU_LINES": str(lines), "PYTHONPATH": _path_with(Path(__file__).parent)}
    if setting.toy:
        environment["ICCLD_CUDA_TESTS_ON"] = setting.device
    if setting.encoder:
        environment["ICCLD_GPU_ENCODER"] = setting.encoder
    stop = threading.Event()
    watcher = threading.Thread(target=_follow, args=(lines, results, stop))
    watcher.start()
    try:
        status, said = call(command, deadline.left() - 25, results.out / "tests.log", **environment)
    finally:
        stop.set()
        watcher.join()
    outcomes = [row["outcome"] for row in results.rows(PIECE).values()]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "skipped", "failed"))
    results.say(f"tests/cuda: {counts}" + (", time was up" if status is None else ""))
    if status not in (0, 1, 5, None):  # 5: nothing left to run
        raise RuntimeError(f"pytest ended with {status}: {said.strip()[-300:]}")


def _path_with(folder: Path) -> str:
    import os

    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def _follow(lines: Path, results: Results, stop: threading.Event) -> None:
    """Note the lines of a growing file until it is complete."""
    seen = 0
    while True:
        last = stop.wait(1)
        text = lines.read_text(encoding="utf-8") if lines.exists() else ""
        for line in text[seen:].splitlines(keepends=True):
            if line.endswith("\n"):
                seen += len(line)
                row = json.loads(line)
                results.put(PIECE, row.pop("name"), row)
        if last:
            return
