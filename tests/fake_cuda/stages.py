"""Stages on the fake device. All that these tests know of the inside of a stage stands here."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from devices import CUDA
from torch import Tensor, nn

from iccld_cli.adapt.baselines import stage2_class
from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.config import Config
from iccld_cli.labels import CITYSCAPES
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.segmenter import Segmenter


class ForwardOnly:
    """An accelerator without backward passes, on the fake device."""

    device = CUDA
    mixed_precision = "no"
    num_processes, process_index, is_main_process = 1, 0, True
    scaler = None

    def autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        assert loss.device == CUDA and loss.ndim == 0

    def clip_grad_norm_(self, parameters: list[Tensor], limit: float) -> Tensor:
        return torch.zeros((), device=CUDA)

    def prepare(self, *parts: Any) -> Any:
        return parts if len(parts) > 1 else parts[0]


def build_student(config: Config, stage: str) -> Segmenter:
    """The network of a stage on the CPU; to be called outside of the fake device."""
    return build_segmenter(config, len(CITYSCAPES), denoiser=stage == "stage2" and config.adv.generate, seed=0)


def build_stage(config: Config, stage: str, student: Segmenter) -> Any:
    """A stage on the fake device."""
    accelerator: Any = ForwardOnly()
    if stage == "stage2":
        # diffusers copies its table to the device the first time, and waits for it.
        student.scheduler.add_noise(*(torch.zeros(1, 1).to(CUDA) for _ in range(2)), torch.zeros(1).long().to(CUDA))
        return stage2_class(config)(config, CITYSCAPES, student, accelerator)
    reference = None
    if config.seg.feature_distance_weight > 0 and config.model.encoder != "tiny":
        reference = copy.deepcopy(student.encoder.backbone)
    return Stage1(config, CITYSCAPES, student, accelerator, stage == "source_only", reference)


def batch_on_device(config: Config, raw: dict[str, Any]) -> Any:
    """A loaded batch, moved as the training loop moves it."""
    return to_device(raw, config, 0, CUDA)


def tensors_of(stage: Any) -> dict[str, Tensor]:
    """Everything with numbers that a stage keeps, by name."""
    found = {}
    for name, module in vars(stage).items():
        if isinstance(module, nn.Module):
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        elif isinstance(module, Tensor):
            found[name] = module
    return found | {f"teacher.{key}": value for key, value in stage.teacher.model.state_dict().items()}
