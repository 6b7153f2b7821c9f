"""Overlays of the same few target frames, so that a run's progress can be leafed through."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from iccld_cli.files import atomic_path
from iccld_cli.models.segmenter import Segmenter
from iccld_cli.report.overlay import draw_overlay
from iccld_cli.train.data import TrainingData

_FRAMES = 4


@torch.inference_mode()
def draw_overlays(data: TrainingData, run: Path, stage: str, device: torch.device, model: Segmenter, step: int) -> None:
    """Write `RUN/overlays/<stage>-<step>.jpg`: frames on the left, what the teacher says of them on the right.

    Args:
        data: The frames are evenly spread over the first target's held-back split, where it has one.
        run: The run folder.
        stage: Name of the stage.
        device: Where the teacher is.
        model: The teacher.
        step: Steps done.
    """
    dataset = (data.targets or data.sources)[0]
    frames = dataset.frames("val" if dataset.info.splits.get("val") else "train")
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).astype(int)]
    rows: list[np.ndarray] = []
    for frame in chosen:
        image = dataset.read_image(frame)
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float().div(255).unsqueeze(0)
        labels = model.segment(pixels).probabilities[0].argmax(0).to(torch.uint8).cpu().numpy()
        row = np.hstack([image, draw_overlay(image, labels, data.space)])
        rows.append(row if not rows else cv2.resize(row, rows[0].shape[1::-1]))
    with atomic_path(run / "overlays" / f"{stage}-{step:07d}.jpg") as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])
