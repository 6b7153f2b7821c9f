"""What `predict` is asked for, and what it reports."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from iccld_cli.data.fixed import read_region
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.model import Sampling, Want
from iccld_cli.inference.outputs import DATASET_IMAGES, DATASET_LABELS
from iccld_cli.report.overlay import DEFAULT_ALPHA

DEFAULT_THRESHOLD = 0.9
"""Least confidence of a label that is learned from."""


@dataclass(frozen=True)
class PredictOptions:
    """What to predict and what to keep of it.

    Attributes:
        out: Output folder.
        save: Kinds of results, out of `KINDS`.
        sampling: How the model predicts.
        alpha: Opacity of the colours in overlays.
        legend: Whether overlays name the classes.
        batch_size: Images per pass; None leaves it to the model.
        limit: At most this many images, and frames of each video; None for all.
        every: Of videos, only frames whose number this divides.
        start: Of videos, the first second that counts, since the first frame; None for the first frame.
        end: Of videos, the second at which they end; None for all of it.
        ignore: A picture of what is not the scene (`data.fixed`), or `auto` to find it in each video, and in the images
            of a size; None for nothing. Labels are 255 there, confidence and uncertainty 0.
        smooth: Whether the answers of a video are steadied (`inference.smooth`); not with `Sampling.average`.
        overwrite: Replace results that exist.
        skip_existing: Leave out inputs whose results all exist.
        threshold: Least confidence, in [0, 1], of labels in the prepared data set; others are 255.
        to_label: List this many frames that are most worth labelling; 0 for no list.
    """

    out: Path
    save: tuple[str, ...] = ("overlay",)
    sampling: Sampling = field(default_factory=Sampling)
    alpha: float = DEFAULT_ALPHA
    legend: bool = True
    batch_size: int | None = None
    limit: int | None = None
    every: int = 1
    start: Fraction | None = None
    end: Fraction | None = None
    smooth: bool = True
    ignore: Path | str | None = None
    overwrite: bool = False
    skip_existing: bool = False
    threshold: float = DEFAULT_THRESHOLD
    to_label: int = 0

    def settings(self) -> dict[str, Any]:
        """What results depend on besides the model, JSON-ready."""
        return {
            "save": list(self.save),
            "steps": self.sampling.steps,
            "samples": self.sampling.samples,
            "seed": self.sampling.seed,
            "scales": list(self.sampling.scales),
            "flip": self.sampling.flip,
            "average": self.sampling.average,
            "height": self.sampling.height,
            "alpha": self.alpha,
            "legend": self.legend,
            "limit": self.limit,
            "every": self.every,
            "start": None if self.start is None else str(self.start),
            "end": None if self.end is None else str(self.end),
            "smooth": self.smooth,
            "ignored region": self._ignored(),
            "batch size": self.batch_size,
            "threshold": self.threshold if "dataset" in self.save else None,
            "frames": "frames" in self.save,
            "to label": self.to_label,
        }

    def kinds(self) -> tuple[str, ...]:
        """The kinds of results that each input gets, the two of the data set included."""
        found = tuple(kind for kind in self.save if kind not in ("frames", "dataset"))
        return found + ((DATASET_IMAGES, DATASET_LABELS) if "dataset" in self.save else ())

    def collects(self) -> bool:
        """Whether files about all frames are written."""
        return "frames" in self.save or "dataset" in self.save or self.to_label > 0

    def wants(self) -> tuple[Want, ...]:
        """What the model is asked for besides labels."""
        every: tuple[Want, ...] = ("confidence", "uncertainty", "probabilities")
        wanted = {*self.kinds(), *(("confidence", "uncertainty") if self.collects() else ())}
        return tuple(name for name in every if name in wanted)

    def narrowed(self) -> bool:
        """Whether a part of a video's frames alone is asked for."""
        return self.start is not None or self.end is not None or self.every > 1

    def _ignored(self) -> str | None:
        if self.ignore is None or self.ignore == "auto":
            return None if self.ignore is None else "auto"
        return hashlib.sha256(read_region(Path(self.ignore)).tobytes()).hexdigest()

    def choose(self, index: int, time: Fraction) -> Literal["take", "skip", "end"]:
        """What to do with a frame of a video, by its number and its time; see `video.Choose`."""
        if self.end is not None and time >= self.end:
            return "end"
        return "skip" if index % self.every or (self.start is not None and time < self.start) else "take"


@dataclass(frozen=True)
class LiveFacts:
    """How a stream or camera went.

    Attributes:
        where: Its name.
        frames: Frames that were segmented.
        received: Frames that it sent.
        latency: Seconds from the arrival of a frame to its results, of half of the frames at most and of 99 in 100.
    """

    where: str
    frames: int
    received: int
    latency: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """What `predict` did.

    Attributes:
        images: Images predicted.
        frames: Video frames predicted.
        skipped: Inputs whose results existed.
        problems: (name of the input, what was wrong with it), for inputs that could not be read or only in part.
        resumed: Inputs that an earlier, unfinished run with the same settings had finished.
        to_label: The frames most worth labelling, each in a few words, the first one first.
        dataset: The prepared data set of the predictions.
        live: Of the streams and cameras.
    """

    images: int
    frames: int
    skipped: int
    problems: tuple[tuple[str, IccldError], ...]
    resumed: int = 0
    to_label: tuple[str, ...] = ()
    dataset: PreparedDataset | None = None
    live: tuple[LiveFacts, ...] = ()
