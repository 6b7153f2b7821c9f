"""Which pixels of the inputs of `predict` are not the scene (`data.fixed`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iccld_cli.data.fixed import SAMPLED, find_region, fitted_region, read_region
from iccld_cli.errors import IccldError
from iccld_cli.inference.images import image_shape, read_image
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.video import VideoReader, upright


class Regions:
    """The regions to ignore of one run.

    Attributes:
        images: Jobs of images, among which those of a size are taken for one camera's.
    """

    def __init__(self, ignore: Path | str | None) -> None:
        """Read the picture, if there is one.

        Args:
            ignore: See `PredictOptions`.

        Raises:
            IccldError: The picture cannot be used.
        """
        self.auto = ignore == "auto"
        self.given = None if ignore is None or self.auto else read_region(Path(ignore))
        self.images: Sequence[Input] = ()
        self._of_size: dict[tuple[int, ...], np.ndarray | IccldError] = {}
        self._items: dict[tuple[int, ...], list[Input]] | None = None

    def of_images(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """bool (H, W) for images of a shape (H, W, 3), or None.

        Raises:
            IccldError: The picture has another shape; or too few images are of this one to see what does not move.
        """
        if self.given is not None:
            return fitted_region(self.given, (shape[0], shape[1]))
        if not self.auto:
            return None
        if shape not in self._of_size:
            try:
                self._of_size[shape] = find_region(self._sampled(shape))
            except IccldError as error:
                self._of_size[shape] = error
        found = self._of_size[shape]
        if isinstance(found, IccldError):
            size = f"images of {shape[1]}x{shape[0]}"
            raise IccldError(f"among {size}, {found.message}", found.hint)
        return found

    def of_video(self, path: Path) -> np.ndarray | None:
        """bool (h, w) for the frames of a video, or None.

        Raises:
            IccldError: There are too few frames to see what does not move, or hardly anything moves.
        """
        if not self.auto:
            return self.given
        try:
            return find_region(sampled_frames(path))
        except IccldError as error:
            raise IccldError(f"{path}: {error.message}", error.hint) from None

    def of_stream(self) -> np.ndarray | None:
        """bool (h, w), or None."""
        return self.given

    def _sampled(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        if self._items is None:
            self._items = {}
            for item in self.images:
                size = image_shape(item.path) if item.source is None else None
                if size is not None:
                    self._items.setdefault(size, []).append(item)
        items = self._items.get(shape, [])
        step = max(1, len(items) // SAMPLED)
        found = []
        for item in items[::step]:
            try:
                image = read_image(item.path)
            except IccldError:  # told when its turn comes
                continue
            if image.shape == shape:
                found.append(image)
        return found


def sampled_frames(path: Path) -> list[np.ndarray]:
    """Frames (H, W, 3) of a video, evenly spread over it as far as its key frames allow.

    Raises:
        IccldError: It cannot be opened.
    """
    import av

    found: list[np.ndarray] = []
    with VideoReader(path) as reader:
        container, stream = reader.container, reader.stream
        seconds = float(reader.announced / reader.fps)
        seen: set[int] = set()
        for number in range(SAMPLED):
            try:
                container.seek(int(1_000_000 * seconds * number / SAMPLED))
                frame = next(container.decode(stream))
            except (av.error.FFmpegError, StopIteration, ValueError):
                continue
            if frame.pts not in seen:
                seen.add(frame.pts)
                found.append(upright(frame.to_ndarray(format="rgb24"), frame.rotation))
    if len(found) < SAMPLED // 2:  # few key frames, or none to seek: all of it
        with VideoReader(path) as reader:
            step = max(1, reader.announced // SAMPLED)
            found = [frame.image for frame in reader.frames(lambda index, _: "skip" if index % step else "take")]
    return [image for image in found if image.shape == found[0].shape]
