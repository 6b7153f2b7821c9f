"""One `Model` for everything that uses one, whatever file it comes from.

    load_model(None | path | Segmenter)  ->  OpenvinoModel   a .safetensors file on a CPU, where it can be converted
                                             TorchModel      a .safetensors file everywhere else, a live network
                                             ExportedModel   a .onnx or .xml file that `iccld export` wrote

`predict`, `evaluate`, the check of `export`, validation and pictures while training, the demo and the Python interface
give frames as bytes and say what they want, so that a fast backend computes nothing else.
Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from iccld_cli.errors import IccldError, explain_out_of_memory
from iccld_cli.header import ModelHeader
from iccld_cli.inference.hub import download, is_hub_id
from iccld_cli.reading import kind_problem
from iccld_cli.shipped import shipped_file

if TYPE_CHECKING:
    from iccld_cli.inference.fullsize import Logits
    from iccld_cli.models.segmenter import Segmenter

Want = Literal["confidence", "uncertainty", "probabilities"]
"""What can be asked for besides labels."""

SHIPPED_MODELS = {
    "small": "iccld-small.safetensors",
    "roads": "iccld-roads.safetensors",
    "free": "iccld-free.safetensors",
}
"""Models that come with the program, by the names that stand for their files, whatever lies in the working folder: else
a folder of such a name, as `iccld adapt --out free` makes, would change what the same command means."""

DEFAULT_MODEL = "small"

SUFFIXES = (".safetensors", ".onnx", ".xml")
"""Of model files."""

MAX_PIXELS = 100_000_000
"""Most pixels of an image that a network is given."""


@dataclass(frozen=True)
class Sampling:
    """How a model predicts. What is None is the model's own choice, see `Model.settle`.

    The answer comes from the plain pass: the frame as it is, at scale 1 (where that is not among the scales, at the
    first), with the first noise. All other passes say how sure it is, see `Segmentation.uncertainty`.

    Attributes:
        steps: Denoising steps; 0 decodes the latent directly.
        seed: Seed of the noise.
        samples: Number of noises.
        scales: Factors on the size that the network sees.
        flip: Whether the mirrored frame is looked at as well.
        average: Whether the answer is the mean of all passes, instead of the plain one's alone.
        height: Rows of a frame as the network sees it; 0 for the frame's own. None for the height the network was
            trained at. Results keep the frame's size.
        once: Whether a single frame is all there is, so that a backend that is slow to start does not pay.
    """

    steps: int | None = None
    seed: int | None = None
    samples: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    height: int | None = None
    once: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "seed", "samples", "height"):
            value = getattr(self, name)
            if not isinstance(value, Integral | None) or isinstance(value, bool):
                raise IccldError(f"{name} of {value!r} are not possible", "give a whole number")
        if self.samples < 1:
            raise IccldError(f"{self.samples} noise samples are not possible", "take at least 1")
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise IccldError(f"scales {list(self.scales)} are not possible", "each must lie between 0.1 and 8")
        if self.height is not None and self.height < 0:
            raise IccldError(f"a height of {self.height} rows is not possible", "give 0 for the frame's own")

    def views(self, want: Collection[Want]) -> list[tuple[float, bool]]:
        """The views that the wanted maps need, the plain one first: (scale, whether mirrored)."""
        scales = sorted(self.scales, key=lambda scale: scale != 1)
        found = [(scale, mirrored) for scale in scales for mirrored in (False, True)[: 1 + self.flip]]
        return found if self.needs_all(want) else found[:1]

    def needs_all(self, want: Collection[Want]) -> bool:
        """Whether the wanted maps need more than the plain pass."""
        return self.average or "uncertainty" in want


@dataclass(frozen=True)
class Segmentation:
    """What `Model.segment` returns; what was not asked for is None.

    Attributes:
        labels: uint8 (B, H, W) trainIds.
        confidence: float32 (B, H, W) in [0, 1], probability of the label.
        uncertainty: float32 (B, H, W) in [0, 1]: 1 - the mean probability that the other passes (views and noises) give
            the label. A single other pass is no mean, and with `Sampling.average` there are no others: then the mean
            is over all passes. With the plain pass alone: entropy of the probabilities / log K.
        probabilities: float32 (B, K, H, W).
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    probabilities: np.ndarray | None = None


def joined(parts: Sequence[Segmentation]) -> Segmentation:
    """Results of frames (1, ...) as those of a batch; all have the same maps."""
    names = [field.name for field in fields(Segmentation) if getattr(parts[0], field.name) is not None]
    return Segmentation(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class Model(Protocol):
    """A model ready to predict. Several threads may use one at the same time.

    Attributes:
        header: What its file says: label space, classes, configuration.
        backend: `torch`, `compiled`, `onnx` or `openvino`.
        precision: Type that it computes in, such as `fp32`.
        parallel: Calls of `segment` that are worth making at the same time.
    """

    header: ModelHeader
    backend: str
    precision: str
    parallel: int

    @property
    def device(self) -> str:
        """Where it computes, such as `cpu` or `cuda:0`."""

    @property
    def digest(self) -> str:
        """sha256, in hex, of everything that its predictions depend on."""

    def settle(self, sampling: Sampling) -> Sampling:
        """Fill in what is left open, and refuse what the model cannot do.

        Returns:
            The same with steps, seed and height as numbers.

        Raises:
            IccldError: The model has no such steps, samples, scales or height; the message names them.
        """

    def batch_size(self, size: tuple[int, int], sampling: Sampling) -> int:
        """Frames of (height, width) that make a batch by default."""

    def segment(
        self,
        frames: np.ndarray,
        want: Collection[Want] = (),
        size: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
    ) -> Segmentation:
        """Segment frames of equal size.

        Args:
            frames: uint8 (B, H, W, 3), RGB.
            want: What is wanted besides labels.
            size: (height, width) of the result; None for the frames' own.
            sampling: How; None for the model's own choice.

        Raises:
            IccldError: See `settle`; or memory is not enough.
        """

    def logits(
        self, frames: np.ndarray, want: Collection[Want] = (), sampling: Sampling | None = None
    ) -> list[list[Logits]]:
        """What `segment` makes its results of (`fullsize.segment_frame`), for those who work on it before.

        Args:
            frames: See `segment`.
            want: What will be wanted, which decides what passes are made.
            sampling: See `segment`.

        Returns:
            Of each frame the logits of its passes, the plain one first.
        """


BACKENDS = ("auto", "torch", "compiled", "openvino", "onnx")
"""What can be asked for: the fastest that is there, torch as it is, torch's compiler, OpenVINO, ONNX Runtime."""


def load_model(
    source: Path | str | Segmenter | None = None,
    device: str = "auto",
    *,
    header: ModelHeader | None = None,
    backend: str = "torch",
    sampling: Sampling | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Model:
    """Open a model.

    Args:
        source: A `.safetensors`, `.onnx` or `.xml` file, a folder that holds one of them, a hub id, None for the model
            that is shipped, or a live network, which stays where it is.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; exported files run on the CPU.
        header: Of a live network.
        backend: One of `BACKENDS`, for a `.safetensors` file; an exported file has its own. `auto` takes OpenVINO on
            the CPU, converting the file if it was not before, and torch where that cannot be done.
        sampling: What it will be asked, which can decide what `auto` takes.
        tell: Called with a line when something takes long or is not as it could be.

    Raises:
        IccldError: There is no such file, it is damaged or not a model of this program, a runtime is not installed,
            or device or backend is not there.
    """
    if backend not in BACKENDS:
        raise IccldError(f"there is no backend {backend!r}", f"choose one of {', '.join(BACKENDS)}")
    if source is None or isinstance(source, Path | str):
        path = find_model(source)
        if path.suffix in (".onnx", ".xml"):
            from iccld_cli.inference.exported import ExportedModel

            return ExportedModel.open(path, device, backend)
        from iccld_cli.inference.backends import open_backend

        return open_backend(path, device, backend, sampling or Sampling(), tell)
    from iccld_cli.inference.torch_model import TorchModel

    if header is None:
        raise IccldError(
            f"{type(source).__name__} is no path of a model file, and a live network does not know its classes' names",
            "give the file's path, or the header of the network as well",
        )
    return TorchModel(source, header)


def find_model(given: Path | str | None) -> Path:
    """The model file that is meant.

    Args:
        given: A file, a folder that holds one model file, the name of a shipped model, the id of a model on the
            Hugging Face hub, which is downloaded, or None for the shipped model `small`. A name of `SHIPPED_MODELS` is
            never a file or folder: name the file in it, or its whole path.

    Raises:
        IccldError: There is none, or several, or the hub cannot be reached.
    """
    name = DEFAULT_MODEL if given is None else str(given)
    if given is None or name in SHIPPED_MODELS:
        shipped = shipped_file(SHIPPED_MODELS[name])
        if shipped is None:
            raise IccldError(
                "this installation comes without that model file",
                "name one with --ckpt, such as RUN/stage2.safetensors",
            )
        return shipped
    assert given is not None
    path = Path(given)
    if is_hub_id(given):
        path = download(path.as_posix())
    if problem := kind_problem(path):
        raise IccldError(f"the model file {path} {problem}", "give a regular file")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise IccldError(f"no model file at {path} ({getattr(error, 'strerror', error)})", "check its name") from None
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file() and p.name[0] != ".")
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "no .safetensors, .onnx or .xml file"
            raise IccldError(f"the folder {path} holds {names}", "name the model file itself")
        return found[0]
    if not path.is_file():
        raise IccldError(f"no model file at {path}", "give a .safetensors, .onnx or .xml file, or a folder with one")
    return path


def settle_height(sampling: Sampling, header: ModelHeader) -> Sampling:
    """A sampling whose height is a number: the one asked for, else the trained one, else 0 for the frame's own."""
    return replace(sampling, height=header.working_height or 0) if sampling.height is None else sampling


def network_size(size: tuple[int, int], height: int | None, scale: float = 1.0) -> tuple[int, int]:
    """The size at which a network is to see a frame, before its sides are fitted to the network.

    Args:
        size: (height, width) of the frame.
        height: Rows to bring it to; 0 or None for its own.
        scale: Factor on that.

    Returns:
        (height, width).

    Raises:
        IccldError: That is more than `MAX_PIXELS`.
    """
    factor = scale * (height / size[0] if height else 1)
    rows = max(1, round((height or size[0]) * scale))
    columns = max(1, round(size[1] * factor))
    if rows * columns > MAX_PIXELS:
        raise IccldError(
            f"at --height {rows} a frame of {size[1]}x{size[0]} becomes {columns} pixels wide", "give a smaller one"
        )
    return rows, columns


@contextlib.contextmanager
def memory_explained(frames: np.ndarray) -> Iterator[None]:
    """Turn running out of memory over frames (B, H, W, 3) into an error that names what to lower."""
    try:
        yield
    except Exception as error:
        count, height, width = frames.shape[:3]
        told = explain_out_of_memory(
            error,
            f"memory ran out on {count} frame(s) of {width}x{height} pixels",
            "give a smaller --batch-size or --height, or another --device",
        )
        if told is None:
            raise
        raise told from None


def not_finite() -> IccldError:
    """What is said of a model whose sums overflow: the largest logit would be one class everywhere."""
    return IccldError("the model's outputs are not finite numbers", "its weights are too large; train it again")


def entropy_share(probabilities: np.ndarray) -> np.ndarray:
    """How undecided a prediction is.

    Args:
        probabilities: float32 (B, K, H, W), summing to 1 over K.

    Returns:
        float32 (B, H, W) in [0, 1]: entropy / log K; 0 = certain, 1 = all classes equally likely.
    """
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    share = -(probabilities * logs).sum(axis=1) / math.log(max(probabilities.shape[1], 2))
    return np.clip(share, 0, 1).astype(np.float32)
