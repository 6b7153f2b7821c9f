"""The CUDA part of the test suite: tests/cuda, a row a test, noted as soon as it is known."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from results import Deadline, Results, call
from setting import Setting

PIECE = "correctness"
# A process of pytest each, side by side: a test is one or two short trainings, and most of its time is their start.
GROUPS = (
    ("tests/cuda/test_trainings.py", "test_a_training and seg"),
    ("tests/cuda/test_trainings.py", "test_a_training and adv"),
    ("tests/cuda/test_synchronisation.py", ""),
    ("tests/cuda/test_launched_on_cuda.py", ""),
    ("tests/cuda/test_inference_on_cuda.py", ""),
    ("tests/cuda/test_trainings.py", "not test_a_training"),
)
_SAVING = 25  # seconds kept for what is running to stop


def run(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Run the tests that have not passed or skipped yet."""
    if deadline.left() < _SAVING + 30:
        results.say("correctness: too little time to begin with; run again")
        return
    done = [name for name in results.rows(PIECE) if results.has(PIECE, name)]
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    if setting.toy:
        environment["ICCLD_CUDA_TESTS_ON"] = setting.device
    lines = [setting.work / f"tests-{number}.jsonl" for number in range(len(GROUPS))]
    for path in lines:
        path.unlink(missing_ok=True)

    def start(number: int) -> tuple[int | None, str]:
        file, chosen = GROUPS[number]
        command = [sys.executable, "-m", "pytest", file, "-p", "gpu_lines", "-q", "--tb=short", "-rs"]
        command += ["-k", chosen] if chosen else []
        command += [part for name in done for part in ("--deselect", name)]
        log = setting.work / f"tests-{number}.log"
        own = {**environment, "ICCLD_GPU_LINES": str(lines[number])}
        return call(command, deadline.left() - _SAVING, log, **own)

    with ThreadPoolExecutor(2 if setting.toy else len(GROUPS)) as pool:
        futures = [pool.submit(start, number) for number in range(len(GROUPS))]
        seen: set[str] = set()
        while not all(future.done() for future in futures):
            _note(lines, seen, results)
            wait(futures, timeout=1)
        _note(lines, seen, results)
    outcomes = [row["outcome"] for row in results.rows(PIECE).values()]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "skipped", "failed"))
    ended = [future.result() for future in futures]
    late = any(status is None for status, _ in ended)
    results.say(f"tests/cuda: {counts}" + (", time was up; run again to go on" if late else ""))
    for status, said in ended:
        if status not in (0, 1, 5, None):  # 5: nothing left to run
            raise RuntimeError(f"pytest ended with {status}: {said.strip()[-300:]}")


def _note(files: list[Path], seen: set[str], results: Results) -> None:
    """Note the finished tests that growing files tell of."""
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n") and line not in seen:
                seen.add(line)
                row = json.loads(line)
                results.put(PIECE, row.pop("name"), row)
