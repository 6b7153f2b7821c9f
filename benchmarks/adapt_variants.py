"""What benchmarks/adapt_trials.py compares: protocols, and variants of how a finished model is adapted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from iccld_cli.inference.model import Sampling

CLASSES = ("road", "sidewalk", "building", "fence", "pole", "traffic sign", "vegetation", "sky", "person", "car")
FULL = 1e-4
"""Learning rate of the preset that the starts were trained with first; `Variant.rate` is a factor on it."""

STEPS, SHARES, NORMS = 300, (0.3, 0.5, 0.7), 0.25
VIEWS = Sampling(scales=(0.75, 1.0, 1.5), flip=True, average=True)
FLIPPED = Sampling(flip=True, average=True)
ANSWERED = {"start": (0.5, 0.7), "norms": (0.5, 0.7), "flip": (0.7,), "own": (0.7,)}
"""Whose answers are written, and which shares of them: of `start`; of its mean with itself after `norms`; `own` and
`flip` are these two with fewer views."""

WHOLE = (480, 352)
"""A frame of CamVid, but for its last eight rows."""


@dataclass(frozen=True)
class Protocol:
    """What is adapted to what, and where it is judged.

    Attributes:
        start: Model file, below ROOT or, where it is a shipped model, its name.
        target: Name of the footage's prepared set.
        gain: Split and drive whose score is to rise; drive None for all of the split.
        old: Split and drive of the road that the start comes from; None where that is not real.
        splits: Splits that are scored.
    """

    start: str
    target: str
    gain: tuple[str, str | None]
    old: tuple[str, str | None] | None
    splits: tuple[str, ...]


PROTOCOLS = {
    "p1": Protocol("start/p1.safetensors", "camvid-0016E5", ("val", None), ("test", "0001TP"), ("val", "test")),
    "p2": Protocol("free", "camvid", ("test", None), None, ("test",)),
}


@dataclass(frozen=True)
class Variant:
    """How a trial differs from what `iccld adapt` did before it learnt answers.

    Attributes:
        title: In the table.
        rate: Factor on `FULL`; None for `RATE` of the start's own rate, which compounds where one adapts twice.
        steps: Of the training.
        settings: Of the configuration, on top of what it was.
        source_only: No footage in training.
        carla: CARLA beside the town.
        labels: Learn the surest answers (`labels`) of a key of `ANSWERED`; else a variant, whose average with the
            start gives them (seed 0); empty for none.
        keep: Share of the answers of each class that are learnt.
        as_source: The labels take the place of the town as the source.
        begin: Share of the footage in the norms' statistics with which training begins.
    """

    title: str
    rate: float | None = 0.3
    steps: int = STEPS
    settings: Mapping[str, Any] = field(default_factory=dict)
    source_only: bool = False
    carla: bool = False
    labels: str = ""
    keep: float = 0.7
    as_source: bool = False
    begin: float = 0.0


ARGMAX = {"pseudo.gate": "quantile"}
GENTLE = {"optim.head_lr_factor": 3.0}
"""The starts have 30, which is meant for heads with random weights: those of a finished model are not."""

BETTER = {**ARGMAX, **GENTLE, "data.context": WHOLE}
"""The label is the most probable class, by a teacher that sees whole frames; gentle rates of the heads."""

BEFORE = ("pseudo.gate", "optim.head_lr_factor", "data.context")
"""What was the start's own before `iccld adapt` learnt answers."""

ALONE = {**GENTLE, "seg.mixed_weight": 0.0}
VARIANTS: dict[str, Variant] = {
    "start": Variant("the start", steps=0),
    "labels": Variant("writes answers to the footage", steps=0),
    "beside-norms": Variant("labels of start and norms beside self-training", labels="norms", settings=BETTER),
    "norms-70": Variant("labels of start and norms, no self-training", labels="norms", settings=ALONE),
    "flip": Variant("labels of start and norms, two views, beside self-training", labels="flip", settings=BETTER),
    "own": Variant("start's labels, two views, beside self-training: `iccld adapt`", labels="own", settings=BETTER),
    "as-source": Variant(
        "labels of start and norms instead of the town", labels="norms", as_source=True, settings=BETTER
    ),
    "beside": Variant("start's labels beside self-training", labels="start", settings=BETTER),
    "context": Variant("self-training, whole frames labelled, gate `quantile`, gentle heads", settings=BETTER),
    "defaults": Variant("self-training alone, as `iccld adapt` was: rates x 0.3 of the start's", rate=None),
    "town": Variant("the town alone", source_only=True, settings=GENTLE),
    "again": Variant(
        "labels of the average of `beside-norms`, beside self-training", labels="beside-norms", settings=BETTER
    ),
    "long": Variant(
        "labels of start and norms beside self-training, rates x 0.1, 600 steps", rate=0.1, steps=600,
        labels="norms", settings=BETTER,
    ),
    "norms-50": Variant(
        "labels of start and norms, half of each class, beside self-training", labels="norms", keep=0.5,
        settings=BETTER,
    ),
    "heads-1": Variant(
        "heads learn as slowly as the encoder; labels of start and norms beside self-training", labels="norms",
        settings={**BETTER, "optim.head_lr_factor": 1.0},
    ),
    "footage-4": Variant(
        "labels of start and norms, and self-training, count four times as much as the town", labels="norms",
        settings={**BETTER, "seg.mixed_weight": 4.0, "seg.labelled_weight": 4.0},
    ),
    "begin-norms": Variant("begins with norms of the footage, 0.25", begin=0.25, settings=BETTER),
    "rate-0.1": Variant("rates x 0.1 of the preset's", rate=0.1),
    "rate-0.3": Variant("rates x 0.3 of the preset's"),
    "heads-30": Variant("`context`, the heads' rates as they are", settings={**BETTER, "optim.head_lr_factor": 30.0}),
    "ema-1": Variant("the teacher is the mean of all steps", settings={"seg.ema_horizon": 1.0, **BETTER}),
    "mixed-4": Variant("the footage counts four times", settings={"seg.mixed_weight": 4.0, **BETTER}),
    "whole": Variant(
        "crops of whole frames, 4 of each",
        settings={"data.crop": WHOLE, "data.target_scale": (1.0, 1.0), "data.workers": 1, **ARGMAX, **GENTLE},
    ),
    "batch-8": Variant("8 crops of each", settings={"data.batch_size": 8, "data.workers": 1, **BETTER}),
    "labels-70": Variant("start's labels, no self-training", settings=ALONE, labels="start"),
    "labels-50": Variant("start's labels, half of each class, no self-training", settings=ALONE, labels="start",
                         keep=0.5),
    "masked": Variant("masked image consistency", settings={"seg.masked_weight": 1.0, **BETTER}),
    "balanced": Variant("gate `balanced`", settings={**BETTER, "pseudo.gate": "balanced"}),
    "carla": Variant("CARLA beside the town", carla=True, settings=BETTER),
    "plain-colours": Variant("the source keeps its colours", settings={"augment.style_probability": 0.0, **BETTER}),
    "gates-85": Variant("gates at the 85 % quantile", settings={"pseudo.quantile": 0.85, **BETTER}),
    "short": Variant("100 steps", steps=100, settings=BETTER),
    "rate-0.03": Variant("rates x 0.03 of the preset's, 800 steps", rate=0.03, steps=800, settings=BETTER),
}  # fmt: skip
"""In the order of what they are likely to tell."""

SAME = {("p1", "rate-0.1"): "defaults", ("p2", "rate-0.3"): "defaults"}
"""Jobs that another one stands for: the start of p1 was itself made with a third of the preset's rates."""

FURTHER = {"heads-1": (1, 2), "mixed-4": (3, 4)}
"""After which variant's jobs the best ones so far, by their rank, are tried with further seeds: what follows is less
likely to tell than whether these hold."""
