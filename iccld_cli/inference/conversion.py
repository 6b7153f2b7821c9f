"""A `.safetensors` model as an OpenVINO graph that takes frames as bytes and gives logits, of any size.

The torch module is traced, so that sizes stay open. What comes out is compared with torch at two sizes, neither of
which is the one that was traced, before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.errors import IccldError
from iccld_cli.inference.graph import LogitsGraph
from iccld_cli.inference.noise import seeded_noise
from iccld_cli.inference.runtimes import import_openvino
from iccld_cli.models.denoiser import CellNorm
from iccld_cli.models.segmenter import Segmenter

TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit. Another order of summation gives some 1e-6."""


class ConversionError(Exception):
    """The model cannot be converted; the message says why."""


class _FrameGraph(nn.Module):
    """`LogitsGraph` for frames as bytes."""

    def __init__(self, segmenter: Segmenter, steps: int) -> None:
        super().__init__()
        self.logits = LogitsGraph(segmenter, steps)

    def forward(self, frames: Tensor, *noises: Tensor) -> Tensor:
        """uint8 (1, H, W, 3) -> float32 logits (1, K, H/4, W/4)."""
        return self.logits(frames.permute(0, 3, 1, 2).to(torch.float32) / 255, *noises)


def convert(path: Path, steps: int | None, out: Path) -> dict[str, Any]:
    """Write a model's graph.

    Args:
        path: A `.safetensors` file.
        steps: Denoising steps; None for the model's default.
        out: Folder; it gets `graph.xml` and `graph.bin`.

    Returns:
        What a backend needs to know to use the graph: `steps`, `multiple` that sides must be of, `latent` channels,
        `strides` of the noises on the network's size.

    Raises:
        IccldError: The file is no model, or has no such number of steps.
        ConversionError: The graph cannot be made or is wrong.
        OSError: The folder does not take it.
    """
    segmenter, _ = load_segmenter(path)
    steps = segmenter.steps_of(steps)
    try:
        graph = _FrameGraph(segmenter, steps).eval()
        samples = [_sample(graph, factors) for factors in ((2, 4), (5, 3))]
        for module in segmenter.modules():
            if isinstance(module, CellNorm):
                module.fused = False
        _write(graph, out / "graph.xml")
        worst = max(_difference(out / "graph.xml", *sample) for sample in samples)
    except OSError:
        raise
    except IccldError as error:
        raise ConversionError(error.message) from error
    except Exception as error:  # of the tracer, of the converter or of the runtime: their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ConversionError(f"{type(error).__name__}: {reason[:200]}") from error
    if not worst <= TOLERANCE:  # also where it is not a number
        raise ConversionError(f"its logits differ by {worst:.2g} of the largest")
    side = segmenter.multiple
    return {
        "steps": steps,
        "multiple": side,
        "latent": segmenter.config.model.latent_channels,
        "strides": [side // shape[-1] for shape in graph.logits.noise_shapes((side, side))],
    }


def _inputs(graph: _FrameGraph, factors: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
    """A frame of noise of a size, in multiples of the smallest, and the noises for it."""
    side = graph.logits.segmenter.multiple
    size = (factors[0] * side, factors[1] * side)
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    return torch.from_numpy(frame), [
        torch.from_numpy(seeded_noise(shape, 0)) for shape in graph.logits.noise_shapes(size)
    ]


@torch.no_grad()
def _write(graph: _FrameGraph, path: Path) -> None:
    openvino = import_openvino()
    frame, noises = _inputs(graph, (3, 5))
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # about sizes that become constants, which the comparison is for
        with _quiet("torch", "transformers"):
            traced = torch.jit.trace(graph, (frame, *noises), check_trace=False)
            model = openvino.convert_model(traced)
    if len(model.inputs) != 1 + len(noises):
        raise ConversionError("an input of the graph was lost")
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError(errno.EIO, "the disk is full, or refuses to be written to", str(path)) from None


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without warnings of these libraries."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def _sample(graph: _FrameGraph, factors: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of a size, in multiples of the smallest, and torch's logits (1, K, H/4, W/4)."""
    frame, noises = _inputs(graph, factors)
    return [frame.numpy(), *(noise.numpy() for noise in noises)], graph(frame, *noises).numpy()


def _difference(path: Path, inputs: list[np.ndarray], wanted: np.ndarray) -> float:
    """Largest difference of a logit from torch's, as a share of the largest."""
    core = import_openvino().Core()
    model = core.read_model(path)
    model.reshape({index: list(array.shape) for index, array in enumerate(inputs)})
    got = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]
    return float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-6))
