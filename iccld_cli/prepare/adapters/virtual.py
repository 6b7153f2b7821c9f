"""The built-in virtual town: labelled frames rendered on the spot, without a download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.prepare.adapters.base import RawFrame

if TYPE_CHECKING:
    import numpy as np

    from iccld_cli.town import Mix

SOURCE_LOOK = "game"
"""The look that serves as labelled source; every other look is a target with held-back splits."""

MIN_HELD_BACK = 8
"""Fewest frames of a target's `val` and `test`."""

SPLIT_SPAN = 10_000_000
"""Indices that belong to one split: a larger set never trains on scenes that a smaller one held back."""

REVISION = 4
"""Recorded with each set; raised when the town draws other pictures or labels from the same options, so that a set is
never continued with frames of another town."""


class VirtualTown:
    """One look of the town. It has an adapter's methods; its frames come from `iccld_cli.town`."""

    name = "virtual"
    label_space: LabelSpace = CITYSCAPES
    covers: Mapping[str, str] = {}
    grows = "frames"

    def __init__(self, look: str, frames: int, size: tuple[int, int], seed: int, mix: Mix | None = None) -> None:
        """Describe the frames to render.

        Args:
            look: One of `iccld_cli.town.LOOKS`.
            frames: Number of training frames.
            size: (width, height) in pixels.
            seed: The town's seed.
            mix: Shares of kinds of road, hours and rain; None for the town by the look's own light.
        """
        from iccld_cli.town import Mix

        self.look, self.frames, self.size, self.seed = look, frames, size, seed
        self.mix = Mix() if mix is None else mix

    def scan(self) -> Iterator[RawFrame]:
        """List the frames; a target look has `val` and `test` beside `train`, each of other places."""
        held_back = 0 if self.look == SOURCE_LOOK else max(MIN_HELD_BACK, self.frames // 4)
        splits = (("train", self.frames), ("val", held_back), ("test", held_back))
        for start, (split, count) in enumerate(splits):
            for number in range(count):
                index = str(start * SPLIT_SPAN + number)
                yield RawFrame(split, f"{self.look}_{number:06d}", index, index)

    def stamp(self, frame: RawFrame) -> tuple[str, str]:
        """A rendered frame is fixed by the options."""
        return "-", "-"

    def stream(self, pending: Iterator[RawFrame]) -> Iterator[tuple[RawFrame, Any]]:
        """Nothing to add: the workers render."""
        for frame in pending:
            yield frame, None

    def load(self, frame: RawFrame) -> tuple[np.ndarray, np.ndarray]:
        """Render a frame.

        Returns:
            uint8 (H, W, 3) RGB and uint8 (H, W) of trainIds.
        """
        from iccld_cli.town import render_frame

        return render_frame(self.seed, int(frame.image), self.look, self.size, self.mix)

    def classes_known(self) -> tuple[str, ...] | None:
        """Every class but the train, which the town has none of."""
        return tuple(name for name in self.label_space.names if name != "train")

    def findings(self) -> dict[str, Any]:
        """Nothing to report."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        options = {"look": self.look, "frames": self.frames, "size": list(self.size), "seed": self.seed}
        options |= {"town": REVISION, **self.mix.to_json()}
        return {"adapter": self.name, "path": "built-in virtual town", "options": options}
