"""Models for other runtimes: an ONNX or OpenVINO file that takes an image and gives probabilities.

A graph has one number of steps, and one size or any. The noise of the sampling steps is a constant in a graph of one
size, the one that `predict` draws from the same seed, so that both give the same labels; a graph for any size takes its
noise as further inputs. The file carries the model's whole header, so that `predict` and `evaluate` take it like any
other (`inference.exported`).

fp16 means weights stored in fp16, which are widened when the file is loaded: half the size, the same speed on a CPU.
int8 means weights and activations quantised by NNCF (post-training, per channel, symmetric for weights), with ranges
taken from frames of the user: smaller, and faster where the processor has instructions for it. What `sensitive_to_int8`
names stays in float.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path
from iccld_cli.header import DYNAMIC, HEADER_KEY, ExportFacts, ModelHeader, without_paths
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.inference.exported import (
    INPUT,
    NOISES,
    OUTPUT,
    RT_INFO,
    ExportedModel,
    noises,
    resized_frame,
    to_input,
)
from iccld_cli.inference.graph import LogitsGraph
from iccld_cli.inference.images import read_image
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.model import not_finite
from iccld_cli.inference.remote import fetch
from iccld_cli.inference.runtimes import import_openvino
from iccld_cli.inference.video import VIDEO_SUFFIXES, VideoReader
from iccld_cli.models.segmenter import Segmenter, resize_logits
from iccld_cli.reading import MAX_FILE

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
"""Frames that int8 takes its ranges from, at most; those that it is compared on are others."""

_CONVOLUTIONS = ("Convolution", "GroupConvolution")

_MOST = 16384
"""Pixels of a side, at most."""

_WORTH_HALVING = 64
"""Values that a tensor has at least to be stored in fp16."""

USUAL_SIZE = (1024, 512)
"""(width, height) where the model does not say at which height it works."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: (width, height) that it takes; None where it takes any.
        steps: Sampling steps inside.
        difference: Largest difference from this program's probabilities, on the frames compared.
        agreement: Share of pixels with the same class.
        precision: One of `PRECISIONS`.
        frames: Number of the user's frames that were compared; 0 for one of noise.
    """

    path: Path
    size: tuple[int, int] | None
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
        self.example = (torch.zeros(1, 3, *self.size),)

    def forward(self, image: Tensor) -> Tensor:
        """Image (1, 3, H, W), RGB in [0, 1] -> probabilities (1, K, H, W)."""
        logits = self.logits(self.logits.segmenter.fit(image), *self.noise)
        return resize_logits(logits, self.size).softmax(dim=1)


class AnySizeGraph(nn.Module):
    """`Segmenter.logits` for images whose sides fit, which is given the noise; `_fit_any_size` takes it from there."""

    def __init__(self, segmenter: Segmenter, steps: int) -> None:
        """Take a model.

        Args:
            segmenter: The model, on the CPU.
            steps: Sampling steps.
        """
        super().__init__()
        self.logits = LogitsGraph(segmenter, steps)
        self.multiple = segmenter.multiple
        rows, columns = 3 * self.multiple, 5 * self.multiple
        shapes = self.logits.noise_shapes((rows, columns)) if steps else []
        self.strides = tuple(rows // shape[-2] for shape in shapes)
        self.example = (torch.zeros(1, 3, rows, columns), *(torch.zeros(shape) for shape in shapes))

    def forward(self, image: Tensor, *noise: Tensor) -> Tensor:
        """Image (1, 3, H, W), RGB in [0, 1], and noises (1, C_z, h, w) -> logits (1, K, H/4, W/4)."""
        return self.logits(image, *(noise or [image] * self.logits.segmenter.resolutions))

    def free_sizes(self) -> tuple[Any, ...]:
        """`dynamic_shapes` for the exporter: sides in multiples of what fits."""
        sides = [torch.export.Dim(name, min=1, max=_MOST // self.multiple) for name in ("rows", "columns")]
        image, *noise = (
            {axis: self.multiple // stride * side for axis, side in zip((2, 3), sides, strict=True)}
            for stride in (1, *self.strides)
        )
        return (image, tuple(noise)) if noise else (image,)


@torch.no_grad()
def export(
    segmenter: Segmenter,
    header: ModelHeader,
    path: Path,
    kind: str,
    *,
    size: tuple[int, int] | Literal["dynamic"] | None = None,
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
        size: (width, height) of the images it will take; `DYNAMIC` for any, None for `usual_size`.
        steps: Sampling steps; None for the model's default.
        seed: Seed of the noise.
        opset: ONNX operator set.
        precision: One of `PRECISIONS`; int8 for OpenVINO alone.
        frames: The user's, uint8 (H, W, 3) each: the result is compared on some, and int8 takes its ranges from the
            others.

    Raises:
        IccldError: A library is missing, the model cannot do the steps, the graph cannot be translated, int8 has no
            frames, or the result differs from this program's; nothing is written then.
    """
    check_kind(kind, path, precision, len(frames))
    steps = segmenter.steps_of(steps)
    one = graph_size(header, size)
    graph: ExportGraph | AnySizeGraph
    if size == DYNAMIC:
        graph = AnySizeGraph(segmenter, steps)
        facts = ExportFacts(None, steps, seed, precision, segmenter.multiple, graph.strides)
    else:
        graph = ExportGraph(segmenter, one, steps, seed)
        facts = ExportFacts(one, steps, seed, precision)
    header = replace(without_paths(header), export=facts)
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        _write_onnx(graph.eval(), onnx_path, opset)
        if isinstance(graph, AnySizeGraph):
            _fit_any_size(onnx_path, graph.multiple)
        ranges, shown = held_out(frames) if precision == "int8" else ([], _evenly(frames, CHECKED))
        if kind == "onnx":
            finished = _annotate(onnx_path, json.dumps(header.to_json()), half=precision == "fp16")
        else:
            finished = _to_openvino(onnx_path, header, one, ranges)
        difference, agreement = _compare(segmenter, finished[0], header, shown or [_noise(one)], one)
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


def check_inputs(items: Sequence[Input]) -> None:
    """Refuse footage that has no end.

    Raises:
        IccldError: One is a stream or a camera.
    """
    for item in items:
        if item.live:
            raise IccldError(f"{item.where} has no end to take frames from", "record it with `iccld predict` first")


def sample_frames(items: Sequence[Input], count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Frames spread evenly over images and videos; what lies behind an address is fetched and deleted again.

    Args:
        items: From `inference.inputs.collect`, none of them live.
        count: At most this many.
        size: (width, height) that they are brought to, so that none is kept at its own.

    Returns:
        uint8 (height, width, 3) each.

    Raises:
        IccldError: One cannot be read or fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [_local(item, Path(folder) / str(number)) for number, item in enumerate(items)]
        lengths = [_frames_of(item, path) for item, path in zip(items, paths, strict=True)]
        whole = sum(lengths)
        wanted = np.linspace(0, max(whole - 1, 0), min(count, whole)).round().astype(int).tolist()
        found: list[np.ndarray] = []
        first = 0
        for item, path, length in zip(items, paths, lengths, strict=True):
            own = {number - first for number in wanted if first <= number < first + length}
            first += length
            if own and not item.is_video:
                found.append(resized_frame(read_image(path), size))
            elif own:
                with VideoReader(path) as reader:
                    for number, frame in enumerate(reader.frames()):
                        if number in own:
                            found.append(resized_frame(frame.image, size))
                        if number >= max(own):
                            break
        return found


def _local(item: Input, path: Path) -> Path:
    """The file of an input; one behind an address is fetched to a path."""
    if item.source is None:
        return item.path
    suffix = item.path.suffix.lower()  # FFmpeg looks at it
    path = path.with_suffix(suffix if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES else "")
    fetch(str(item.source), path, None if item.is_video else MAX_FILE)
    return path


def _frames_of(item: Input, path: Path) -> int:
    if not item.is_video:
        return 1
    with VideoReader(path) as reader:
        return reader.announced


def held_out(frames: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(frames to take ranges from, frames to compare on): at most half of them, spread evenly, are compared on."""
    number = min(CHECKED, len(frames) // 2)
    chosen = set(np.linspace(0, len(frames) - 1, 2 * number + 1)[1::2].round().astype(int).tolist())
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index, frame in enumerate(frames):
        parts[index in chosen].append(frame)
    return parts


def usual_size(header: ModelHeader) -> tuple[int, int]:
    """(width, height) of a graph by default: 16:9 at the height that the model works at."""
    height = header.working_height
    return USUAL_SIZE if height is None else (round(height * 16 / 9), height)


def graph_size(header: ModelHeader, size: tuple[int, int] | Literal["dynamic"] | None) -> tuple[int, int]:
    """(width, height) that a graph is compared at: its own, or the usual one."""
    return usual_size(header) if size is None or isinstance(size, str) else size


def _evenly(frames: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    return [frames[i] for i in np.linspace(0, len(frames) - 1, min(len(frames), count)).round().astype(int)]


def _noise(size: tuple[int, int]) -> np.ndarray:
    """A frame of noise, uint8 (H, W, 3)."""
    return np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)


def _compare(
    segmenter: Segmenter, path: Path, header: ModelHeader, frames: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[float, float]:
    """Largest difference of a probability, and share of pixels of the same class.

    Both networks see the frames at the graph's size, so that nothing but the graph is compared. One for any size is
    compared at `size` and at a smaller one of odd sides, neither of which it was made with.
    """
    facts = header.export
    assert facts is not None
    exported = ExportedModel.open(path)
    sizes = [size] if facts.size is not None else [size, (size[0] * 3 // 4 | 1, size[1] * 5 // 8 | 1)]
    worst, same = 0.0, []
    for frame, (width, height) in itertools.product(frames, sizes):
        image = to_input(frame, (width, height))
        wanted = segmenter.probabilities(torch.from_numpy(image), facts.steps, facts.seed).numpy()
        its_noises = noises((height, width), facts.seed, header) if facts.size is None else []
        got = exported.run(image, *its_noises)
        if not np.isfinite(got).all():
            raise not_finite()
        worst = float(np.fmax(worst, np.abs(got - wanted).max()))
        same.append((got.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return worst, float(np.mean(same))


def check_kind(kind: str, path: Path, precision: str, frames: int) -> None:
    """Refuse what cannot be exported, before frames are read.

    Args:
        kind: One of `FORMATS`.
        path: The file to write.
        precision: One of `PRECISIONS`.
        frames: Number of the user's frames, as far as it is known.

    Raises:
        IccldError: int8 is not for this format or has too few frames, the suffix is wrong, or a library is missing.
    """
    if precision == "int8" and kind != "openvino":
        raise IccldError("int8 is for OpenVINO", "use --format openvino, or --precision fp16")
    if precision == "int8" and frames < 2:
        raise IccldError(
            "int8 takes its ranges from frames of yours, and is compared on others",
            "name two or more with --calibrate",
        )
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


def _write_onnx(graph: ExportGraph | AnySizeGraph, path: Path, opset: int) -> None:
    any_size = isinstance(graph, AnySizeGraph)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about the exporter's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                graph,
                graph.example,
                str(path),
                input_names=[INPUT, *NOISES][: len(graph.example)],
                output_names=[OUTPUT],
                dynamic_shapes=graph.free_sizes() if isinstance(graph, AnySizeGraph) else None,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            first: BaseException = error
            while first.__cause__ is not None:  # the exporter's own message tells how to report it
                first = first.__cause__
            reason = (str(first).strip().splitlines() or [type(first).__name__])[0]
            hint = "give one size with --size WxH" if any_size else "try another --opset"
            what = " for any size" if any_size else ""
            raise IccldError(
                f"the model cannot be written with ONNX opset {opset}{what} ({reason[:200]})", hint
            ) from error


def _fit_any_size(path: Path, multiple: int) -> None:
    """Put in front of a graph of logits what brings an image to sides that fit, and behind it what leads back.

    Both are what `Segmenter.fit` and `resize_logits` do; written as nodes, since the exporter takes minutes to reason
    about sizes that are rounded.
    """
    import onnx
    from onnx.helper import make_node, make_tensor_value_info

    model = onnx.load(path)
    graph, kind = model.graph, onnx.TensorProto.FLOAT
    logits, fitted, classes = "iccld/logits", "iccld/fitted", graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in graph.node:
        node.input[:] = [fitted if name == INPUT else name for name in node.input]
        node.output[:] = [logits if name == OUTPUT else name for name in node.output]
    for name, value in (("multiple", np.float32(multiple)), ("one", np.float32(1))):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), f"iccld/{name}"))
    for name, ends in (("zero", 0), ("two", 2), ("four", 4)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([ends], np.int64), f"iccld/{name}"))
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    before = [
        ("Shape", [INPUT], "shape"),
        ("Slice", ["shape", "zero", "two"], "first"),
        ("Slice", ["shape", "two", "four"], "sides"),
        ("Cast", ["sides"], "wide", {"to": kind}),
        ("Div", ["wide", "multiple"], "share"),
        ("Round", ["share"], "whole"),  # a half goes to the even one, as in Python
        ("Max", ["whole", "one"], "some"),
        ("Mul", ["some", "multiple"], "fit"),
        ("Cast", ["fit"], "whole fit", {"to": onnx.TensorProto.INT64}),
        ("Concat", ["first", "whole fit"], "fitting shape", {"axis": 0}),
        ("Resize", [INPUT, "", "", "fitting shape"], "fitted", how),
    ]
    after = [
        ("Shape", ["logits"], "logits shape"),
        ("Slice", ["logits shape", "zero", "two"], "logits first"),
        ("Concat", ["logits first", "sides"], "whole shape", {"axis": 0}),
        ("Resize", ["logits", "", "", "whole shape"], "whole logits", how),
        ("Softmax", ["whole logits"], OUTPUT, {"axis": 1}),
    ]

    def nodes(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        named = lambda name: name if name in ("", INPUT, OUTPUT) else f"iccld/{name}"  # noqa: E731
        return [
            make_node(
                op, [named(name) for name in taken], [named(made)], f"iccld/node {made}", **(more[0] if more else {})
            )
            for op, taken, made, *more in rows
        ]

    every = [*nodes(before), *graph.node, *nodes(after)]
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(every)
    sides = ["height", "width"]
    graph.input[0].CopyFrom(make_tensor_value_info(INPUT, kind, [1, 3, *sides]))
    graph.output.append(make_tensor_value_info(OUTPUT, kind, [1, classes, *sides]))
    onnx.checker.check_model(model)
    onnx.save(model, path)


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


def _to_openvino(
    onnx_path: Path, header: ModelHeader, size: tuple[int, int], frames: Sequence[np.ndarray]
) -> list[Path]:
    openvino, facts = import_openvino(), header.export
    assert facts is not None
    xml = onnx_path.with_suffix(".xml")
    model = openvino.convert_model(onnx_path)
    if facts.precision == "int8":
        its_noises = noises(size[::-1], facts.seed, header) if facts.size is None else []
        model = _quantised(model, size, its_noises, frames)
    model.set_rt_info(json.dumps(header.to_json()), RT_INFO)
    openvino.save_model(model, xml, compress_to_fp16=facts.precision != "fp32")
    return [xml, xml.with_suffix(".bin")]


def sensitive_to_int8(model: Any) -> list[str]:
    """The convolutions that lose most of the answers in int8 and take little of the time: they stay in float.

    Depthwise convolutions, the convolutions that read one through nothing but an activation, and the first ones after
    the image. A depthwise filter sums a few large weights that nearly cancel, so that the rounding of a single one
    moves its whole channel, and the projection behind it has no other input. Measured: benchmarks/RESULTS.md.

    Args:
        model: An OpenVINO model as exported, float.

    Returns:
        Names of its operations; none where it has no such convolutions.
    """
    names = []
    for op in model.get_ordered_ops():
        if op.get_type_name() not in _CONVOLUTIONS:
            continue
        before = _read_by(op)
        first = before.get_type_name() == "Parameter" and INPUT in before.output(0).get_names()
        if first or _is_depthwise(op) or (_is_depthwise(before) and op.get_type_name() == "Convolution"):
            names.append(op.get_friendly_name())
    return names


def _read_by(op: Any) -> Any:
    """The convolution, product, input or constant whose values an operation reads, through everything in between."""
    while True:
        values = [value.get_node() for value in op.input_values()]
        op = next((value for value in values if value.get_type_name() != "Constant"), values[0])
        if op.get_input_size() == 0 or op.get_type_name() in (*_CONVOLUTIONS, "MatMul", "MVN"):
            return op


def _is_depthwise(op: Any) -> bool:
    """Whether it is a convolution with one input channel a group: weights (groups, outputs, inputs, height, width)."""
    return op.get_type_name() == "GroupConvolution" and op.input_value(1).get_partial_shape()[2] == 1


def _quantised(
    model: Any, size: tuple[int, int], its_noises: Sequence[np.ndarray], frames: Sequence[np.ndarray]
) -> Any:
    """The model with weights and activations in int8, where the runtime gains by it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(list(frames), lambda frame: (to_input(frame, size), *its_noises)),
                preset=nncf.QuantizationPreset.MIXED,  # activations of SiLU and the like are not symmetric
                subset_size=len(frames),
                ignored_scope=nncf.IgnoredScope(names=sensitive_to_int8(model), validate=False),
            )
        except Exception as error:  # the library's own kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IccldError(f"the model cannot be quantised ({reason[:200]})", "use --precision fp16") from error
