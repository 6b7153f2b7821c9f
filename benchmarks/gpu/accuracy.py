"""Accuracy rows with `small`: CARLA and the town to CamVid, through `iccld compare`, as long as the time allows.

Steps are chosen once, from the speed of the same trainings side by side, and kept for all rows: rows of different
lengths could not be compared.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from results import Deadline, Results, call
from setting import Setting

FIRST = ("source-only", "stage1")
SECOND = ("stage1-continued", "stage2")
ROWS = "benchmarks/carla-camvid.toml"
_ADV_SHARE = 0.25  # steps of stage 2 to those of stage 1, as in the recorded rows (300 of 1,200)
_PROBE = 120  # steps whose second half is timed
_SAVING = 25  # seconds kept for what is running to save
_IN_TRAINING = 0.75  # of the time left; the rest is start, validation and evaluation


def run_first(setting: Setting, results: Results, deadline: Deadline) -> None:
    """The source alone and stage 1, all seeds at once."""
    iterations = _iterations(setting, results, deadline)
    if iterations is None:
        results.say("accuracy-1: time was up before the speed of a step was known; run again to go on")
        return
    _rows("accuracy-1", FIRST, iterations, setting, results, deadline)


def run_second(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Stage 1 continued and stage 2, from the files of the piece before."""
    row = results.rows("accuracy-1").get("iterations")
    if row is None or not list((setting.work / "accuracy/stage1").glob("seed*/stage1.safetensors")):
        results.say("accuracy-2: accuracy-1 has not ended in this --work folder; run it first")
        return
    _rows("accuracy-2", SECOND, row["stage1"], setting, results, deadline)


def _iterations(setting: Setting, results: Results, deadline: Deadline) -> int | None:
    """Steps of stage 1: given, found before, or from the speed of trainings side by side; None if time was up.

    They fill the whole piece, however little of it this command has left: the next command goes on.
    """
    known = results.rows("accuracy-1").get("iterations")
    if known is not None:
        return int(known["stage1"])
    if setting.iterations is not None or setting.toy:
        found, seconds = setting.iterations or 6, None
    else:
        began, jobs = time.monotonic(), 2 * len(setting.seeds)
        status, said = _ablate(("stage1",), _PROBE, setting, deadline, setting.work / "probe", jobs, probe=True)
        if status is None:
            return None
        if status:
            raise RuntimeError(f"the probe ended with {status}: {said.strip()[-600:]}")
        seconds = max(_seconds_per_step(setting.work / "probe"))
        left = deadline.whole - (time.monotonic() - began)
        found = max(round(_IN_TRAINING * left / seconds, -2), 200)
    results.put("accuracy-1", "iterations", {"stage1": int(found), "stage2": _adv(int(found)), "step_seconds": seconds})
    return int(found)


def _adv(iterations: int) -> int:
    return max(round(_ADV_SHARE * iterations), 2)


def _seconds_per_step(out: Path) -> list[float]:
    """Of each training, over the second half of its log."""
    found = []
    for path in out.glob("*/seed*/log.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        late = [row["step_seconds"] for row in rows if row["step"] > _PROBE / 2]
        if late:
            found.append(sum(late) / len(late))
    if not found:
        raise RuntimeError(f"no training of the probe wrote a log, see {out}")
    return found


def _rows(
    piece: str, names: tuple[str, ...], iterations: int, setting: Setting, results: Results, deadline: Deadline
) -> None:
    wanted = [name for name in names if set(results.rows(piece).get(name, {}).get("seeds", ())) < set(setting.seeds)]
    if not wanted:
        return
    out = setting.work / "accuracy"
    status, said = _ablate(tuple(wanted), iterations, setting, deadline, out, jobs=2 * len(setting.seeds))
    found = _collected(out)
    for name, row in (found or {}).items():
        if name in names:
            facts = {"steps": _steps(row, iterations), "title": row["title"], "compute": row["compute"]}
            evaluations = row["evaluations"]
            scores = {f"{split}_miou": evaluations[split]["miou"][0] for split in evaluations}
            seeds = sorted(set.intersection(*(set(evaluations.get(s, {}).get("seeds", ())) for s in ("val", "test"))))
            results.put(piece, name, {**facts, **scores, "seeds": seeds, "evaluations": evaluations})
    if status is None:
        results.say(f"{piece}: time was up; run again with the same --work to go on")
    elif status:
        raise RuntimeError(f"iccld compare ended with {status}: {said.strip()[-600:]}")
    elif found is None:
        raise RuntimeError(f"iccld compare wrote no results in {out}: {said.strip()[-600:]}")


def _ablate(
    rows: tuple[str, ...],
    iterations: int,
    setting: Setting,
    deadline: Deadline,
    out: Path,
    jobs: int,
    probe: bool = False,
) -> tuple[int | None, str]:
    if deadline.left() < _SAVING + 10:
        return None, ""
    sources, target = setting.data()
    seeds = range(jobs) if probe else setting.seeds
    command = [sys.executable, "-m", "iccld_cli", "compare", _file(setting, sources), "--out", str(out), "--no-measure"]
    command += [
        part for name, path in zip(_names(sources), sources, strict=True) for part in ("--data", f"{name}={path}")
    ]
    command += ["--data", f"camvid={target}", "--rows", ",".join(rows), "--seeds", ",".join(map(str, seeds))]
    command += ["--evaluations", "val" if probe else "val,test"]
    command += ["--seg-iterations", str(iterations), "--adv-iterations", str(_adv(iterations)), "--jobs", str(jobs)]
    command += ["--device", setting.device]
    command += ["--encoder", setting.encoder] if setting.encoder else []
    sets = ["data.workers=2", f"run.validate_every={max(iterations // 4, 1)}", "run.overlay_every=0"]
    if setting.toy:
        command += ["--preset", "tiny"]
        sets += [
            "data.crop=[64,64]",
            "data.batch_size=2",
            "data.workers=0",
            "run.validate_every=0",
            "run.validate_frames=4",
        ]
    else:
        sets += ["data.crop=[480,352]"]
    command += [part for value in sets for part in ("--set", value)]
    # A thread a training: the processors are for the loaders.
    return call(command, deadline.left() - _SAVING, setting.work / f"{out.name}.log", OMP_NUM_THREADS="1")


def _names(sources: list[Path]) -> list[str]:
    """Names of the sets in the TOML file; where there is no CARLA, the game look stands alone."""
    return ["carla", "town-camera", "town-game"] if len(sources) == 3 else ["town-game"]


def _file(setting: Setting, sources: list[Path]) -> str:
    """The rows, with these sources."""
    if len(sources) == 3:
        return ROWS
    text = (setting.root / ROWS).read_text(encoding="utf-8")
    own = setting.work / "accuracy.toml"
    own.write_text(text.replace('source = ["carla", "town-camera", "town-game"]', 'source = ["town-game"]'), "utf-8")
    return str(own)


def _collected(out: Path) -> dict[str, Any] | None:
    """Rows of a comparison; None where it ended before it wrote any."""
    if not (out / "results.json").is_file():
        return None
    sys.path.insert(0, "benchmarks")
    from agreement import by_row

    return by_row(json.loads((out / "results.json").read_text(encoding="utf-8")))


def _steps(row: dict[str, Any], iterations: int) -> int:
    """Steps of a row, as its trainings noted them."""
    return next((taken["steps"] for taken in row["compute"].values() if taken), iterations)
