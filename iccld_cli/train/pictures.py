"""Overlays of the same few target frames, to compare the steps of a run by eye."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from iccld_cli.files import atomic_path
from iccld_cli.imagefiles import PREVIEW_QUALITY
from iccld_cli.inference.model import Model
from iccld_cli.report.overlay import draw_overlay
from iccld_cli.train.data import TrainingData

_FRAMES = 4


def draw_overlays(data: TrainingData, run: Path, stage: str, model: Model, step: int) -> None:
    """Write `RUN/overlays/<stage>-<step>.jpg`: frames on the left, the teacher's labels of them on the right.

    Args:
        data: The frames are evenly spread over the first target's held-back split, where it has one.
        run: The run folder.
        stage: Name of the stage.
        model: The teacher.
        step: Steps done.
    """
    dataset = (data.targets or data.sources)[0]
    frames = dataset.frames("val" if dataset.info.splits.get("val") else "train")
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).astype(int)]
    rows: list[np.ndarray] = []
    for frame in chosen:
        image = dataset.read_image(frame)
        labels = model.segment(image[None]).labels[0]
        row = np.hstack([image, draw_overlay(image, labels, data.space)])
        rows.append(row if not rows else cv2.resize(row, rows[0].shape[1::-1]))
    with atomic_path(run / "overlays" / f"{stage}-{step:07d}.jpg") as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])
