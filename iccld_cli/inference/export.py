"""Models for other runtimes: an ONNX or OpenVINO file that takes an image and gives probabilities.

The graph has one size and one number of steps. The noise of the sampling steps is a constant in it, the one
that `predict` draws from the same seed, so that both give the same labels. The file carries the model's whole header,
so that `predict` and `evaluate` take it like any other (`inference.exported`).

fp16 means weights stored in fp16, which are widened when the file is loaded: half the size, the same speed on a CPU.
int8 means weights and activations quantised by NNCF (post-training, per channel, symmetric for weights), with ranges
taken from frames of the user: smaller, and faster where the processor has instructions for it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.header import HEADER_KEY, ExportFacts, ModelHeader, without_paths
from iccld_cli.inference.exported import INPUT, OUTPUT, RT_INFO, ExportedModel, to_input
from iccld_cli.inference.graph import LogitsGraph
from iccld_cli.inference.images import read_image
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.model import Sampling
from iccld_cli.inference.runtimes import import_openvino
from iccld_cli.inference.torch_model import TorchModel
from iccld_cli.inference.video import VideoReader
from iccld_cli.models.segmenter import Segmenter, resize_logits

FORMATS = ("onnx", "openvino")
TOLERANCE = 2e-3
"""Largest difference between a probability of the exported model and of this one; another order of summation
explains some 1e-5, a wrong graph gives far more."""

REFUSED_BELOW = {"fp32": 0.0, "fp16": 0.98, "int8": 0.8}
"""Share of pixels with the original's class below which a file is not written; in fp32 the probabilities decide."""

DOUBTFUL_BELOW = {"fp32": 0.0, "fp16": 0.995, "int8": 0.97}
"""The same, below which a warning is due."""

CHECKED = 8
"""Frames of the user that an exported file is compared on."""

CALIBRATION_FRAMES = 128
"""Frames that int8 takes its ranges from, at most."""

_WORTH_HALVING = 64
"""Values that a tensor has at least to be stored in fp16."""

USUAL_SIZE = (1024, 512)
"""(width, height) where the model does not say at which height it works."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: (width, height) that it takes.
        steps: Sampling steps inside.
        difference: Largest difference from this program's probabilities, on the frames compared.
        agreement: Share of pixels with the same class.
        precision: One of `PRECISIONS`.
        frames: Number of the user's frames that were compared; 0 for one of noise.
    """

    path: Path
    size: tuple[int, int]
    steps: int
    difference: float
    agreement: float
    precision: str = "fp32"
    frames: int = 0

    @property
    def doubtful(self) -> bool:
        """Whether more pixels get another class than rounding explains."""
        return self.agreement < DOUBTFUL_BELOW[self.precision]


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
    precision: str = "fp32",
    frames: Sequence[np.ndarray] = (),
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
        precision: One of `PRECISIONS`; int8 for OpenVINO alone.
        frames: The user's, uint8 (H, W, 3) each: int8 takes its ranges from them, and the result is compared on some.

    Raises:
        IccldError: A library is missing, the model cannot do the steps, the graph cannot be translated, int8 has no
            frames, or the result differs from this program's; nothing is written then.
    """
    _require(kind, path, precision, frames)
    facts = ExportFacts(size or usual_size(header), segmenter.steps_of(steps), seed, precision)
    graph = ExportGraph(segmenter, facts.size, facts.steps, facts.seed).eval()
    header = replace(without_paths(header), export=facts)
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        _write_onnx(graph, onnx_path, opset)
        text = json.dumps(header.to_json())
        if kind == "onnx":
            finished = _annotate(onnx_path, text, half=precision == "fp16")
        else:
            finished = _to_openvino(onnx_path, text, facts, frames)
        shown = [frames[i] for i in np.linspace(0, len(frames) - 1, min(len(frames), CHECKED)).round().astype(int)]
        difference, agreement = _compare(segmenter, finished[0], header, shown or [_noise(facts.size)])
        if not agreement >= REFUSED_BELOW[precision]:
            raise IccldError(
                f"in {precision} {100 * (1 - agreement):.1f} % of the pixels get another class, {path} was not written",
                "use --precision fp16 or fp32" if precision == "int8" else "use --precision fp32",
            )
        if precision == "fp32" and not difference <= TOLERANCE:  # also where it is not a number
            raise IccldError(
                f"the exported model differs from the original by up to {difference:.2g}, {path} was not written",
                "the sampler is not the cause, so try another --opset or --format, and report it",
            )
        for file in reversed(finished):  # the file that a user names comes last, when its weights are there
            with atomic_path(path.with_suffix(file.suffix)) as temporary:
                shutil.copyfile(file, temporary)
    return Exported(path, facts.size, facts.steps, difference, agreement, precision, len(shown))


def sample_frames(items: Sequence[Input], count: int) -> list[np.ndarray]:
    """Frames spread evenly over images and videos.

    Args:
        items: From `inference.inputs.collect`.
        count: At most this many.

    Returns:
        uint8 (H, W, 3) each.

    Raises:
        IccldError: One cannot be read.
    """
    lengths = [_frames_of(item) for item in items]
    wanted = set(np.linspace(0, max(sum(lengths) - 1, 0), min(count, sum(lengths))).round().astype(int).tolist())
    found: list[np.ndarray] = []
    first = 0
    for item, length in zip(items, lengths, strict=True):
        own = {number - first for number in wanted if first <= number < first + length}
        first += length
        if own and not item.is_video:
            found.append(read_image(item.path))
        elif own:
            with VideoReader(item.path) as reader:
                for number, frame in enumerate(reader.frames()):
                    if number in own:
                        found.append(frame.image)
                    if number >= max(own):
                        break
    return found


def _frames_of(item: Input) -> int:
    if not item.is_video:
        return 1
    with VideoReader(item.path) as reader:
        return reader.announced


def usual_size(header: ModelHeader) -> tuple[int, int]:
    """(width, height) of a graph by default: 16:9 at the height that the model works at."""
    height = header.working_height
    return USUAL_SIZE if height is None else (round(height * 16 / 9), height)


def _noise(size: tuple[int, int]) -> np.ndarray:
    """A frame of noise, uint8 (H, W, 3)."""
    return np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)


def _compare(
    segmenter: Segmenter, path: Path, header: ModelHeader, frames: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Largest difference of a probability, and share of pixels of the same class.

    Both networks see the frames at the graph's size, so that nothing but the graph is compared.
    """
    facts = header.export
    assert facts is not None
    how = Sampling(steps=facts.steps, seed=facts.seed, height=0)
    original, exported = TorchModel(segmenter, header), ExportedModel.open(path)
    worst, same = 0.0, 0.0
    for frame in frames:
        if frame.shape[1::-1] != facts.size:
            frame = cv2.resize(frame, facts.size, interpolation=cv2.INTER_AREA)
        wanted = original.segment(frame[None], ["probabilities"], sampling=how)
        got = exported.segment(frame[None], ["probabilities"])
        assert wanted.probabilities is not None and got.probabilities is not None
        worst = float(np.fmax(worst, np.abs(got.probabilities - wanted.probabilities).max()))
        same += float((got.labels == wanted.labels).mean())
    return worst, same / len(frames)


def _require(kind: str, path: Path, precision: str, frames: Sequence[np.ndarray]) -> None:
    if precision == "int8" and kind != "openvino":
        raise IccldError("int8 is for OpenVINO", "use --format openvino, or --precision fp16")
    if precision == "int8" and not frames:
        raise IccldError("int8 takes its ranges from frames of yours", "name some with --calibrate")
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        raise IccldError("int8 needs the package nncf", "install it with: pip install 'iccld[int8]'")
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


def _annotate(path: Path, header: str, half: bool) -> list[Path]:
    import onnx

    model = onnx.load(path)
    if half:
        _halve(model.graph)
    onnx.helper.set_model_props(model, {HEADER_KEY: header})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return [path]


def _halve(graph: Any) -> None:
    """Store the weights of an ONNX graph in fp16, each widened by a node of its own before it is used."""
    import onnx

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _WORTH_HALVING:
            continue
        name = tensor.name
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}/fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}/fp16"], [name], f"{name}/widen", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _to_openvino(onnx_path: Path, header: str, facts: ExportFacts, frames: Sequence[np.ndarray]) -> list[Path]:
    openvino = import_openvino()
    xml = onnx_path.with_suffix(".xml")
    model = openvino.convert_model(onnx_path)
    if facts.precision == "int8":
        model = _quantised(model, facts, frames)
    model.set_rt_info(header, RT_INFO)
    openvino.save_model(model, xml, compress_to_fp16=facts.precision != "fp32")
    return [xml, xml.with_suffix(".bin")]


def _quantised(model: Any, facts: ExportFacts, frames: Sequence[np.ndarray]) -> Any:
    """The model with weights and activations in int8, where the runtime gains by it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(list(frames), lambda frame: to_input(frame, facts.size)),
                preset=nncf.QuantizationPreset.MIXED,  # activations of SiLU and the like are not symmetric
                subset_size=len(frames),
            )
        except Exception as error:  # the library's own kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IccldError(f"the model cannot be quantised ({reason[:200]})", "use --precision fp16") from error
