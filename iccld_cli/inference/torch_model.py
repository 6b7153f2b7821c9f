"""A model that torch runs: any encoder, any size, any number of steps, on any device."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.header import ModelHeader
from iccld_cli.inference.device import pick_device
from iccld_cli.inference.fullsize import Logits, largest
from iccld_cli.inference.model import (
    Sampling,
    Segmentation,
    Want,
    memory_explained,
    network_size,
    not_finite,
    settle_height,
)
from iccld_cli.models.folding import folded
from iccld_cli.models.segmenter import Segmenter, resize_logits

BATCH_PIXELS = 4_000_000
"""On a GPU, a batch of this many pixels keeps it busy and fits into 8 GB."""


class TorchModel:
    """A live network behind the door of `inference.model.Model`."""

    precision = "fp32"
    parallel = 1

    def __init__(self, segmenter: Segmenter, header: ModelHeader) -> None:
        """Take a network as it is, where it is; its mode is restored after each call.

        Args:
            segmenter: The network.
            header: What it is.
        """
        self.segmenter = segmenter
        self.header = header
        self.backend = "torch"

    @classmethod
    def open(cls, path: Path, device: str = "auto") -> TorchModel:
        """Load a `.safetensors` file.

        The weights are laid out channels-last, which takes a third off the time of MobileNetV2 on a CPU
        (`benchmarks/predict.py`); the numbers stay the same within rounding.

        Args:
            path: The file.
            device: See `load_model`.

        Raises:
            IccldError: The device is not there; the file is missing, damaged, or not a model of this program.
        """
        segmenter, header = load_segmenter(path, pick_device(device))
        segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(segmenter, header)

    def folded(self) -> TorchModel:
        """The same model in the form that answers fastest; on a CPU a fifth of the time less (`models.folding`)."""
        segmenter = folded(self.segmenter)
        segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TorchModel(segmenter, self.header)

    def compile(self) -> None:
        """Have torch compile the networks, each for every size it meets; the first frame of a size takes long.

        Where there is no compiler for it, the networks run as they are.
        """
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True
        for part in (self.segmenter.encoder, self.segmenter.decoder, self.segmenter.denoiser):
            if part is not None:
                part.compile()
        self.backend = "compiled"

    @property
    def device(self) -> str:
        """See `Model`."""
        return str(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.segmenter.parameters()).device

    @property
    def digest(self) -> str:
        """See `Model`."""
        return hashlib.sha256(json.dumps(self.header.to_json(), sort_keys=True).encode()).hexdigest()

    def settle(self, sampling: Sampling) -> Sampling:
        """See `Model`."""
        steps = self.segmenter.steps_of(sampling.steps)
        return replace(settle_height(sampling, self.header), steps=steps, seed=sampling.seed or 0)

    def batch_size(self, size: tuple[int, int], sampling: Sampling) -> int:
        """See `Model`: 1 on a CPU, by the number of pixels on a GPU."""
        rows, columns = network_size(size, self.settle(sampling).height)
        pixels = max(rows * columns, size[0] * size[1])  # what goes in, and what comes out
        return max(1, min(32, BATCH_PIXELS // pixels)) if self._device.type == "cuda" else 1

    @torch.inference_mode()
    def segment(
        self,
        frames: np.ndarray,
        want: Collection[Want] = (),
        size: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
    ) -> Segmentation:
        """See `Model`."""
        sampling = self.settle(sampling or Sampling())
        size = (frames.shape[1], frames.shape[2]) if size is None else size
        with memory_explained(frames), _evaluating(self.segmenter):
            images = to_tensor(frames, self._device)  # (B, 3, H, W)
            if not want and not sampling.average:
                # The largest logit has the largest probability.
                (logits,) = self._logits(images, sampling, sampling.views(want)[0][0], 1)
                if self._device.type == "cpu":
                    return Segmentation(np.stack([largest(one, size) for one in logits.numpy()]))
                return Segmentation(_bytes(resize_logits(logits, size).argmax(dim=1)))
            return _chosen(self._passes(images, size, sampling, want), sampling.average, want)

    @torch.inference_mode()
    def logits(
        self, frames: np.ndarray, want: Collection[Want] = (), sampling: Sampling | None = None
    ) -> list[list[Logits]]:
        """See `Model`."""
        sampling = self.settle(sampling or Sampling())
        found: list[list[Logits]] = [[] for _ in frames]
        draws = sampling.samples if sampling.steps and sampling.needs_all(want) else 1
        with memory_explained(frames), _evaluating(self.segmenter):
            images = to_tensor(frames, self._device)
            for scale, mirrored in sampling.views(want):
                for logits in self._logits(images.flip(-1) if mirrored else images, sampling, scale, draws):
                    for of_frame, values in zip(found, logits.cpu().numpy(), strict=True):
                        of_frame.append(Logits(values, mirrored))
        return found

    def _passes(
        self, images: Tensor, size: tuple[int, int], sampling: Sampling, want: Collection[Want]
    ) -> Iterator[Tensor]:
        """Probabilities (B, K, *size) of every pass that is needed, the plain one first."""
        draws = sampling.samples if sampling.steps and sampling.needs_all(want) else 1  # without noise all are the same
        for scale, mirrored in sampling.views(want):
            for logits in self._logits(images.flip(-1) if mirrored else images, sampling, scale, draws):
                probabilities = resize_logits(logits, size).softmax(dim=1)
                yield probabilities.flip(-1) if mirrored else probabilities

    def _logits(self, images: Tensor, sampling: Sampling, scale: float, draws: int) -> Iterator[Tensor]:
        assert sampling.steps is not None and sampling.seed is not None
        images = self._resized(images, sampling, scale)
        for logits in self.segmenter.logits(images, sampling.steps, sampling.seed, draws):
            if not torch.isfinite(logits).all():
                raise not_finite()
            yield logits

    def _resized(self, images: Tensor, sampling: Sampling, scale: float) -> Tensor:
        """Images at the size the network works at: height, scale and fit are one step of resampling."""
        size = images.shape[-2], images.shape[-1]
        wanted = network_size(size, sampling.height, scale)
        fitted = self.segmenter.fitting_size(*wanted)
        if fitted == size:
            return images
        # The last few pixels of the fit alone are not worth a filter.
        smaller = wanted[0] < size[0]
        return F.interpolate(images, fitted, mode="bilinear", align_corners=False, antialias=smaller)


def to_tensor(frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Frames for the network.

    Args:
        frames: uint8 (B, H, W, 3), RGB, in [0, 255].
        device: Where the tensor shall be.

    Returns:
        float32 (B, 3, H, W) in [0, 1].
    """
    pixels = torch.from_numpy(np.require(frames, requirements=["C", "W"]))  # torch warns of arrays it could not write
    return pixels.to(device).permute(0, 3, 1, 2).to(torch.float32).div_(255)  # bytes cross the bus, not floats


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """How undecided a prediction is.

    Args:
        probabilities: Float (..., K, H, W), summing to 1 over K.

    Returns:
        (..., H, W) in [0, 1]: entropy / log K; 0 = certain, 1 = all classes equally likely.
    """
    classes = probabilities.shape[-3]
    return torch.special.entr(probabilities).sum(dim=-3).div_(math.log(max(classes, 2))).clamp_(0, 1)


def _chosen(passes: Iterator[Tensor], average: bool, want: Collection[Want]) -> Segmentation:
    """Results of passes (B, K, H, W), of which two are held at a time."""
    shown, total, count = next(passes), None, 0
    for found in passes:
        total, count = found if total is None else total + found, count + 1
    if total is not None and (average or count == 1):
        total, count = total + shown, count + 1
    if average and total is not None:
        shown = total / count
    confidence, labels = shown.max(dim=1)  # (B, H, W) each
    uncertainty = None
    if "uncertainty" in want and total is None:
        uncertainty = normalised_entropy(shown)
    elif "uncertainty" in want and total is not None:
        uncertainty = (1 - total.gather(1, labels[:, None])[:, 0] / count).clamp_(0, 1)
    return Segmentation(
        labels=_bytes(labels),
        confidence=confidence.cpu().numpy() if "confidence" in want else None,
        uncertainty=None if uncertainty is None else uncertainty.cpu().numpy(),
        probabilities=shown.cpu().numpy() if "probabilities" in want else None,
    )


def _bytes(labels: Tensor) -> np.ndarray:
    # uint8 before the copy: ids fit, and a GPU's result crosses the bus eight times faster.
    return labels.to(torch.uint8).cpu().numpy()


@contextlib.contextmanager
def _evaluating(segmenter: Segmenter) -> Iterator[None]:
    """A network in evaluation mode; one that trains goes on training afterwards."""
    training = segmenter.training
    if not training:
        yield
        return
    segmenter.eval()
    try:
        yield
    finally:
        segmenter.train()
