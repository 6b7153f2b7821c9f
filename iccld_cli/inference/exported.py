"""Models that `iccld export` wrote, run by ONNX Runtime or OpenVINO, without torch.

A graph has one size, or takes any, and one number of steps. A file is data, whoever wrote it: an `.onnx` file must be
whole in itself, and beside an `.xml` file nothing but the `.bin` of its name is opened. Runtimes get bytes that were
checked, not names. How long a graph computes, and the memory that it takes for it, is its own affair.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.errors import IccldError, reason_of
from iccld_cli.header import HEADER_KEY, ExportFacts, ModelHeader, parse_header
from iccld_cli.inference.fullsize import Logits, segment_frame
from iccld_cli.inference.irfile import check_graph
from iccld_cli.inference.model import (
    Sampling,
    Segmentation,
    Want,
    entropy_share,
    joined,
    memory_explained,
    network_size,
    not_finite,
    settle_height,
)
from iccld_cli.inference.noise import seeded_noise
from iccld_cli.inference.onnxfile import read_notes
from iccld_cli.inference.openvino_model import resize_frame
from iccld_cli.inference.runtimes import import_onnxruntime, import_openvino, threads
from iccld_cli.reading import MIB, ReadError, read_bytes

INPUT, OUTPUT = "image", "probabilities"
NOISES = ("noise", "noise2")
"""Further inputs of a graph for any size with denoising steps: a noise for each resolution that it works at."""

RT_INFO = ["iccld", "header"]
"""Where an OpenVINO file keeps the header."""

MAX_FILE = 4096 * MIB
"""Most bytes of a file that is opened; an ONNX file has 2 GiB at most."""

Run = Callable[..., np.ndarray]
"""float32 (1, 3, H, W) in [0, 1], and noises where the graph takes some -> probabilities float32 (1, K, H, W)."""


class ExportedModel:
    """An exported graph behind the door of `inference.model.Model`. Frames are resized to the one size it takes.

    Attributes:
        run: The graph itself.
        coarse: The graph up to its logits, before they are brought to the image's size: float32 (1, K, h, w). It takes
            the frame's bytes (`taking_bytes`). None where it cannot be cut there; results are then made of its
            probabilities, which takes longer.
    """

    parallel = 1

    def __init__(
        self, path: Path, header: ModelHeader, backend: str, run: Run, digest: str, coarse: Run | None = None
    ) -> None:
        """Take a graph that is loaded.

        Args:
            path: Its file, for messages.
            header: What the file says, `export` included.
            backend: `onnx` or `openvino`.
            run: The graph.
            digest: sha256 of the file or files.
            coarse: See the class.
        """
        assert header.export is not None
        self.path, self.header, self.backend = path, header, backend
        self.facts: ExportFacts = header.export
        self.precision = self.facts.precision
        self.run, self.coarse, self._digest = run, coarse, digest

    @classmethod
    def open(cls, path: Path, device: str = "auto", backend: str = "auto") -> ExportedModel:
        """Load an `.onnx` or `.xml` file.

        Raises:
            IccldError: The runtime is not installed, the file is damaged or not one that `iccld export` wrote, or
                another device than the CPU, or another backend than the file's, is asked for.
        """
        its = "onnx" if path.suffix == ".onnx" else "openvino"
        if backend not in ("auto", "torch", its):
            raise IccldError(f"{path} is run by {its}, not by {backend!r}", "leave --backend out")
        if device not in ("auto", "cpu"):
            raise IccldError(f"{path} runs on the CPU, not on {device!r}", "use --device cpu, or the .safetensors file")
        return _open_onnx(path) if path.suffix == ".onnx" else _open_openvino(path)

    @property
    def device(self) -> str:
        """See `Model`."""
        return "cpu"

    @property
    def digest(self) -> str:
        """See `Model`."""
        return self._digest

    def settle(self, sampling: Sampling) -> Sampling:
        """See `Model`: what the graph fixes can be asked for, and nothing else."""
        assert self.facts.size is not None
        width, height = self.facts.size
        for name, asked, has in (
            ("steps", sampling.steps, self.facts.steps),
            ("seed", sampling.seed, self.facts.seed),
            ("height", sampling.height, height),
            ("samples", sampling.samples, 1),
            ("scales", ",".join(f"{scale:g}" for scale in sampling.scales), "1"),
            ("flip", sampling.flip, False),
            ("average", sampling.average, False),
        ):
            if asked is not None and asked != has:
                its = f"its {name} is {has}" if name in ("steps", "seed", "height") else f"it cannot do {name}"
                raise IccldError(
                    f"{self.path} is an exported model of {width}x{height} pixels; {its}",
                    f"leave --{name} out, export it again, or use the .safetensors file",
                )
        return replace(sampling, steps=self.facts.steps, seed=self.facts.seed, height=height)

    def batch_size(self, size: tuple[int, int], sampling: Sampling) -> int:
        """See `Model`: the graph takes one frame."""
        return 1

    def segment(
        self,
        frames: np.ndarray,
        want: Collection[Want] = (),
        size: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
    ) -> Segmentation:
        """See `Model`."""
        self.settle(sampling or Sampling())
        size = (frames.shape[1], frames.shape[2]) if size is None else size
        with memory_explained(frames):
            return joined([self._one(frame, want, size) for frame in frames])

    def logits(
        self, frames: np.ndarray, want: Collection[Want] = (), sampling: Sampling | None = None
    ) -> list[list[Logits]]:
        """See `Model`; of a graph that cannot be cut at its logits, at the size of its output."""
        self.settle(sampling or Sampling())
        with memory_explained(frames):
            return [[Logits(self._values(frame))] for frame in frames]

    def _values(self, frame: np.ndarray, *its_noises: np.ndarray) -> np.ndarray:
        """Logits (K, h, w) of a frame uint8 (H, W, 3)."""
        size = self.facts.size
        if self.coarse is None:
            found = self.run(to_input(frame, size), *its_noises)[0]
        else:
            seen = frame if size is None else resized_frame(frame, size)
            found = self.coarse(np.ascontiguousarray(seen[None]), *its_noises)[0]
        if not np.isfinite(found).all():
            raise not_finite()
        return _logs(found) if self.coarse is None else found

    def _one(self, frame: np.ndarray, want: Collection[Want], size: tuple[int, int]) -> Segmentation:
        if self.coarse is not None:
            return segment_frame([Logits(self._values(frame))], size, want)
        found = self.run(to_input(frame, self.facts.size))[0]  # (K, h, w)
        if not np.isfinite(found).all():
            raise not_finite()
        if found.shape[1:] != size:
            found = _resized(found, size)  # (K, H, W)
        return Segmentation(
            labels=found.argmax(axis=0).astype(np.uint8)[None],
            confidence=found.max(axis=0)[None] if "confidence" in want else None,
            uncertainty=entropy_share(found[None]) if "uncertainty" in want else None,
            probabilities=found[None] if "probabilities" in want else None,
        )


class AnySizeModel(ExportedModel):
    """An exported graph that takes frames of any size. They are brought to the working height, as of a model file."""

    def settle(self, sampling: Sampling) -> Sampling:
        """See `Model`: all but other steps and more noises."""
        steps = self.facts.steps
        if sampling.steps not in (None, steps) or sampling.samples > 1:
            its, name = (
                (f"its steps is {steps}", "steps") if sampling.samples == 1 else ("it cannot do samples", "samples")
            )
            raise IccldError(
                f"{self.path} is an exported model; {its}",
                f"leave --{name} out, export it again, or use the .safetensors file",
            )
        seed = self.facts.seed if sampling.seed is None else sampling.seed
        return replace(settle_height(sampling, self.header), steps=steps, seed=seed)

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
        with memory_explained(frames):
            views = (self._views(frame, want, sampling) for frame in frames)
            return joined([segment_frame(its, size, want, sampling.average) for its in views])

    def logits(
        self, frames: np.ndarray, want: Collection[Want] = (), sampling: Sampling | None = None
    ) -> list[list[Logits]]:
        """See `Model`; of a graph that cannot be cut at its logits, at the size that the network sees."""
        sampling = self.settle(sampling or Sampling())
        with memory_explained(frames):
            return [self._views(frame, want, sampling) for frame in frames]

    def _views(self, frame: np.ndarray, want: Collection[Want], sampling: Sampling) -> list[Logits]:
        views = []
        for scale, mirrored in sampling.views(want):
            wanted = network_size((frame.shape[0], frame.shape[1]), sampling.height, scale)
            seen = resize_frame(frame, fitting_size(wanted, self.facts.multiple), smaller=wanted[0] < frame.shape[0])
            seen = seen[:, ::-1] if mirrored else seen
            its_noises = noises(seen.shape[:2], sampling.seed or 0, self.header)
            views.append(Logits(self._values(seen, *its_noises), mirrored))
        return views


def fitting_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The nearest sides to (height, width) that are multiples, at least one each, as `Segmenter.fitting_size`."""
    rows, columns = (max(round(side / multiple), 1) * multiple for side in size)
    return rows, columns


def noises(size: tuple[int, int], seed: int, header: ModelHeader) -> list[np.ndarray]:
    """The noises that a graph for any size takes beside an image.

    Args:
        size: (height, width) of the image.
        seed: Seed of them.
        header: Of the graph.

    Returns:
        float32 (1, C_z, h, w) of each resolution; none without denoising steps.
    """
    facts = header.export
    assert facts is not None
    rows, columns = fitting_size(size, facts.multiple)
    channels = header.config.model.latent_channels
    return [_noise((1, channels, rows // stride, columns // stride), seed) for stride in facts.strides]


@functools.lru_cache(maxsize=8)
def _noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return seeded_noise(shape, seed)


def _logs(probabilities: np.ndarray) -> np.ndarray:
    """Logits that give these probabilities."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def _resized(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities (K, h, w) at (height, width): (K, H, W).

    They are logits but for a constant a pixel, so their logarithms are resized, as logits are.
    """
    scores = _logs(probabilities).transpose(1, 2, 0)
    scores = cv2.resize(np.ascontiguousarray(scores), size[::-1], interpolation=cv2.INTER_LINEAR)
    scores = scores.reshape(*size, -1).transpose(2, 0, 1)  # OpenCV drops the axis of a single class
    scores = np.exp(scores - scores.max(axis=0))
    return np.ascontiguousarray(scores / scores.sum(axis=0))


def to_input(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A frame as the graph takes it.

    Args:
        frame: uint8 (H, W, 3), RGB.
        size: (width, height) of the graph; None for the frame's own.

    Returns:
        float32 (1, 3, height, width) in [0, 1].
    """
    if size is not None:
        frame = resized_frame(frame, size)
    return np.ascontiguousarray(frame.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def resized_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 (H, W, 3) at (width, height): averaged where it becomes smaller, else bilinear."""
    if frame.shape[1::-1] == size:
        return frame
    smaller = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def onnx_session(model: bytes | str) -> Run:
    """A graph for ONNX Runtime on the CPU, from a file's bytes or its path."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions as well
    options.intra_op_num_threads = threads()  # a number also keeps it from pinning threads to cores
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [INPUT, *NOISES]
    return lambda *given: session.run([OUTPUT], dict(zip(names[: len(given)], given, strict=True)))[0]


class OpenvinoGraph:
    """A graph for OpenVINO on the CPU, compiled when it is first called."""

    def __init__(self, model: Any) -> None:
        """Take an `openvino.Model`."""
        self._model = model
        self._compiled: Any = None
        self._lock = threading.Lock()  # a compiled model called as a function has one request for all

    def gives(self, shape: tuple[int, ...]) -> bool:
        """Whether its output can have a shape, as far as the graph says."""
        return bool(self._model.outputs[0].get_partial_shape().compatible(import_openvino().PartialShape(list(shape))))

    def __call__(self, *given: np.ndarray) -> np.ndarray:
        """See `Run`."""
        with self._lock:
            if self._compiled is None:
                # Plugins may choose bf16 on their own, which is the user's choice to make.
                options = {"INFERENCE_PRECISION_HINT": "f32"}
                self._compiled = import_openvino().Core().compile_model(self._model, "CPU", options)
            return np.array(self._compiled([*given])[0])


def cut_at_logits(model: Any) -> Any | None:
    """The part of a graph up to the logits that it brings to the image's size and makes probabilities of.

    Args:
        model: An `openvino.Model` that `iccld export` wrote, in any precision.

    Returns:
        A model with the same inputs and the logits as its output; None where the graph ends in another way.
    """
    end = model.get_results()[0].input_value(0).get_node()
    if end.get_type_name() != "Softmax":
        return None
    enlarged = end.input_value(0).get_node()
    if enlarged.get_type_name() != "Interpolate":
        return None
    logits = enlarged.input_value(0)
    classes = (end.output(0).get_partial_shape()[1], logits.get_partial_shape()[1])
    if not all(count.is_static for count in classes) or classes[0] != classes[1]:
        return None
    return import_openvino().Model([logits], model.get_parameters(), "logits")


def taking_bytes(model: Any) -> Any:
    """A copy of an `openvino.Model` whose image, its first input, is uint8 (1, H, W, 3) instead of float32 (1, 3, H, W)
    in [0, 1]: the graph converts it on all cores, and a quarter as many bytes go in."""
    openvino = import_openvino()
    steps = openvino.preprocess.PrePostProcessor(model.clone())
    image = steps.input(0)
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    image.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    image.model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def _open_onnx(path: Path) -> ExportedModel:
    try:
        data = read_bytes(path, MAX_FILE)
        notes = read_notes(data)
    except ReadError as error:
        raise IccldError(f"{path} {error.message}", "export it again") from None
    except ValueError as error:
        raise IccldError(f"{path} is not an ONNX file to read ({error})", "export it again") from None
    header = _header(path, notes.get(HEADER_KEY))
    _needs("onnxruntime", import_onnxruntime)
    try:
        run = onnx_session(data)
    except Exception as error:  # the runtime's own kinds
        raise _unreadable(path, error) from None
    return _checked(_kind(header)(path, header, "onnx", run, hashlib.sha256(data).hexdigest()))


def _open_openvino(path: Path) -> ExportedModel:
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise IccldError(f"the weights {weights} of {path} are missing", "keep both files together")
    try:
        graph, values = read_bytes(path, MAX_FILE), read_bytes(weights, MAX_FILE)
        check_graph(graph)
    except ReadError as error:
        raise IccldError(f"{path} or the weights beside it {error.message}", "export it again") from None
    except ValueError as error:
        raise IccldError(f"{path} cannot be run ({error})", "export it again") from None
    openvino = _needs("openvino", import_openvino)
    try:
        model = openvino.Core().read_model(graph, values)
        text = model.get_rt_info(RT_INFO).astype(str) if model.has_rt_info(RT_INFO) else None
    except Exception as error:  # the runtime's own kinds
        raise _unreadable(path, error) from None
    header = _header(path, text)
    try:
        part = cut_at_logits(model)
        part = None if part is None else taking_bytes(part)
    except Exception as error:
        raise _unreadable(path, error) from None
    digest = hashlib.sha256(graph)
    digest.update(values)
    run, coarse = OpenvinoGraph(model), None if part is None else OpenvinoGraph(part)
    return _checked(_kind(header)(path, header, "openvino", run, digest.hexdigest(), coarse))


def _kind(header: ModelHeader) -> type[ExportedModel]:
    assert header.export is not None
    return AnySizeModel if header.export.size is None else ExportedModel


def _header(path: Path, text: str | None) -> ModelHeader:
    if text is None:
        raise IccldError(f"{path} does not say what its classes are", "export it again with this version of iccld")
    header = parse_header(text, path)
    if header.export is None:
        raise IccldError(f"{path} does not say which size it takes", "export it again with this version of iccld")
    return header


def _checked(model: ExportedModel) -> ExportedModel:
    """A model that predicts once in the form that its header says."""
    width, height = model.facts.size or (2 * model.facts.multiple, model.facts.multiple)
    wanted = (1, len(model.header.label_space), height, width)
    bytes_, floats = np.zeros((1, height, width, 3), np.uint8), np.zeros((1, 3, height, width), np.float32)
    given = [floats if model.coarse is None else bytes_]
    if model.facts.size is None:
        given += noises((height, width), 0, model.header)
    try:
        shape = tuple((model.run if model.coarse is None else model.coarse)(*given).shape)
    except Exception as error:  # the runtime's own kinds
        raise _unreadable(model.path, error) from None
    # Of a graph that is cut at its logits the rest is not compiled for this.
    rest = model.run if model.coarse is not None and isinstance(model.run, OpenvinoGraph) else None
    if shape != wanted if rest is None else (shape[:2] != wanted[:2] or not rest.gives(wanted)):
        raise IccldError(f"{model.path} returns the shape {shape}, its header says {wanted}", "export it again")
    return model


def _needs(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError:
        raise IccldError(
            f"this model file needs the package {name}", "install it with: pip install 'iccld[export]'"
        ) from None


def _unreadable(path: Path, error: Exception) -> IccldError:
    if isinstance(error, IccldError):
        return error
    return IccldError(f"{path} cannot be run ({reason_of(error)})", "export it again")
