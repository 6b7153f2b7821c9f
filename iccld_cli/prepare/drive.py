"""A drive through the virtual town beside a set of it: `drive.mp4`, and `drive.json`, which says what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.plainjson import parse_json
from iccld_cli.prepare.adapters.virtual import REVISION, VirtualTown
from iccld_cli.town import render
from iccld_cli.town.drive import FPS, check_size, frames_of, write_drive

_VIDEO_NAME, _FACTS_NAME = "drive.mp4", "drive.json"


@dataclass(frozen=True)
class Drive:
    """A drive to be made.

    Attributes:
        folder: The folder of the set, which need not be there yet.
        town: The set; its look, size, seed and mix are the drive's.
        seconds: Length.
    """

    folder: Path
    town: VirtualTown
    seconds: float

    @property
    def path(self) -> Path:
        """The MP4 file."""
        return self.folder / _VIDEO_NAME

    def is_there(self, force: bool) -> bool:
        """Whether this very drive is made already; nothing is written.

        Args:
            force: Whether another drive may be replaced.

        Raises:
            IccldError: Another drive has its name and may not, or there is none of this size or seed.
        """
        render.check(self.town.look, self.town.size, self.town.seed)
        check_size(self.town.size)
        if not self.path.exists():
            return False
        facts = self._facts()
        try:
            before = parse_json((self.folder / _FACTS_NAME).read_bytes())
            done = before["done"]
            differs = [f"{k} was {before.get(k)!r}, now {facts[k]!r}" for k in facts if before.get(k) != facts[k]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            done, differs = False, [f"no {_FACTS_NAME} says what it shows"]
        if differs and not force:
            raise IccldError(
                f"{self.path} is another drive ({'; '.join(differs)})", "--force replaces it, --out puts it elsewhere"
            )
        return bool(done) and not differs

    def make(self) -> None:
        """Render it; what has its name is replaced."""
        facts = self._facts()
        # Written first, so that what a killed run leaves is known as its own, and the same command goes on.
        write_json(self.folder / _FACTS_NAME, {**facts, "done": False})
        write_drive(self.path, self.seconds, self.town.look, self.town.size, self.town.seed, self.town.mix)
        write_json(self.folder / _FACTS_NAME, {**facts, "done": True})

    def scene(self) -> str:
        """What it shows in words, without what is left to the look: `motorway, night, rain`."""
        scene = self.town.mix.scene(self.town.seed, 0)
        rain = None if scene.rain is None else "rain" if scene.rain else "no rain"
        return ", ".join(word for word in (scene.kind, scene.hour, rain) if word)

    def _facts(self) -> dict[str, Any]:
        """Everything that its frames follow from; None for what is left to the look."""
        scene = self.town.mix.scene(self.town.seed, 0)
        return {
            "look": self.town.look,
            "kind": scene.kind,
            "hour": scene.hour,
            "rain": scene.rain,
            "seconds": frames_of(self.seconds) / FPS,
            "fps": FPS,
            "size": list(self.town.size),
            "seed": self.town.seed,
            "town": REVISION,
        }
