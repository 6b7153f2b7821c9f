"""From what a model says of frames to what `predict` keeps of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iccld_cli.header import ModelHeader
from iccld_cli.inference import collected
from iccld_cli.inference.facts import facts_of
from iccld_cli.inference.model import Segmentation
from iccld_cli.inference.outputs import Maps
from iccld_cli.inference.predict_options import PredictOptions
from iccld_cli.labels import IGNORE


def maps_of(
    segmentation: Segmentation,
    images: list[np.ndarray],
    options: PredictOptions,
    header: ModelHeader,
    region: np.ndarray | None,
) -> list[Maps]:
    """A byte a pixel of what is asked for, and the numbers of each frame; `region`, bool (H, W), is not the scene."""
    if region is not None:
        segmentation = _outside(segmentation, region)
    wants = options.wants()
    bytewise = {*wants} & {*options.kinds()} - {"probabilities"}
    kept: dict[str, np.ndarray] = {
        name: _to_byte(value) for name in bytewise if (value := getattr(segmentation, name)) is not None
    }
    if "probabilities" in wants:
        assert segmentation.probabilities is not None
        kept["probabilities"] = segmentation.probabilities.astype(np.float16)
    if "dataset" in options.save:
        assert segmentation.confidence is not None
        kept["trusted"] = collected.ignored_below(
            segmentation.labels, segmentation.confidence, options.threshold, header.classes
        )
    facts = [facts_of(image, segmentation, i) for i, image in enumerate(images)] if options.collects() else None
    return [
        Maps(labels, **{name: value[i] for name, value in kept.items()}, facts=facts[i] if facts else None)
        for i, labels in enumerate(segmentation.labels)
    ]


def _outside(segmentation: Segmentation, region: np.ndarray) -> Segmentation:
    """The same with nothing said of a region, bool (H, W): labels 255, all else 0."""
    emptied = {
        name: np.where(region, np.float32(0), value)
        for name, value in vars(segmentation).items()
        if name != "labels" and value is not None
    }
    return replace(segmentation, labels=np.where(region, np.uint8(IGNORE), segmentation.labels), **emptied)


def _to_byte(fraction: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 [0, 255], rounded."""
    return np.clip(np.rint(fraction * np.float32(255)), 0, 255).astype(np.uint8)
