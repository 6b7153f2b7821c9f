"""What a training step costs beside the passes that it must make, and where its time goes.

    python benchmarks/step.py ratio   --source DATA/carla --target DATA/camvid --preset small --encoder FOLDER
    python benchmarks/step.py profile stage2 --source DATA/carla --target DATA/camvid --preset small --encoder FOLDER

`ratio` runs the rows in one process, two steps of each in turn and again and again, so that what else the machine does
meets all of them alike, and compares rounds: the method on a batch in memory against `bare` (see `train.py`), on real
data that the process itself decodes, compiled, and SegFormer beside them. On a CPU the judge is processor time, of all
threads of the process; on a GPU seconds. `profile` prints the operators of a stage by their own time and, from a run
without the profiler, the processor time of the parts of a step.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import train  # benchmarks/train.py

from iccld_cli.adapt import augment, batch, pseudo, stage1, stage2
from iccld_cli.config import Config
from iccld_cli.train.setup import build_accelerator

STEPS = 1  # of a row in a round
WARM_UP = 1
ROWS = (
    "stage1 cached", "stage1 bare", "stage1", "stage1 compiled", "stage2 cached", "stage2 bare", "stage2",
    "stage2 compiled", "segformer-b0",
)  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ratio", "profile"))
    parser.add_argument("stage", nargs="?", choices=("stage1", "stage2"), default="stage1", help="For `profile`.")
    parser.add_argument("--source", type=Path, required=True, help="Labelled prepared data set.")
    parser.add_argument("--target", type=Path, required=True, help="Target prepared data set.")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--encoder", help="Encoder, where the preset's own is not at hand.")
    parser.add_argument("--crop", default="256x256", metavar="WxH")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--own-loss", action="store_true", help="The package's cross-entropy in the bare loops too.")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=[r for r in ROWS if "compiled" not in r])
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = train._config(argparse.Namespace(**vars(options), compile=False))
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})})
    with tempfile.TemporaryDirectory() as folder:
        accelerator = build_accelerator(config, Path(folder))
        if options.what == "ratio":
            result = ratio(options, config, accelerator)
        else:
            result = profile(options, config, accelerator)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def ratio(options: argparse.Namespace, config: Config, accelerator: Any) -> dict[str, Any]:
    """Rows in turn; prints a table and the ratios to the bare loops."""
    images = 2 * options.batch_size
    loops, first = {}, {}
    for name in options.only:
        loops[name] = _loop(name, options, config, accelerator)
        began = time.perf_counter()
        for _ in range(WARM_UP):
            next(loops[name])
        first[name] = time.perf_counter() - began
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    wall: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            train._synchronise(accelerator.device)
            busy, began = time.process_time(), time.perf_counter()
            for _ in range(STEPS):
                next(loop)
            train._synchronise(accelerator.device)
            cpu[name].append((time.process_time() - busy) / STEPS)
            wall[name].append((time.perf_counter() - began) / STEPS)
    rows = {}
    print(f"{'':16s} CPU s/step   s/step  images/CPU s  first {WARM_UP} steps   of bare: CPU (quarters)  seconds")
    for name in loops:
        row = {"cpu": median(cpu[name]), "seconds": median(wall[name]), "first_seconds": first[name]}
        row["images_per_cpu_second"], said = images / row["cpu"], ""
        base = f"{name.split()[0]} bare"
        if base in loops and base != name:
            each = [a / b for a, b in zip(cpu[name], cpu[base], strict=True)]
            low, middle, high = quantiles(each, n=4)
            whole = median(a / b for a, b in zip(wall[name], wall[base], strict=True))
            row |= {"of_bare_cpu": middle, "quarters": [low, high], "of_bare_seconds": whole}
            said = f"{middle:.3f} ({low:.3f} to {high:.3f})  {whole:.3f}"
        print(
            f"{name:16s} {row['cpu']:10.3f} {row['seconds']:8.3f} {row['images_per_cpu_second']:13.2f} "
            f"{first[name]:14.1f}   {said}"
        )
        rows[name] = row
    return {"rows": rows, "rounds": options.rounds, "precision": options.precision, "torch": torch.__version__}


def _loop(name: str, options: argparse.Namespace, config: Config, accelerator: Any) -> Iterator[None]:
    """The steps of a row, which share the process and its threads."""
    row, _, kind = name.partition(" ")
    if kind == "compiled":
        config = config.model_copy(update={"run": config.run.model_copy(update={"compile": True})})
        name = f"{row} cached"
    return train._steps_of(argparse.Namespace(**{**vars(options), "row": name}), config, accelerator)


PARTS = {
    "to_device": [(batch, "to_device"), (train, "to_device")],
    "style alignment": [(batch, "style_align")],
    "jitter": [(batch, "jitter_images"), (stage1, "jitter_images")],
    "blur": [(augment, "blur")],
    "ClassMix": [(batch, "classmix")],
    "pseudo-labels": [(stage1, "pseudo_label"), (stage2, "pseudo_label")],
    "gate": [(pseudo.ConfidenceGate, "forward")],
    "losses": [(stage1, "cross_entropy"), (stage2.Stage2, "terms")],
    "class shares": [(stage2.Stage2, "_shares")],
    "noise": [(stage2.Stage2, "draw_noise")],
    "generator's discriminator pass": [(stage2.Adversary, "fooled")],
    "discriminator's step": [(stage2.Adversary, "learn")],
    "prototypes": [(stage2.Prototypes, "update")],
}
INSIDE = {"style alignment": "to_device", "blur": "jitter", "gate": "pseudo-labels"}


def profile(options: argparse.Namespace, config: Config, accelerator: Any) -> dict[str, Any]:
    """Operators by their own time, and processor time of the parts of a step; both a step, in ms."""
    spent: dict[str, float] = defaultdict(float)
    for part, places in PARTS.items():
        for owner, attribute in places:
            _time(owner, attribute, part, spent)
    held: list[Any] = []
    for kind in (stage1.Stage1, stage2.Stage2):
        _keep(kind, held)
    options.row = f"{options.stage} cached"
    steps = train._steps_of(options, config, accelerator)
    (stage,) = held
    for model, whose in ((stage.student, "student"), (stage.teacher.model, "teacher")):
        for name in ("encoder", "denoiser", "decoder"):
            if getattr(model, name) is not None:
                _time(getattr(model, name), "forward", f"{whose}'s {name}", spent)
    _time(accelerator, "backward", "backward passes", spent)
    _time(stage.layout, "reduce_gradients", "clipping", spent)
    _time(stage.optimizer, "step", "optimizer", spent)
    _time(stage.teacher, "update", "EMA", spent)
    for _ in range(WARM_UP):
        next(steps)
    spent.clear()
    busy = time.process_time()
    for _ in range(options.rounds):
        next(steps)
    whole = 1000 * (time.process_time() - busy) / options.rounds
    parts = {name: 1000 * seconds / options.rounds for name, seconds in spent.items()}
    print(f"{options.stage}, {options.precision}: {whole:.0f} ms of processor time a step")
    for name, milliseconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {milliseconds:8.1f} ms  {name}" + (f" (in {INSIDE[name]})" if name in INSIDE else ""))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            next(steps)
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    operators = [(e.key, e.self_cpu_time_total / 3000, e.self_cpu_time_total / total, e.count // 3) for e in found[:15]]
    print(f"{'operator':44s} own ms  share  calls")
    for key, milliseconds, share, calls in operators:
        print(f"{key:44s} {milliseconds:6.1f} {100 * share:5.1f}% {calls:6d}")
    return {"stage": options.stage, "ms": whole, "parts": parts, "operators": operators}


def _time(owner: Any, attribute: str, part: str, spent: dict[str, float]) -> None:
    """Let calls of a function add their processor time to a part."""
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            spent[part] += time.process_time() - began

    setattr(owner, attribute, timed)


def _keep(kind: Any, held: list[Any]) -> None:
    """Note the stage that is made."""
    build = kind.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        held.append(self)

    kind.__init__ = noted


if __name__ == "__main__":
    main()
