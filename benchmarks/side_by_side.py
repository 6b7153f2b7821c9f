"""Run many commands side by side on one machine, in order of worth, until the time is up.

    python benchmarks/side_by_side.py jobs.jsonl --out runs --at-once 12 --seconds 540

A line of the file is a job: {"name": "a-0", "argv": ["benchmarks/train_and_score.py", ...], "needs": ["other"]}, run as
`python ARGV` with one thread. Jobs start from the top, each once those that it needs have ended well; what needs a
failed job is left out. runs/logs/NAME.log holds what a job said, runs/jobs.json what became of all. When the time is up
the running ones are interrupted, so that a training saves its state, and the same command goes on with them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAVING = 20  # seconds that interrupted jobs have to save


@dataclass
class Job:
    """A command and what became of it.

    Attributes:
        name: For its log and for those that need it.
        argv: Arguments of the interpreter.
        needs: Names of jobs that have to end well before.
        state: waiting, running, done, failed, left out or stopped.
        seconds: That it ran.
    """

    name: str
    argv: list[str]
    needs: list[str] = field(default_factory=list)
    state: str = "waiting"
    seconds: float = 0.0


def main() -> None:
    """Run the jobs and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path, nargs="+", help="Files of jobs; the second follows the first.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    rows = [json.loads(line) for path in options.jobs for line in path.read_text("utf-8").splitlines() if line.strip()]
    jobs = {row["name"]: Job(**row) for row in rows}
    before = _read(options.out / "jobs.json")
    for job in jobs.values():
        if before.get(job.name, {}).get("state") == "done":
            job.state, job.seconds = "done", before[job.name]["seconds"]
    run(jobs, options.out, options.at_once, time.monotonic() + options.seconds)
    states = [job.state for job in jobs.values()]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))


def run(jobs: dict[str, Job], out: Path, at_once: int, until: float) -> None:
    """Keep `at_once` jobs running until all have ended or the time is up."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    while True:
        for name, (process, began) in [*running.items()]:
            if process.poll() is not None:
                del running[name]
                jobs[name].state = "done" if process.returncode == 0 else "failed"
                jobs[name].seconds = round(time.monotonic() - began, 1)
                print(f"{name}: {jobs[name].state} after {jobs[name].seconds:.0f} s", flush=True)
                _write(jobs, out)
        if time.monotonic() > until:
            break
        for job in ready(jobs)[: at_once - len(running)]:
            running[job.name] = (_start(job, out), time.monotonic())
            job.state = "running"
        if not running:
            break
        time.sleep(0.2)
    _stop(running, jobs)
    _write(jobs, out)


def ready(jobs: dict[str, Job]) -> list[Job]:
    """Waiting jobs whose needs are done, in order; those that need what failed are left out for good."""
    for job in jobs.values():
        ended = {jobs[need].state if need in jobs else "failed" for need in job.needs}
        if job.state == "waiting" and ended & {"failed", "left out"}:
            job.state = "left out"
    return [j for j in jobs.values() if j.state == "waiting" and all(jobs[n].state == "done" for n in j.needs)]


def _start(job: Job, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with open(out / "logs" / f"{job.name}.log", "ab") as log:
        command = [sys.executable, *job.argv]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _stop(running: dict[str, tuple[subprocess.Popen[bytes], float]], jobs: dict[str, Job]) -> None:
    for process, _ in running.values():
        os.killpg(process.pid, signal.SIGINT)
    last = time.monotonic() + SAVING
    for name, (process, began) in running.items():
        jobs[name].state, jobs[name].seconds = "stopped", round(time.monotonic() - began, 1)
        try:
            process.wait(max(last - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _write(jobs: dict[str, Job], out: Path) -> None:
    found = {job.name: {"state": job.state, "seconds": job.seconds, "argv": job.argv} for job in jobs.values()}
    aside = out / "jobs.json.part"
    aside.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    aside.replace(out / "jobs.json")


if __name__ == "__main__":
    main()
