"""The training loop that both stages share: load, step, log, validate, save, stop cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console

from iccld_cli.adapt.adversarial_health import AdversarialHealth
from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage import Stage
from iccld_cli.config import Config
from iccld_cli.data.batches import Batch, TrainingBatches, read_steps
from iccld_cli.errors import IccldError
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.parallel.ranks import Ranks
from iccld_cli.train.log_means import LogMeans
from iccld_cli.train.memory import GIB, explain_out_of_memory, format_bytes, peak_bytes
from iccld_cli.train.progress import TrainingProgress
from iccld_cli.train.runlog import RunLog
from iccld_cli.train.state import Contents, list_states, load_state, remove_leftovers, remove_older, save_state
from iccld_cli.train.trackers import Trackers

_SMALLER = (
    "lower --batch-size (or leave it to --batch-size auto) or --crop, keep the whole batch with "
    "--set run.accumulate=2, or use --set run.checkpointing=true"
)
_SECOND_SIGNAL_AFTER = 1.0  # seconds; launchers repeat a terminal's Ctrl-C at once


@dataclass
class LoopHooks:
    """What happens to the teacher beside the steps, on rank 0.

    Attributes:
        validate: Scores it; the numbers join the log line.
        draw: Draws sample overlays of it at a step.
        keep_best: Keeps that of a step whose mIoU, or score without labels, is the best so far.
        log: Takes a copy of each line of the log.
        step: Takes (steps done, steps in all) after each step; on every rank.
    """

    validate: Callable[[Segmenter], dict[str, float]] | None = None
    draw: Callable[[Segmenter, int], None] | None = None
    keep_best: Callable[[Segmenter, int], None] | None = None
    log: Callable[[dict[str, Any]], None] | None = None
    step: Callable[[int, int], None] | None = None


@dataclass
class Trainer:
    """Trains a stage to its end.

    Attributes:
        stage: The stage.
        config: The configuration.
        batches: Training data.
        run: The run folder.
        accelerator: Device, precision and gradient sync.
        resume_key: What a resumed run must agree on.
        hooks: Validation and pictures.
        console: Where messages go.
        validation: The last scores of the teacher, and the best so far, such as `best_miou`.
    """

    stage: Stage
    config: Config
    batches: TrainingBatches
    run: Path
    accelerator: Accelerator
    resume_key: dict[str, Any]
    hooks: LoopHooks
    console: Console
    validation: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ranks = Ranks()
        self._main = self.accelerator.is_main_process
        self._means = LogMeans(self._ranks, overflows=self.accelerator.mixed_precision == "fp16")
        self._health = AdversarialHealth()
        self._log: RunLog | None = None
        self._trackers: Trackers | None = None
        self._began = 0.0
        self._timed = 0

    def resume(self) -> int:
        """Put the newest state of this stage back.

        Returns:
            Steps done; 0 where there is no state.

        Raises:
            IccldError: The state is damaged or belongs to a run with other settings.
        """
        states = [s for s in list_states(self.run) if s.stage == self.stage.name]
        if not states:
            self.console.print(f"nothing to resume in {self.run}, starting from the beginning", soft_wrap=True)
            return 0
        done, extras = load_state(states[-1], self._contents())
        problem = extras_problem(extras, self.accelerator.scaler is not None)
        if done > self.stage.iterations:
            problem = f"it says step {done} of {self.stage.iterations}"
        if problem:
            raise IccldError(
                f"cannot resume {states[-1].path}: {problem}",
                "remove that folder to fall back to an older state, or start anew in another --out",
            )
        self._means.rows = extras["window"]
        self._health.restore(extras["health"])
        self.validation |= extras["validation"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(extras["scaler"])
        self.console.print(f"resuming {self.stage.name} after step {done}", soft_wrap=True)
        return done

    def train(self, start: int) -> None:
        """Train from a step to the end.

        Args:
            start: Steps done.

        Raises:
            IccldError: A loss is not finite, memory or disk is full, or another process of the training ended.
            KeyboardInterrupt: Interrupted; the state is saved.
        """
        total = self.stage.iterations
        if self._main:
            remove_leftovers(self.run)
            remove_older(self.run, self.stage.name, self.config.run.keep_states)
            self._log = RunLog(self.run, self.stage.name, start)
        self._trackers = Trackers(self.accelerator, self.config, self.run, self.stage.name)
        steps = read_steps(self.batches, start, total, pin_memory=self.accelerator.device.type == "cuda")
        bar = TrainingProgress(self.stage.name, start, total, self.console, enabled=self._main)
        try:
            with _interrupts() as interrupted, bar, contextlib.closing(steps), self._explain_lost_ranks():
                self._began = time.perf_counter()
                for step, micro_batches in enumerate(steps, start):
                    with explain_out_of_memory(f"step {step + 1} of {self.stage.name}", self.device, _SMALLER):
                        self._step(step, micro_batches)
                        self._timed += 1
                    stop = self._ranks.stop_agreed(interrupted())
                    with explain_out_of_memory(f"validation after step {step + 1}", self.device, _SMALLER):
                        self._after(step + 1, stop, bar)
                    if self.hooks.step is not None:
                        self.hooks.step(step + 1, total)
                    if stop and step + 1 < total:
                        self.console.print(f"stopped after step {step + 1}, which is saved; go on with --resume")
                        raise KeyboardInterrupt
                self._ranks.wait()
        finally:
            self._trackers.close()
        self.console.print(f"peak memory {format_bytes(peak_bytes(self.device))} on {self.device}", soft_wrap=True)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.accelerator.device

    def _step(self, step: int, micro_batches: list[Batch]) -> None:
        labelled = sum(raw.labelled for raw in micro_batches) / len(micro_batches)
        stats, names = [], []
        for micro, raw in enumerate(micro_batches):
            # Networks with their own randomness (stochastic depth) draw from the global generator.
            key = [self.config.run.seed, step, micro, self.accelerator.process_index]
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
            batch = to_device(raw, self.config, step, self.device, labelled)
            last = micro == len(micro_batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.stage.network):
                stats.append(self.stage.step(step, batch))
            names += [name for group in batch.names for name in group]
        self._means.add(step, stats, names)

    def _after(self, done: int, stop: bool, bar: TrainingProgress) -> None:
        """Log, validate, draw and save where it is time to; every rank comes to the same decisions."""
        settings, final = self.config.run, done == self.stage.iterations
        log = final or _due(done, settings.log_every, settings.validate_every)
        save = final or stop or _due(done, settings.save_every)
        validate = (final or (_due(done, settings.validate_every) and not stop)) and self.hooks.validate is not None
        draw = (final or _due(done, settings.overlay_every)) and self.hooks.draw is not None
        if log or save:
            self._means.collect()
        teacher = self.stage.result() if validate or draw else None
        if log:
            self._write_line(done, teacher if validate else None, bar)
        bar.advance()
        if draw and self._main and self.hooks.draw is not None and teacher is not None:
            self.hooks.draw(teacher, done)
        del teacher
        # Rank 0 alone has validated and drawn. The others wait for it here, and not inside a collective, whose
        # patience is short.
        if validate or draw:
            self._ranks.wait()
        if save:
            save_state(self.run, self.stage.name, done, self._contents(), settings.keep_states, write=self._main)
            if self._log is not None and self._log.path.is_file():
                self._log.plot(last=final or stop)
            self._ranks.wait()
        if log or save or draw:
            self._began, self._timed = time.perf_counter(), 0

    def _write_line(self, done: int, teacher: Segmenter | None, bar: TrainingProgress) -> None:
        """Write a line of the log, with scores of the teacher where one is given."""
        row: dict[str, Any] = {
            "step": done,
            **self._means.close(),
            "lr": float(self.stage.optimizers["student"].param_groups[0]["lr"]),
            "step_seconds": (time.perf_counter() - self._began) / max(self._timed, 1),
            "memory_gib": round(peak_bytes(self.device) / GIB, 3),
        }
        verdict = self._health.judge({k: v for k, v in row.items() if k.startswith("disc_")})
        if verdict is not None:
            row["adversarial"] = verdict.text
            if self._health.news(verdict):
                self.console.print(f"warning: step {done}: {verdict.text}", soft_wrap=True)
        if teacher is not None and self._main and self.hooks.validate is not None:
            scores = self.hooks.validate(teacher)
            row |= scores
            self.validation |= scores
            key = "labels_free" if self.config.run.select == "labels-free" else "miou"
            if scores[key] > self.validation.get(f"best_{key}", -1.0):
                self.validation[f"best_{key}"] = scores[key]
                if self.hooks.keep_best is not None:
                    self.hooks.keep_best(teacher, done)
        if self._log is not None:
            self._log.write(row)
        if self._trackers is not None:
            self._trackers.write(done, row)
        if self.hooks.log is not None and self._main:
            self.hooks.log(dict(row))
        bar.report(row, self.validation.get("miou"))

    def _contents(self) -> Contents:
        scaler = self.accelerator.scaler
        extras = {
            "window": self._means.rows,
            "health": self._health.to_json(),
            "validation": self.validation,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return Contents(self.stage.modules, self.stage.optimizers, self.resume_key, extras, self.stage.layout)

    @contextlib.contextmanager
    def _explain_lost_ranks(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if self._ranks.size == 1 or not any(w in text for w in ("gloo", "NCCL", "onnection", "process group")):
                raise
            raise IccldError(
                f"process {self.accelerator.process_index} lost another process of this training",
                "see that one's message; everything up to the last saved state is kept, go on with --resume",
            ) from None


def extras_problem(extras: dict[str, Any], scaled: bool) -> str | None:
    """What is wrong with a state's extras: states of older versions have no checksum over them."""
    for key in ("window", "health"):
        rows = extras.get(key)
        if not isinstance(rows, list) or not all(_is_numbers(row) for row in rows):
            return f"its {key} is no list of numbers"
    if not _is_numbers(extras.get("validation")):
        return "its validation holds no numbers"
    if scaled and not isinstance(extras.get("scaler"), dict):
        return "it has no loss scaler"
    return None


def _is_numbers(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in row.values())


def _due(done: int, *periods: int) -> bool:
    return any(period and done % period == 0 for period in periods)


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C, SIGTERM and SIGHUP finish the step; a second Ctrl-C stops at once."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield lambda: False
        return
    seen: float | None = None

    def note(number: int, _: Any) -> None:
        nonlocal seen
        now = time.monotonic()
        if number == signal.SIGINT and seen is not None and now - seen > _SECOND_SIGNAL_AFTER:
            raise KeyboardInterrupt
        seen = now if seen is None else seen

    # A terminal that is closed sends SIGHUP; under nohup it is ignored and stays so.
    stops = [s for name in ("SIGINT", "SIGTERM", "SIGHUP") if (s := getattr(signal, name, None)) is not None]
    before = {s: signal.signal(s, note) for s in stops if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield lambda: seen is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
