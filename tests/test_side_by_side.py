"""Commands run side by side: order, needs, what failed, and what the time cut off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).parents[1] / "benchmarks" / "side_by_side.py"
STOPS = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
if path.exists():
    sys.exit()
try:
    time.sleep(60)
except KeyboardInterrupt:
    path.write_text("saved")
"""


def run(folder: Path, jobs: list[dict[str, object]], *options: str) -> dict[str, str]:
    """Run jobs; name -> what became of each."""
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs), "utf-8")
    command = [sys.executable, str(RUNNER), str(folder / "jobs.jsonl"), "--out", str(folder / "out"), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    return {name: row["state"] for name, row in json.loads((folder / "out/jobs.json").read_text("utf-8")).items()}


def writes(name: str, text: str, needs: tuple[str, ...] = ()) -> dict[str, object]:
    """A job that appends to a file."""
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    return {"name": name, "argv": ["-c", code, "{}", text], "needs": list(needs)}


def test_a_job_waits_for_those_that_it_needs(tmp_path: Path) -> None:
    order = tmp_path / "order"
    jobs = [writes("late", "2", ("early",)), writes("early", "1"), writes("last", "3", ("late", "early"))]
    for job in jobs:
        job["argv"] = [str(order) if part == "{}" else part for part in job["argv"]]  # type: ignore[attr-defined]
    assert set(run(tmp_path, jobs, "--at-once", "3").values()) == {"done"}
    assert order.read_text("utf-8") == "123"
    run(tmp_path, jobs)  # nothing is done twice
    assert order.read_text("utf-8") == "123"


def test_what_needs_a_failed_job_is_left_out(tmp_path: Path) -> None:
    fails = {"name": "fails", "argv": ["-c", "import sys; print('why'); sys.exit(2)"], "needs": []}
    jobs = [
        fails,
        writes("after", "x", ("fails",)),
        writes("after that", "x", ("after",)),
        writes("unknown", "x", ("?",)),
    ]
    assert run(tmp_path, jobs) == {
        "fails": "failed", "after": "left out", "after that": "left out", "unknown": "left out",
    }  # fmt: skip
    assert (tmp_path / "out/logs/fails.log").read_text("utf-8").strip() == "why"


def test_the_end_of_the_time_interrupts_and_the_next_run_goes_on(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    jobs = [{"name": "long", "argv": ["-c", STOPS, str(saved)], "needs": []}, writes("next", "x", ("long",))]
    assert run(tmp_path, jobs, "--seconds", "2") == {"long": "stopped", "next": "waiting"}
    assert saved.read_text("utf-8") == "saved"
    assert run(tmp_path, jobs[:1], "--seconds", "30") == {"long": "done"}
