"""Everything that one CUDA GPU can tell, in pieces of less than nine minutes, in order of worth.

    benchmarks/gpu.sh --out gpu                 # or: python benchmarks/gpu --out gpu
    benchmarks/gpu.sh --list

A piece ends by itself when its minutes are over and writes what it has; run again, it goes on where it stopped. What is
in `gpu.json` already is not measured again. Where a command may take ten minutes and the machine is there for thirty,

    benchmarks/gpu.sh --out gpu --minutes 9

three times is everything down to `speed` and `waiting`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import accuracy
import correctness
import machine
import speed
from results import Deadline, Results, stop_all
from setting import Setting

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        name: For `--only`.
        minutes: How long it may take.
        expected: How long it is expected to take.
        run: Does it.
        text: What it tells.
    """

    name: str
    minutes: float
    expected: str
    run: Callable[[Setting, Results, Deadline], None]
    text: str


def _town(setting: Setting, results: Results, deadline: Deadline) -> None:
    began = time.monotonic()
    if not results.has("town", "town") or not (setting.work / "town/virtual-game/dataset.json").exists():
        setting.render(deadline)
        results.put("town", "town", {"seconds": time.monotonic() - began})


# `expected` was measured on an H200 with 16 processors down to `speed`, and is reckoned below.
PIECES = (
    Piece("machine", 1.0, "12 s", machine.run, "the card, its matrix-product and copy ceilings, versions"),
    Piece("correctness", 8.5, "5 min", correctness.run, "the CUDA part of the tests (tests/cuda), a row a test"),
    Piece("town", 4.0, "1 min", _town, "the virtual town, rendered here for the pieces below"),
    Piece(
        "speed", 8.5, "16 min, twice", speed.run_eager,
        "seconds, memory and FLOP/s of every preset beside SegFormer, eager",
    ),
    Piece("waiting", 4.0, "3 min", speed.run_waiting, "share of a training step spent waiting for data"),
    Piece("accuracy-1", 8.5, "all of it", accuracy.run_first, "source only and stage 1, three seeds at once"),
    Piece("accuracy-2", 8.5, "all of it", accuracy.run_second, "stage 1 continued and stage 2, three seeds at once"),
    Piece("compiled", 8.5, "all of it", speed.run_compiled, "the rows of `speed`, compiled, as many as time allows"),
)  # fmt: skip


def main() -> None:
    """Run the pieces."""
    options = _options()
    if options.list:
        for piece in PIECES:
            print(f"{piece.name:12s} {piece.minutes:4.1f} min at most, expected {piece.expected:10s}  {piece.text}")
        return
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, stop_all)
    results = Results(options.out.resolve())
    setting = Setting.of(options, ROOT)
    os.chdir(ROOT)  # what is started below is named from there
    if not setting.toy and setting.device != "cuda":
        sys.exit("error: this machine has no usable CUDA device; --toy rehearses on the CPU")
    started, failed = time.monotonic(), []
    for piece in PIECES:
        if options.only and piece.name not in options.only:
            continue
        minutes = piece.minutes
        if options.minutes is not None:
            minutes = min(minutes, options.minutes - (time.monotonic() - started) / 60)
        if minutes <= 0.2:
            results.say(f"{piece.name}: no time left; run again to go on")
            continue
        results.say(f"== {piece.name}: {piece.text} (at most {minutes:.1f} min)")
        began = time.monotonic()
        try:
            piece.run(setting, results, Deadline(60 * minutes, 60 * piece.minutes))
        except Exception as error:  # the pieces behind it do not depend on it
            failed.append(piece.name)
            results.say(f"{piece.name} FAILED: {type(error).__name__}: {error}")
        results.say(f"== {piece.name}: {time.monotonic() - began:.0f} s")
    results.write()
    results.say(f"wrote {results.path}")
    sys.exit(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("OUT") or "gpu")
    parser.add_argument("--out", type=Path, default=default, help="For gpu.json and gpu.log (default: $OUT, or gpu).")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/gpu", help="Folder for trainings and logs.")
    parser.add_argument("--pack", type=Path, help="Folder that gpu_pack.py made: wheels, data and weights.")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PIECES], metavar="PIECE", help="Only these.")
    parser.add_argument("--minutes", type=float, help="Time for all pieces together.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds of the accuracy rows.")
    parser.add_argument("--iterations", type=int, help="Steps of stage 1; default: what the time allows.")
    parser.add_argument("--toy", action="store_true", help="Rehearse everything at toy size, on the CPU if need be.")
    parser.add_argument("--list", action="store_true", help="Say what there is, and stop.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
