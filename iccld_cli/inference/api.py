"""The program's models from Python: `from iccld_cli import load`.

    >>> from iccld_cli import load
    >>> model = load()  # the model that is shipped; or load("stage2.safetensors"), load("model.onnx")
    >>> result = model.predict("frame.jpg")
    >>> result.labels.shape
    (360, 480)
    >>> result.names[result.labels[300, 240]]
    'road'
    >>> result.overlay().shape
    (360, 480, 3)

A loaded model may be used by several threads at once; a stream belongs to the thread that reads it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.inference.hub import LICENCE, push, save_folder
from iccld_cli.inference.images import image_of, read_image
from iccld_cli.inference.model import Model, Sampling, Segmentation, Want, find_model, load_model
from iccld_cli.inference.video import VideoReader
from iccld_cli.report.overlay import DEFAULT_ALPHA, draw_overlay

if TYPE_CHECKING:
    from PIL.Image import Image


class Result:
    """What a model says of one image.

    Attributes:
        image: uint8 (H, W, 3), RGB, upright.
        labels: uint8 (H, W) trainIds: indices of `names`.
        names: Class names of the label space; the position is the trainId.
        classes: TrainIds that the model was trained on, a part of `names`.
    """

    def __init__(self, model: Predictor, image: np.ndarray, segmentation: Segmentation) -> None:
        """Keep a result of `Model.segment` (B = 1); the model computes what was not asked for when it is read."""
        self._model, self._first = model, segmentation
        self.image = image
        self.labels: np.ndarray = segmentation.labels[0]
        self.names: tuple[str, ...] = model.header.label_space.names
        self.classes: tuple[int, ...] = model.header.classes

    @property
    def confidence(self) -> np.ndarray:
        """float32 (H, W) in [0, 1]: probability of each label. Computed when it is first read."""
        return self._maps("confidence")

    @property
    def uncertainty(self) -> np.ndarray:
        """float32 (H, W) in [0, 1], see `model.Segmentation`. Computed when it is first read."""
        return self._maps("uncertainty")

    def overlay(self, alpha: float = DEFAULT_ALPHA, legend: bool = False) -> np.ndarray:
        """The image in the colours of its classes.

        Args:
            alpha: Opacity of the colours in [0, 1].
            legend: Whether the classes are named at the foot.

        Returns:
            uint8 (H, W, 3), RGB.
        """
        shown = self.classes if legend else None
        return draw_overlay(self.image, self.labels, self._model.header.label_space, alpha=alpha, legend=shown)

    def _maps(self, name: Literal["confidence", "uncertainty"]) -> np.ndarray:
        found: np.ndarray | None = getattr(self._first if getattr(self._first, name) is not None else self._more, name)
        assert found is not None
        return found[0]

    @functools.cached_property
    def _more(self) -> Segmentation:
        return self._model._segment(self.image, ("confidence", "uncertainty"))


class Predictor:
    """A loaded model, for use from Python.

    Attributes:
        model: What runs it, for batches and for everything else a `Model` can be asked.
        sampling: How it predicts.
    """

    def __init__(self, model: Model, sampling: Sampling | None = None, path: Path | None = None) -> None:
        """Take a model.

        Args:
            model: From `load_model`.
            sampling: How it predicts; None for the model's own choice.
            path: Its file; without it the model cannot be saved.

        Raises:
            IccldError: The model cannot do that.
        """
        self.model = model
        self.sampling = model.settle(sampling or Sampling())
        self._path = path

    @classmethod
    def from_pretrained(cls, name: Path | str, device: str = "auto", backend: str = "auto") -> Predictor:
        """Load a folder of `save_pretrained`, or a model of the Hugging Face hub; the same as `load`.

        Args:
            name: The folder, or `org/name`, optionally with `@revision`.
            device: See `load`.
            backend: See `load`.

        Raises:
            IccldError: See `load`.
        """
        return load(name, device, backend=backend)

    def save_pretrained(self, folder: Path | str, licence: str = LICENCE, tags: Sequence[str] = ()) -> Path:
        """Write the model as a folder in the form of the Hugging Face hub: weights, `config.json`, model card.

        Args:
            folder: Where to; it is made if need be.
            licence: Of the model, as the hub writes it, such as `apache-2.0`. The terms of the training data hold.
            tags: Further ones of the card.

        Returns:
            The folder.

        Raises:
            IccldError: The model is an exported one or has no file, or the disk is full.
        """
        if self._path is None:
            raise IccldError("a live network has no file to save", "write one with iccld_cli.checkpoint.save_segmenter")
        save_folder(self._path, Path(folder), licence=licence, tags=tags)
        return Path(folder)

    def push_to_hub(
        self,
        name: str,
        token: str | None = None,
        private: bool | None = None,
        licence: str = LICENCE,
        tags: Sequence[str] = (),
    ) -> str:
        """Upload the model to the Hugging Face hub, as `save_pretrained` writes it.

        Args:
            name: `org/name`; made where it does not exist.
            token: Of the hub; None for the one that `hf auth login` keeps, or `HF_TOKEN`.
            private: Whether a new entry is private; None for the account's default.
            licence: See `save_pretrained`.
            tags: See `save_pretrained`.

        Returns:
            Address of the model.

        Raises:
            IccldError: See `save_pretrained`; or the hub cannot be reached or refuses it.
        """
        if self._path is None:
            raise IccldError("a live network has no file to save", "write one with iccld_cli.checkpoint.save_segmenter")
        with tempfile.TemporaryDirectory(prefix="iccld-") as folder:
            save_folder(self._path, Path(folder), licence=licence, tags=tags, name=name)
            return push(Path(folder), name, token=token, private=private)

    @property
    def header(self) -> ModelHeader:
        """What the model's file says: label space, classes, configuration."""
        return self.model.header

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; the position is the trainId."""
        return self.header.label_space.names

    def predict(self, image: np.ndarray | Path | str | Image, confidence: bool = False) -> Result:
        """Segment one image.

        Args:
            image: uint8 (H, W, 3), RGB; the path of an image file; or a PIL image.
            confidence: Compute confidence and uncertainty at once, where they are wanted for certain; the labels are
                the same.

        Raises:
            IccldError: It is no such image, a file cannot be read, or memory is not enough.
        """
        pixels = read_image(image) if isinstance(image, Path | str) else image_of(image)
        want: tuple[Want, ...] = ("confidence", "uncertainty") if confidence else ()
        return Result(self, pixels, self._segment(pixels, want))

    def stream(self, video: Path | str, confidence: bool = False) -> Iterator[Result]:
        """Segment a video frame by frame, in constant memory.

        Args:
            video: Its path.
            confidence: See `predict`.

        Yields:
            One result a frame that can be decoded, in order.

        Raises:
            IccldError: The file is no video, or it ends before the number of frames it announces; what could be
                decoded has been given out by then.
        """
        with VideoReader(video) as reader:
            for frame in reader.frames():
                yield self.predict(frame.image, confidence)
            if reader.missing():
                raise IccldError(f"{video} is damaged or cut off, {reader.decoded} frames could be decoded")

    def _segment(self, image: np.ndarray, want: tuple[Want, ...]) -> Segmentation:
        return self.model.segment(image[None], want, sampling=self.sampling)


def load(
    path: Path | str | None = None, device: str = "auto", sampling: Sampling | None = None, backend: str = "auto"
) -> Predictor:
    """Load a model.

    Args:
        path: A `.safetensors`, `.onnx` or `.xml` file, a folder with one, or the id `org/name` of a model on the
            Hugging Face hub, which is downloaded; None for the model that is shipped.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        sampling: How it predicts: steps, seed, averages, height. None for the model's own choice.
        backend: What runs a `.safetensors` file: `auto` for the fastest that is there, `torch`, `compiled` or
            `openvino`. The first use of OpenVINO converts the file, which takes seconds.

    Raises:
        IccldError: There is no such file, it is damaged or not a model of this program, or the device or the backend
            is not there.
    """
    file = find_model(path)
    return Predictor(load_model(file, device, backend=backend, sampling=sampling), sampling, file)
