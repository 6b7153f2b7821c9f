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
        needs: Name of the job, without the seed, whose network it takes.
    """

    name: str
    options: tuple[str, ...]
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
    return Job(f"repair-{variant}{more}", ("repair", "--variant", variant, "--steps", str(steps)))


def _retrain(answers: str, steps: int = 300, rate: float = 0.3, whole: bool = False) -> Job:
    name = f"retrain-{answers}-{steps}" + ("-slow" if rate != 0.3 else "") + ("-whole" if whole else "")
    options = ("retrain", "--answers", answers, "--steps", str(steps), "--rate", str(rate))
    return Job(name, (*options, *(["--whole-frames"] if whole else [])), "repair-full" if answers == "repaired" else "")


def _judge(name: str, *options: str) -> Job:
    return Job(f"judge-{name}", ("judge", "--steps", "500", *options))


FULL, START = _repair("full"), Job("start", ("start",))
REPAIRED, OWN, ALONE = _retrain("repaired"), _retrain("start"), _retrain("none")
AVERAGED, PLAIN_OWN = _retrain("averaged"), _repair("plain-own")
JUDGE, UNJUDGED = _judge("full", "--judge-weight", "0.03"), _judge("without", "--judge-weight", "0")

ORDER: tuple[tuple[Job, tuple[int, ...]], ...] = (
    (FULL, (0,)), (REPAIRED, (0,)), (OWN, (0,)), (ALONE, (0,)), (START, (0,)), (PLAIN_OWN, (0,)),
    (JUDGE, (0,)), (UNJUDGED, (0,)), (_repair("plain"), (0,)), (_repair("no-features"), (0,)), (AVERAGED, (0,)),
    (_repair("features-alone"), (0,)), (_retrain("none", 500, whole=True), (0,)),
    (_judge("without-calibration", "--judge-weight", "0.03", "--no-calibration"), (0,)),
    (_retrain("repaired", 1200), (0,)), (_retrain("none", 1200), (0,)), (_retrain("none", 300, rate=0.1), (0,)),
    *((job, (seed,)) for seed in (1, 2) for job in (FULL, REPAIRED, OWN, ALONE)),
    *((job, (seed,)) for seed in (1, 2) for job in (PLAIN_OWN, JUDGE, UNJUDGED)),
    (_retrain("start", 1200), (0,)), (_repair("full", 2000), (0,)), (_repair("own"), (0,)),
    (_judge("strong", "--judge-weight", "0.3"), (0,)), (AVERAGED, (1, 2)),
)  # fmt: skip


def lines() -> list[dict[str, Any]]:
    """All jobs, what is worth most first."""
    return [job.line(seed) for job, seeds in ORDER for seed in seeds]
