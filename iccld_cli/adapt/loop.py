"""The training loop that both stages share: load, step, log, validate, save, stop cleanly."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from iccld_cli.adapt.progress import TrainingProgress
from iccld_cli.adapt.runlog import RunLog
from iccld_cli.adapt.stage import Stage, to_device
from iccld_cli.adapt.state import list_states, load_state, save_state
from iccld_cli.config import Config
from iccld_cli.data.batches import TrainingBatches, batch_loader
from iccld_cli.errors import IccldError
from iccld_cli.report.curves import plot_curves


@dataclass
class LoopHooks:
    """What happens beside the steps.

    Attributes:
        validate: Scores the teacher; its numbers join the log line.
        draw: Draws sample overlays of the teacher at a step.
    """

    validate: Callable[[], dict[str, float]] | None = None
    draw: Callable[[int], None] | None = None


@dataclass
class _Pending:
    """Steps whose numbers still lie on the device: looking at each would make the host wait for it."""

    steps: list[int] = field(default_factory=list)
    stats: list[dict[str, Tensor]] = field(default_factory=list)
    names: list[list[list[str]]] = field(default_factory=list)

    def collect(self) -> dict[str, float]:
        """Means of the pending steps.

        Raises:
            IccldError: A number is not finite.
        """
        table = [{k: float(v) for k, v in row.items()} for row in self.stats]
        for step, row, names in zip(self.steps, table, self.names, strict=True):
            bad = [k for k, v in row.items() if not math.isfinite(v)]
            if bad:
                frames = ", ".join(sorted({n for group in names for n in group})[:4])
                raise IccldError(
                    f"training broke at step {step + 1}: {', '.join(bad)} is not finite (frames {frames}, ...)",
                    "the last good state is kept; lower optim.lr, or use --precision fp32, and --resume",
                )
        keys = {k for row in table for k in row}
        self.steps, self.stats, self.names = [], [], []
        return {k: _mean([row[k] for row in table if k in row]) for k in sorted(keys)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def train(
    stage: Stage,
    config: Config,
    batches: TrainingBatches,
    run: Path,
    accelerator: Accelerator,
    facts: dict[str, Any],
    hooks: LoopHooks,
    resume: bool,
    console: Console,
) -> None:
    """Train a stage to its end.

    Args:
        stage: The stage.
        config: The configuration.
        batches: Training data.
        run: The run folder.
        accelerator: Device, precision and gradient sync.
        facts: What a resumed run must agree on.
        hooks: Validation and pictures.
        resume: Whether to go on from the newest state.
        console: Where messages go.

    Raises:
        IccldError: A loss is not finite, the disk is full, or a state does not fit.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    start = _resume(stage, run, facts, console) if resume else 0
    settings, main = config.run, accelerator.is_main_process
    log = RunLog(run, stage.name, start) if main else None
    pending = _Pending()
    saved = start

    def save(step: int) -> None:
        nonlocal saved
        if main and saved != step:
            save_state(run, stage.name, step, stage.modules, stage.optimizers, facts, settings.keep_states)
            saved = step

    device = accelerator.device
    loader = batch_loader(batches, start, stage.iterations, pin_memory=device.type == "cuda")
    last: dict[str, float] = {}
    with (
        _interrupts() as interrupted,
        TrainingProgress(stage.name, start, stage.iterations, console, enabled=main) as bar,
    ):
        began = time.perf_counter()
        for step, raw in enumerate(loader, start):
            # Networks with their own randomness (stochastic depth) draw from the global generator.
            torch.manual_seed((settings.seed * 1_000_003 + step) * 64 + accelerator.process_index)
            batch = to_device(raw, config, step, accelerator.process_index, device)
            pending.stats.append(stage.step(step, batch))
            pending.steps.append(step)
            pending.names.append(batch.names)
            done = step + 1
            final = done == stage.iterations
            if final or interrupted() or _due(done, settings.log_every, settings.save_every, settings.validate_every):
                elapsed, count = time.perf_counter() - began, len(pending.steps)
                last = pending.collect()
                row: dict[str, Any] = {
                    "step": done,
                    **last,
                    "lr": _learning_rate(stage),
                    "step_seconds": elapsed / count,
                }
                if hooks.validate and (final or _due(done, settings.validate_every)) and not interrupted():
                    row |= hooks.validate()
                if log is not None:
                    log.write(row)
                bar.report({**last, **{k: v for k, v in row.items() if k == "miou"}})
                began = time.perf_counter()
            bar.advance()
            if main and hooks.draw and (final or _due(done, settings.overlay_every)):
                hooks.draw(done)
            if final or interrupted() or _due(done, settings.save_every):
                save(done)
                if log is not None:
                    plot_curves(log.path, run / "curves.png")
            if interrupted() and not final:
                raise KeyboardInterrupt


def _due(done: int, *periods: int) -> bool:
    return any(period and done % period == 0 for period in periods)


def _learning_rate(stage: Stage) -> float:
    return float(stage.optimizers["student"].param_groups[0]["lr"])


def _resume(stage: Stage, run: Path, facts: dict[str, Any], console: Console) -> int:
    states = [s for s in list_states(run) if s.stage == stage.name]
    if not states:
        console.print(f"nothing to resume in {run}, starting from the beginning")
        return 0
    done = load_state(states[-1], stage.modules, stage.optimizers, facts)
    console.print(f"resuming {stage.name} after step {done}")
    return done


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM finish the step; a second one stops at once."""
    seen = False

    def note(number: int, _: Any) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
