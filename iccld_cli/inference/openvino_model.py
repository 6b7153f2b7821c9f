"""A `.safetensors` model that OpenVINO runs on the CPU, without torch once it is converted.

The conversion is kept (`inference.cache`). A graph is compiled for each size that frames come in, once; full-size maps
are made outside it (`inference.fullsize`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import queue
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from iccld_cli import __version__
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.inference import cache
from iccld_cli.inference.fullsize import Logits, segment_frame
from iccld_cli.inference.model import (
    Sampling,
    Segmentation,
    Want,
    joined,
    memory_explained,
    network_size,
    not_finite,
    settle_height,
)
from iccld_cli.inference.noise import seeded_noise
from iccld_cli.inference.runtimes import import_openvino, threads

GRAPH_VERSION = 1
"""Of what `inference.conversion` makes."""

COMPILED = 8
"""Sizes kept ready."""


class OpenvinoModel:
    """An OpenVINO graph of a `.safetensors` file behind the door of `inference.model.Model`."""

    backend = "openvino"
    precision = "fp32"
    device = "cpu"

    def __init__(self, path: Path, header: ModelHeader, entry: cache.Entry, once: bool = False) -> None:
        """Take a conversion.

        Args:
            path: The model file, for messages.
            header: Its header.
            entry: Its conversion.
            once: Whether it is for a single frame, so that all processors work on one.
        """
        self.path, self.header = path, header
        self._facts = entry.facts
        self._graph = entry.graph
        self._core = import_openvino().Core()
        self.parallel = 1 if once else streams(threads())
        self._compiled: OrderedDict[tuple[tuple[int, int], int], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        steps: int | None = None,
        *,
        once: bool = False,
        before_conversion: Callable[[], None] = lambda: None,
    ) -> OpenvinoModel:
        """Open a file, converting it where that was not done before.

        Args:
            path: A `.safetensors` file.
            steps: Denoising steps; None for the model's default.
            once: See `__init__`.
            before_conversion: Called before a conversion, which takes seconds.

        Raises:
            IccldError: The file is missing, damaged or no model, or it has no such number of steps.
            ImportError: OpenVINO is not installed.
            inference.conversion.ConversionError: It cannot be converted.
        """
        header = read_header(path)
        import_openvino()
        folder, key = cache.cache_folder(), conversion_key(path, steps)
        entry = cache.find(folder, key)
        if entry is None:
            before_conversion()
            with cache.alone(folder, key):
                entry = cache.find(folder, key) or _convert(folder, key, path, steps)
        return cls(path, header, entry, once)

    @property
    def digest(self) -> str:
        """See `Model`."""
        return hashlib.sha256(json.dumps(self.header.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def multiple(self) -> int:
        """What the sides of the network's input are multiples of."""
        return int(self._facts["multiple"])

    def settle(self, sampling: Sampling) -> Sampling:
        """See `Model`."""
        steps = int(self._facts["steps"])
        if sampling.steps not in (None, steps) or sampling.samples > 1:
            what = f"{sampling.steps} steps" if sampling.steps not in (None, steps) else f"{sampling.samples} samples"
            raise IccldError(f"this model was opened for {steps} steps and one sample, not for {what}", "open it again")
        return replace(settle_height(sampling, self.header), steps=steps, seed=sampling.seed or 0)

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
        sampling = self.settle(sampling or Sampling())
        size = (frames.shape[1], frames.shape[2]) if size is None else size
        with memory_explained(frames):
            found = [
                segment_frame(self._views(frame, sampling, want), size, want, sampling.average) for frame in frames
            ]
            return joined(found)

    def logits(
        self, frames: np.ndarray, want: Collection[Want] = (), sampling: Sampling | None = None
    ) -> list[list[Logits]]:
        """See `Model`."""
        sampling = self.settle(sampling or Sampling())
        with memory_explained(frames):
            return [self._views(frame, sampling, want) for frame in frames]

    def _views(self, frame: np.ndarray, sampling: Sampling, want: Collection[Want]) -> list[Logits]:
        """Logits of a frame uint8 (H, W, 3) in every view that is needed."""
        views = []
        for scale, mirrored in sampling.views(want):
            wanted = network_size((frame.shape[0], frame.shape[1]), sampling.height, scale)
            fitted = resize_frame(frame, self._fit(wanted), smaller=wanted[0] < frame.shape[0])
            seen = np.ascontiguousarray(fitted[:, ::-1]) if mirrored else fitted
            views.append(Logits(self._logits(seen, sampling.seed or 0), mirrored))
        return views

    def _fit(self, size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (max(round(side / self.multiple), 1) * self.multiple for side in size)
        return rows, columns

    def _logits(self, frame: np.ndarray, seed: int) -> np.ndarray:
        found = self._of_size((frame.shape[0], frame.shape[1]), seed).run(frame)
        if not np.isfinite(found).all():
            raise not_finite()
        return found

    def _of_size(self, size: tuple[int, int], seed: int) -> _Compiled:
        with self._lock:  # two threads that meet a new size compile it once
            key = (size, seed)
            if key not in self._compiled:
                self._compiled[key] = self._compile(size, seed)
                while len(self._compiled) > COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _compile(self, size: tuple[int, int], seed: int) -> _Compiled:
        shapes = [(1, self._facts["latent"], size[0] // s, size[1] // s) for s in self._facts["strides"]]
        model = self._core.read_model(self._graph)
        model.reshape({index: list(shape) for index, shape in enumerate([(1, *size, 3), *shapes])})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # plugins may choose bf16 on their own, which is the user's choice
            "NUM_STREAMS": self.parallel,
            "INFERENCE_NUM_THREADS": threads(),
        }
        compiled = self._core.compile_model(model, "CPU", settings)
        return _Compiled(compiled, self.parallel, [seeded_noise(shape, seed) for shape in shapes])


class _Compiled:
    """A graph for one size, and its requests: one for each call at a time."""

    def __init__(self, compiled: Any, requests: int, noises: list[np.ndarray]) -> None:
        self._free: queue.Queue = queue.Queue()
        for _ in range(requests):
            request = compiled.create_infer_request()
            for index, noise in enumerate(noises, 1):
                request.input_tensors[index].data[:] = noise
            self._free.put(request)

    def run(self, frame: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 logits (K, H/4, W/4)."""
        request = self._free.get()
        try:
            request.input_tensors[0].data[0] = frame
            request.infer()
            return request.output_tensors[0].data[0].copy()
        finally:
            self._free.put(request)


def streams(processors: int) -> int:
    """Frames that are segmented at a time: one a processor on small machines, one for two on larger ones, at most 8.

    On two processors two frames at a time take a fifth less than one after the other on both (benchmarks/predict.py);
    on larger machines it was not measured.
    """
    return max(1, min(8, processors if processors <= 4 else processors // 2))


def resize_frame(frame: np.ndarray, size: tuple[int, int], smaller: bool) -> np.ndarray:
    """A frame as the network is to see it.

    Args:
        frame: uint8 (H, W, 3).
        size: (height, width).
        smaller: Whether it becomes smaller by more than the few pixels of the fit, and so needs a filter.

    Returns:
        uint8 (*size, 3), within rounding what torch's bilinear interpolation gives, with its antialiasing if smaller.
    """
    if frame.shape[:2] == size:
        return frame
    if not smaller:
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def conversion_key(path: Path, steps: int | None) -> str:
    """Name of a file's conversion: by its bytes, whatever its header says, and by everything that makes the graph."""
    versions = [
        GRAPH_VERSION,
        __version__,
        *(_version(name) for name in ("torch", "openvino", "transformers", "diffusers")),
    ]
    return hashlib.sha256(repr((cache.file_digest(path), steps, *versions)).encode()).hexdigest()


def is_converted(path: Path, steps: int | None) -> bool:
    """Whether a file can be opened without converting it first."""
    return cache.find(cache.cache_folder(), conversion_key(path, steps)) is not None


def _convert(folder: Path | None, key: str, path: Path, steps: int | None) -> cache.Entry:
    from iccld_cli.inference.conversion import convert

    if folder is not None:
        kept = cache.keep(folder, key, lambda part: convert(path, steps, part))
        if kept is not None:
            return kept
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="iccld-"))
    part = Path(_TEMPORARY[-1].name)
    return cache.Entry(part / cache.FILES[0], convert(path, steps, part))


_TEMPORARY: list[tempfile.TemporaryDirectory] = []
"""Conversions that no cache takes; they go with the process."""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
