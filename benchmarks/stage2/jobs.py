"""The trials as jobs for a runner: one process each, with what each needs, in the order of their worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATA, OUT = ".gpu/data", ".gpu/out"
_COMMON = (
    *(part for name in ("carla", "virtual-camera", "virtual-game") for part in ("--source", f"{DATA}/{name}")),
    "--target", f"{DATA}/camvid", "--encoder", ".gpu/weights/mobilenet_v2", "--splits", "val", "test",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A trial with its options, apart from the seed.

    Attributes:
        name: Without the seed.
        options: Of `stage2_trials.py`.
        seconds: About how long it takes on a GPU that it shares with some others; a guess.
        needs: Name of the job, without the seed, whose network it takes.
    """

    name: str
    options: tuple[str, ...]
    seconds: float
    needs: str = ""

    def line(self, seed: int) -> dict[str, Any]:
        """What the runner reads."""
        needs = [f"s2-{self.needs}-{seed}"] if self.needs else []
        network = ["--network", f"{OUT}/{needs[0]}/network-{seed}.safetensors"] if needs else []
        name = f"s2-{self.name}-{seed}"
        options = [*self.options, *_COMMON, *network, "--seeds", str(seed), "--out", f"{OUT}/{name}"]
        return {"name": name, "needs": needs, "argv": ["benchmarks/stage2_trials.py", *options]}


def _repair(variant: str, steps: int = 500) -> Job:
    more = f"-{steps}" if steps != 500 else ""
    options = ("repair", "--variant", variant, "--steps", str(steps))
    return Job(f"repair-{variant}{more}", options, 40 + 0.06 * steps)


def _retrain(answers: str, steps: int = 300, rate: float = 0.3, whole: bool = False, alone: bool = False) -> Job:
    """`alone`: without self-training beside the answers."""
    name = f"retrain-{answers}-{steps}" + (f"-rate{rate:g}" if rate != 0.3 else "")
    name += ("-whole" if whole else "") + ("-alone" if alone else "")
    options = ["retrain", "--answers", answers, "--steps", str(steps), "--rate", str(rate)]
    options += (["--whole-frames"] if whole else []) + (["--mixed-weight", "0"] if alone else [])
    seconds = 25 + {"none": 0, "averaged": 30}.get(answers, 12) + steps * (0.07 if answers == "none" else 0.1)
    return Job(name, tuple(options), seconds, "repair-full" if answers == "repaired" else "")


def _judge(name: str, *options: str) -> Job:
    return Job(f"judge-{name}", ("judge", "--steps", "500", *options), 75)


FULL, START = _repair("full"), Job("start", ("start",), 45)
REPAIRED, OWN, ALONE = _retrain("repaired"), _retrain("start"), _retrain("none")
AVERAGED, PLAIN_OWN = _retrain("averaged"), _repair("plain-own")
JUDGE, UNJUDGED = _judge("full", "--judge-weight", "0.03"), _judge("without", "--judge-weight", "0")

ORDER: tuple[tuple[Job, int], ...] = (
    *((job, 0) for job in (
        FULL, REPAIRED, OWN, ALONE, START, PLAIN_OWN, JUDGE, UNJUDGED, _repair("features-alone"),
        _repair("no-features"), _repair("plain"), _retrain("repaired", alone=True),
        _retrain("none", 500, whole=True), AVERAGED,
        _judge("without-calibration", "--judge-weight", "0.03", "--no-calibration"),
    )),
    *((job, seed) for seed in (1, 2) for job in (FULL, REPAIRED, OWN, ALONE)),
    # What follows is beyond 25 minutes.
    (_retrain("repaired", 1200), 0), (_retrain("start", 1200), 0),
    (_retrain("none", 1200), 0), *((job, seed) for seed in (1, 2) for job in (PLAIN_OWN, JUDGE, UNJUDGED)),
    (_retrain("none", rate=0.1), 0), (_repair("full", 2000), 0), (_judge("strong", "--judge-weight", "0.3"), 0),
    (_repair("own"), 0), (_retrain("start", alone=True), 0), (_retrain("none", 1200, rate=0.1), 0),
    (AVERAGED, 1), (AVERAGED, 2),
)  # fmt: skip


def lines(minutes: float) -> list[dict[str, Any]]:
    """The jobs, what is worth most first, until they take about so many minutes together, one after the other."""
    found, seconds = [], 0.0
    for job, seed in ORDER:
        seconds += job.seconds
        if seconds > 60 * minutes:
            break
        found.append(job.line(seed))
    return found
