"""What `iccld adapt` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FootageOptions:
    """What to adapt to, and how long.

    Attributes:
        footage: Videos, folders of images or prepared data sets.
        out: The folder for everything.
        ckpt: Model file to start from; None for the shipped one.
        minutes: Minutes of answering and training, of both stages together, where `iterations` is None.
        iterations: Steps of stage 1; the same number gives the same model.
        val: Prepared data set with labels in a split `val`, by which the model is chosen; None without labels.
        predict: Whether the footage is segmented at the end.
        seed: Of training.
        device: As in `run.device`.
        labelled: Prepared data sets of the footage's road with any labelled pixels, which are learnt.
        to_label: Frames most worth labelling that are listed; 0 for none.
        ignore: A picture of what is not the scene (`data.fixed`), or `auto` to find it in each input; None for nothing.
        stage2: Whether stage 2 follows stage 1, in a third of the minutes or half as many steps.
        answers: Whether the start's own answers to the footage are learnt as labels are.
    """

    footage: Sequence[Path]
    out: Path
    ckpt: Path | None = None
    minutes: float = 20.0
    iterations: int | None = None
    val: Path | None = None
    predict: bool = False
    seed: int = 0
    device: str = "auto"
    ignore: Path | str | None = None
    labelled: Sequence[Path] = ()
    to_label: int = 20
    stage2: bool = False
    answers: bool = True
