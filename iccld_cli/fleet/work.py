"""What a fleet works on: parts of one command, made by workers that each hold what all their parts need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from iccld_cli.parts import Part

Progress = Callable[[int, int], None]
"""Called with units done and units in all."""


@dataclass(frozen=True)
class Fleet:
    """Which machines, and how the work is cut for them.

    Attributes:
        address: `HOST:PORT` of a cluster's head, or `auto` for the cluster that this machine belongs to; None for
            `RAY_ADDRESS`, and without that for a Ray of this machine alone that ends with the work.
        parts: Number of parts; None for `PARTS` a worker, or as many as an unfinished run had.
        cpus: Processors of a worker; None for all of a node, or an equal share for each of its GPUs.
    """

    address: str | None = None
    parts: int | None = None
    cpus: int | None = None


PARTS = 8
"""Parts for each worker: few enough that beginning one costs little, enough that the last ones end together."""


@dataclass(frozen=True)
class Place:
    """Where a worker works.

    Attributes:
        scratch: A folder of its own, which is removed with it.
        cpus: Processors it may use.
        gpus: GPUs it may use, the first ones that it sees.
        tell: Called with a line for the user.
    """

    scratch: Path
    cpus: int
    gpus: int
    tell: Callable[[str], None]

    @property
    def device(self) -> str:
        """`--device` of a model here."""
        return "cuda" if self.gpus else "cpu"


class Work(Protocol):
    """Picklable; the same on all workers."""

    def open(self, place: Place) -> Mapping[str, Any]:
        """Load what all parts need.

        Returns:
            What must be equal on all workers, by its name.

        Raises:
            IccldError: This node cannot do the work.
        """

    def do(self, part: Part, place: Place, progress: Progress) -> int:
        """Make a part, or see that it is made; a part that was begun goes on.

        Returns:
            How many units it has.

        Raises:
            IccldError: It cannot be made.
        """


class PartsFailedError(Exception):
    """Parts that could not be made; the others are done, and the same work goes on with these.

    Attributes:
        failed: Each with why, of its last try.
    """

    def __init__(self, failed: Mapping[Part, Exception]) -> None:
        super().__init__(f"{len(failed)} parts failed")
        self.failed = dict(failed)
