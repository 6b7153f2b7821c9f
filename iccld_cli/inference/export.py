"""Models for other runtimes: an ONNX or OpenVINO file that takes an image and gives probabilities.

The graph has one size and one number of steps. The noise of the sampling steps is a constant in it, the one
that `predict` draws from the same seed, so that both give the same labels. The file carries the model's whole header,
so that `predict` and `evaluate` take it like any other (`inference.exported`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.header import HEADER_KEY, ExportFacts, ModelHeader, without_paths
from iccld_cli.inference.exported import INPUT, OUTPUT, RT_INFO, ExportedModel
from iccld_cli.inference.graph import LogitsGraph
from iccld_cli.inference.model import Sampling
from iccld_cli.inference.runtimes import import_openvino
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.models.segmenter import Segmenter, resize_logits

FORMATS = ("onnx", "openvino")
TOLERANCE = 2e-3
"""Largest difference between a probability of the exported model and of this one; another order of summation
explains some 1e-5, a wrong graph gives far more."""

USUAL_SIZE = (1024, 512)
"""(width, height) where the model does not say at which height it works."""


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
    """`Segmenter.logits` and the softmax for one size, with the noise as a constant."""

    def __init__(self, segmenter: Segmenter, size: tuple[int, int], steps: int, seed: int) -> None:
        """Draw the noise.

        Args:
            segmenter: The model, on the CPU.
            size: (width, height) of the image.
            steps: Sampling steps.
            seed: Noise seed.
        """
        super().__init__()
        self.size = (size[1], size[0])
        self.logits = LogitsGraph(segmenter, steps)
        shapes = self.logits.noise_shapes(segmenter.fitting_size(*self.size))
        self.noise = nn.ParameterList(nn.Parameter(seeded_noise(shape, seed), requires_grad=False) for shape in shapes)

    def forward(self, image: Tensor) -> Tensor:
        """Image (1, 3, H, W), RGB in [0, 1] -> probabilities (1, K, H, W)."""
        logits = self.logits(self.logits.segmenter.fit(image), *self.noise)
        return resize_logits(logits, self.size).softmax(dim=1)


@torch.no_grad()
def export(
    segmenter: Segmenter,
    header: ModelHeader,
    path: Path,
    kind: str,
    *,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    seed: int = 0,
    opset: int = 18,
) -> Exported:
    """Write a model file for another runtime and check it against this one.

    Args:
        segmenter: The model, on the CPU.
        header: Its header; it goes into the file without the paths of this machine.
        path: Where to: `.onnx`, or `.xml` for OpenVINO, whose weights go beside it as `.bin`.
        kind: One of `FORMATS`.
        size: (width, height) of the images it will take; None for `usual_size`.
        steps: Sampling steps; None for the model's default.
        seed: Seed of the noise.
        opset: ONNX operator set.

    Raises:
        IccldError: A library is missing, the model cannot do the steps, the graph cannot be translated, or the
            result differs from this program's; nothing is written then.
    """
    _require(kind, path)
    facts = ExportFacts(size or usual_size(header), segmenter.steps_of(steps), seed)
    graph = ExportGraph(segmenter, facts.size, facts.steps, facts.seed).eval()
    header = replace(without_paths(header), export=facts)
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        _write_onnx(graph, onnx_path, opset)
        text = json.dumps(header.to_json())
        finished = _annotate(onnx_path, text) if kind == "onnx" else _to_openvino(onnx_path, text)
        difference, agreement = _compare(segmenter, finished[0], header)
        if not difference <= TOLERANCE:  # also where it is not a number
            raise IccldError(
                f"the exported model differs from the original by up to {difference:.2g}, {path} was not written",
                "the sampler is not the cause, so try another --opset or --format, and report it",
            )
        for file in reversed(finished):  # the file that a user names comes last, when its weights are there
            with atomic_path(path.with_suffix(file.suffix)) as temporary:
                shutil.copyfile(file, temporary)
    return Exported(path, facts.size, facts.steps, difference, agreement)


def usual_size(header: ModelHeader) -> tuple[int, int]:
    """(width, height) of a graph where nobody says: 16:9 at the height that the model works at."""
    height = header.working_height
    return USUAL_SIZE if height is None else (round(height * 16 / 9), height)


def _compare(segmenter: Segmenter, path: Path, header: ModelHeader) -> tuple[float, float]:
    """Largest difference of a probability, and share of pixels of the same class, on a frame of noise."""
    facts = header.export
    assert facts is not None
    shape = (1, facts.size[1], facts.size[0], 3)
    frame = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    how = Sampling(steps=facts.steps, seed=facts.seed, height=0)
    wanted = TorchModel(segmenter, header).segment(frame, ["probabilities"], sampling=how)
    got = ExportedModel.open(path).segment(frame, ["probabilities"])
    assert wanted.probabilities is not None and got.probabilities is not None
    difference = float(np.abs(got.probabilities - wanted.probabilities).max())
    return difference, float((got.labels == wanted.labels).mean())


def _require(kind: str, path: Path) -> None:
    suffix = {"onnx": ".onnx", "openvino": ".xml"}[kind]
    if path.suffix != suffix:
        raise IccldError(f"an {kind} file must end in {suffix}, not {path.name!r}", f"use --out {path.stem}{suffix}")
    for name in ("onnx", "onnxscript", "onnxruntime" if kind == "onnx" else "openvino"):
        try:
            import_openvino() if name == "openvino" else importlib.import_module(name)
        except ImportError:
            raise IccldError(
                f"export to {kind} needs the package {name}", "install it with: pip install 'iccld[export]'"
            ) from None


def _write_onnx(graph: ExportGraph, path: Path, opset: int) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about the exporter's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                graph,
                (torch.zeros(1, 3, *graph.size),),
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


def _annotate(path: Path, header: str) -> list[Path]:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {HEADER_KEY: header})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return [path]


def _to_openvino(onnx_path: Path, header: str) -> list[Path]:
    openvino = import_openvino()
    xml = onnx_path.with_suffix(".xml")
    model = openvino.convert_model(onnx_path)
    model.set_rt_info(header, RT_INFO)
    openvino.save_model(model, xml, compress_to_fp16=False)
    return [xml, xml.with_suffix(".bin")]
