"""What share of a set's frames shows which kind of road, at which hour, in rain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.town.looks import LOOKS
from iccld_cli.town.plan import KINDS, rng_of

HOURS = ("day", "dusk", "night")
"""Hours of the camera look."""

Shares = tuple[tuple[str, float], ...]

# The additive recurrence of the least discrepancy in three dimensions: powers of the root of x^4 = x + 1 (Roberts).
_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)


@dataclass(frozen=True)
class Scene:
    """What one frame shows.

    Attributes:
        kind: One of `plan.KINDS`.
        hour: One of HOURS, or None for the look's own.
        rain: Whether it rains; None leaves it to the look's weather.
    """

    kind: str = "urban"
    hour: str | None = None
    rain: bool | None = None


@dataclass(frozen=True)
class Mix:
    """Shares of a set of frames.

    Attributes:
        kinds: Kinds of road with their shares, which add up to 1.
        light: Hours with their shares; empty for those of the look itself.
        rain: Share of frames in rain, or None for the look's own weather.
    """

    kinds: Shares = (("urban", 1.0),)
    light: Shares = ()
    rain: float | None = None

    def scene(self, seed: int, index: int) -> Scene:
        """What a frame shows: a function of seed and index alone, near the shares in any run of frames.

        Args:
            seed: The set's seed, >= 0.
            index: The frame's index, >= 0.

        Returns:
            The scene.
        """
        start = rng_of(seed, 41).uniform(size=3).tolist()
        kind, hour, rain = ((first + index * step) % 1.0 for first, step in zip(start, _STEPS, strict=True))
        return Scene(
            _pick(self.kinds, kind),
            _pick(self.light, hour) if self.light else None,
            None if self.rain is None else rain < self.rain,
        )

    def to_json(self) -> dict[str, Any]:
        """The shares as they are recorded with a set; what is left to the look is left out."""
        raw: dict[str, Any] = {"kinds": dict(self.kinds)}
        if self.light:
            raw["light"] = dict(self.light)
        if self.rain is not None:
            raw["rain"] = self.rain
        return raw


def _pick(shares: Shares, at: float) -> str:
    for name, share in shares:
        at -= share
        if at < 0:
            return name
    return shares[-1][0]


def mixes(
    looks: Sequence[str],
    kinds: str | Mapping[str, float] | None = None,
    light: str | Mapping[str, float] | None = None,
    rain: float | None = None,
) -> dict[str, Mix]:
    """What each look shows: hours hold for the camera look, and it never rains in the game.

    Args:
        looks: Some of LOOKS.
        kinds: Shares of `plan.KINDS`, see `parse_shares`; None for streets in town alone.
        light: Shares of HOURS; None for the look's own.
        rain: Share of frames in rain, 0..1; None for the look's own weather.

    Returns:
        Look -> its mix, in the order of `looks`.

    Raises:
        IccldError: An unknown look, shares that mean nothing, or light or rain that no look would show.
    """
    for look in looks:
        if look not in LOOKS:
            raise IccldError(f"the virtual town has no look {look!r}", did_you_mean(look, LOOKS))
    if light is not None and "camera" not in looks:
        raise IccldError(f"--light has no effect on the look {looks[0]}", "it goes with --look camera")
    if rain is not None and set(looks) == {"game"}:
        raise IccldError("it never rains in the look game", "--rain goes with --look camera or --look night")
    if rain is not None and not 0 <= rain <= 1:
        raise IccldError(f"--rain: {rain} is no share", "give a number from 0 to 1")
    roads = Mix().kinds if kinds is None else parse_shares(kinds, KINDS, "--kinds")
    hours = () if light is None else parse_shares(light, HOURS, "--light")
    of_look = {"game": Mix(roads), "camera": Mix(roads, hours, rain), "night": Mix(roads, (), rain)}
    return {look: of_look[look] for look in looks}


def parse_shares(text: str | Mapping[str, float], known: Sequence[str], option: str) -> Shares:
    """Read shares such as `urban:0.6,motorway:0.2,country:0.2`; they are divided by their sum.

    Args:
        text: Names with their shares; a name alone counts 1. From Python also a dictionary of them.
        known: The names there are.
        option: The option's name, for the error.

    Returns:
        Names and shares in the order of `known`, without those of share 0.

    Raises:
        IccldError: An unknown or repeated name, or a share that is no number of 0 or more.
    """
    if not isinstance(text, str):
        text = ",".join(f"{name}:{share}" for name, share in text.items())
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        if name not in known:
            raise IccldError(f"{option}: the virtual town has no {name!r}", did_you_mean(name, known))
        if name in found:
            raise IccldError(f"{option} names {name} twice", f"write it once, as in {known[0]}:0.7,{known[1]}:0.3")
        found[name] = _share(number, option) if colon else 1.0
    total = sum(found.values())
    if not 0 < total < math.inf:
        raise IccldError(f"{option}: the shares of {text!r} add up to 0", "give at least one above 0")
    return tuple((name, round(found[name] / total, 6)) for name in known if found.get(name))


def _share(number: str, option: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise IccldError(f"{option}: {number!r} is no share", "give a number of 0 or more, as in night:0.1")
    return value
