"""Models for other runtimes: an ONNX or OpenVINO file that takes an image and gives probabilities.

The graph has one size and one number of steps. The noise of the sampling steps is a constant in it, the one
that `predict` draws from the same seed, so that both give the same answer.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from iccld_cli.checkpoint import ModelHeader
from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.inference.runtimes import import_onnxruntime, import_openvino
from iccld_cli.models.segmenter import Segmenter, resize_logits

FORMATS = ("onnx", "openvino")
TOLERANCE = 2e-3
"""Largest difference between a probability of the exported model and of this one; another order of summation
explains some 1e-5, a wrong graph gives far more."""

INPUT, OUTPUT = "image", "probabilities"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: (width, height) that it takes.
        steps: Sampling steps inside.
        difference: Largest difference from this program's probabilities, on a random image.
        agreement: Share of pixels with the same class.
    """

    path: Path
    size: tuple[int, int]
    steps: int
    difference: float
    agreement: float


class ExportGraph(nn.Module):
    """`Segmenter.segment` for one size, with the noise as a constant."""

    def __init__(self, segmenter: Segmenter, size: tuple[int, int], steps: int, seed: int) -> None:
        """Draw the noise.

        Args:
            segmenter: The model, on the CPU.
            size: (width, height) of the image.
            steps: Sampling steps.
            seed: Noise seed.
        """
        super().__init__()
        self.segmenter, self.size = segmenter, (size[1], size[0])
        latents = [segmenter.encoder(view)[0] for view in segmenter.views(torch.zeros(1, 3, size[1], size[0]))]
        self.noise = nn.ParameterList(
            nn.Parameter(seeded_noise(tuple(latent.shape), seed), requires_grad=False) for latent in latents
        )
        self.updates = linear_updates(segmenter.scheduler, steps)

    def forward(self, image: Tensor) -> Tensor:
        """Image (1, 3, H, W), RGB in [0, 1] -> probabilities (1, K, H, W)."""
        model = self.segmenter
        latents, skips = [], []
        for view, noise in zip(model.views(image), self.noise, strict=True):
            z_0, skip, _ = model.encoder(view)
            z = noise if self.updates else z_0
            for t, of_clean, of_noisy in self.updates:
                assert model.denoiser is not None
                clean = model.denoiser(z, torch.full((1,), t, dtype=torch.int64), z_0)
                z = of_clean * clean + of_noisy * z
            latents.append(z)
            skips.append(skip)
        return resize_logits(model.decode_views(latents, skips), self.size).softmax(dim=1)


def linear_updates(scheduler: DDIMScheduler, steps: int) -> list[tuple[int, float, float]]:
    """A sampler's steps as numbers: z_next = a * clean + b * z_t, since DDIM without added noise is linear.

    They are asked of the scheduler itself, so there is no second formula that could differ from the first.

    Args:
        scheduler: From `build_scheduler`.
        steps: Sampling steps; 0 gives none.

    Returns:
        (t, a, b) of each step.
    """
    if not steps:
        return []
    scheduler.set_timesteps(steps)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    updates = []
    for t in scheduler.timesteps.tolist():
        a, b = (
            float(scheduler.step(clean, t, noisy, eta=0.0).prev_sample) for clean, noisy in ((one, zero), (zero, one))
        )
        updates.append((t, a, b))
    return updates


@torch.no_grad()
def export(
    segmenter: Segmenter,
    header: ModelHeader,
    path: Path,
    format: str,
    *,
    size: tuple[int, int],
    steps: int | None = None,
    seed: int = 0,
    opset: int = 18,
) -> Exported:
    """Write a model file for another runtime and check it against this one.

    Args:
        segmenter: The model, on the CPU.
        header: Its header; classes and origin are noted in the ONNX file.
        path: Where to: `.onnx`, or `.xml` for OpenVINO, whose weights go beside it as `.bin`.
        format: One of `FORMATS`.
        size: (width, height) of the images it will take.
        steps: Sampling steps; None for the model's default.
        seed: Seed of the noise.
        opset: ONNX operator set.

    Raises:
        IccldError: A library is missing, the model cannot do the steps, the graph cannot be translated, or the
            result differs from this program's; nothing is written then.
    """
    _require(format, path)
    steps = segmenter.default_steps if steps is None else steps
    if steps and segmenter.denoiser is None:
        raise IccldError(
            "this model has no denoising UNet: it is of stage 1, or was trained without one", "use --steps 0"
        )
    image = torch.rand(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(1))
    wanted = segmenter.segment(image, steps=steps, seed=seed).probabilities.numpy()
    graph = ExportGraph(segmenter, size, steps, seed).eval()
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        _write_onnx(graph, image, onnx_path, opset)
        _annotate(onnx_path, header, steps, seed)
        if format == "onnx":
            finished, run = [onnx_path], _onnx_runner(onnx_path)
        else:
            finished, run = _write_openvino(onnx_path)
        got = run(image.numpy())
        difference = float(np.abs(got - wanted).max()) if got.shape == wanted.shape else float("inf")
        if not difference <= TOLERANCE:  # also where it is not a number
            raise IccldError(
                f"the exported model differs from the original by up to {difference:.2g}, {path} was not written",
                "try another --opset or --format, and report it",
            )
        for file in reversed(finished):  # the file that a user names comes last, when its weights are there
            with atomic_path(path.with_suffix(file.suffix)) as temporary:
                shutil.copyfile(file, temporary)
    agreement = float((got.argmax(1) == wanted.argmax(1)).mean())
    return Exported(path, size, steps, difference, agreement)


def _require(format: str, path: Path) -> None:
    suffix = {"onnx": ".onnx", "openvino": ".xml"}[format]
    if path.suffix != suffix:
        raise IccldError(f"an {format} file must end in {suffix}, not {path.name!r}", f"use --out {path.stem}{suffix}")
    for name in ("onnx", "onnxscript", "onnxruntime" if format == "onnx" else "openvino"):
        try:
            import_openvino() if name == "openvino" else importlib.import_module(name)
        except ImportError:
            raise IccldError(
                f"export to {format} needs the package {name}", "install it with: pip install 'iccld[export]'"
            ) from None


def _write_onnx(graph: ExportGraph, image: Tensor, path: Path, opset: int) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about the exporter's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                graph,
                (image,),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise IccldError(
                f"the model cannot be written with ONNX opset {opset} ({reason[:200]})", "try another --opset"
            ) from error


def _annotate(path: Path, header: ModelHeader, steps: int, seed: int) -> None:
    """Note in the file what its channels mean and where it comes from."""
    import json

    import onnx

    model = onnx.load(path)
    notes = {
        "classes": json.dumps(header.label_space.names),
        "colors": json.dumps(header.label_space.colors),
        "stage": header.stage,
        "steps": str(steps),
        "seed": str(seed),
        "sha256": header.sha256,
        "input": "RGB in [0, 1], planar",
    }
    onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _onnx_runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run([OUTPUT], {INPUT: image})[0]


def _write_openvino(onnx_path: Path) -> tuple[list[Path], Callable[[np.ndarray], np.ndarray]]:
    openvino = import_openvino()
    core: Any = openvino.Core()
    xml = onnx_path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(onnx_path), xml, compress_to_fp16=False)
    # Plugins may choose bf16 on their own, which is the user's choice to make, not the parity check's.
    compiled = core.compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [xml, xml.with_suffix(".bin")], lambda image: compiled([image])[0]
