"""The state of the adversarial training in words.

A least-squares discriminator that cannot distinguish the domains is right half of the time and its loss is 1/4
(scores of 1/2 everywhere); one that always can is right all of the time and its loss goes to 0. In the first case the
estimates are aligned or the discriminator gets no gradient, in the second the UNet gets no useful gradient.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

_MEMORY = 20  # lines of the log that a verdict looks back on
_LEAST = 5
_WINS, _GUESSES, _BLIND = 0.95, 0.58, 0.1
_QUIET = 1e-3


@dataclass(frozen=True)
class Verdict:
    """A diagnosis of the adversarial training.

    Attributes:
        state: `warming up`, `balanced`, `wins`, `guesses`, `dead` or `one-sided`.
        text: The same in a sentence; for a problem also what to change.
    """

    state: str
    text: str

    @property
    def well(self) -> bool:
        """Whether nothing needs to be changed."""
        return self.state in ("warming up", "balanced", "guesses")


class AdversarialHealth:
    """Diagnoses the discriminator from the last lines of the log."""

    def __init__(self) -> None:
        self._lines: deque[Mapping[str, float]] = deque(maxlen=_MEMORY)
        self._warned = ""

    def judge(self, line: Mapping[str, float]) -> Verdict | None:
        """Take in a line of the log.

        Args:
            line: Numbers of the line; `disc_acc_*`, `disc_loss` and `disc_grad_norm` are looked at.

        Returns:
            The diagnosis; None where the line has no discriminator.
        """
        if "disc_loss" not in line:
            return None
        self._lines.append(line)
        domains = {k.removeprefix("disc_acc_") for row in self._lines for k in row if k.startswith("disc_acc_")}
        accuracy = {d: self._mean(f"disc_acc_{d}") for d in sorted(domains)}
        said = ", ".join(f"{d} {100 * a:.0f}%" for d, a in accuracy.items())
        if len(self._lines) < _LEAST or "source" not in accuracy or len(accuracy) < 2:
            return Verdict("warming up", f"the discriminator is warming up (right on {said or 'nothing yet'})")
        others = [a for d, a in accuracy.items() if d != "source"]
        both = (accuracy["source"] + sum(others) / len(others)) / 2
        gradient = self._mean("disc_grad_norm")
        return _verdict(accuracy["source"], max(others), both, gradient, said)

    def news(self, verdict: Verdict) -> bool:
        """Whether this verdict is a warning that was not given yet; it is noted as given."""
        fresh = not verdict.well and verdict.state != self._warned
        self._warned = "" if verdict.well else verdict.state
        return fresh

    def to_json(self) -> list[dict[str, float]]:
        """Its part of a training state."""
        return [dict(line) for line in self._lines]

    def restore(self, lines: list[dict[str, float]]) -> None:
        """Restore what `to_json` returned."""
        self._lines.extend(lines)

    def _mean(self, key: str) -> float:
        values = [row[key] for row in self._lines if key in row]
        return sum(values) / len(values) if values else 0.0


def _verdict(source: float, other: float, both: float, gradient: float, said: str) -> Verdict:
    if min(source, other) < _BLIND and max(source, other) > 1 - _BLIND:
        side = "source" if source > other else "target"
        return Verdict(
            "one-sided",
            f"the discriminator scores everything as {side} ({said}): raise adv.discriminator_lr, or check whether "
            f"the batch is too small for adv.terminal_probability",
        )
    if both >= _WINS:
        return Verdict(
            "wins",
            f"the discriminator wins ({said}), so the UNet gets almost no gradient from it: lower "
            f"adv.discriminator_lr, or set adv.gradient_penalty=1",
        )
    if both <= _GUESSES and gradient < _QUIET:
        return Verdict(
            "dead",
            f"the discriminator no longer learns ({said}, gradient norm {gradient:.1e}): raise adv.discriminator_lr or "
            f"model.discriminator_channels",
        )
    if both <= _GUESSES:
        return Verdict("guesses", f"the discriminator guesses ({said}): the estimates of all domains look alike to it")
    return Verdict("balanced", f"balanced: the discriminator is right on {said}")
