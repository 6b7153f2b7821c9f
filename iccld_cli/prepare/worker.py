"""What is done with one frame, in a worker process: read, check, map, resize, write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from iccld_cli.data import checks
from iccld_cli.data.fixed import fitted_region
from iccld_cli.data.labelfiles import histogram
from iccld_cli.imagefiles import DATA_QUALITY
from iccld_cli.labels import IGNORE
from iccld_cli.prepare.adapters.base import FileProblem, RawFrame, blame
from iccld_cli.prepare.shapes import shrink_marks

SPARSE = 0.05
"""Labelled share of a frame below which its labels are points and scribbles, of which no pixel may be lost."""


class Loader(Protocol):
    """The part of an adapter that workers use."""

    def load(self, frame: RawFrame) -> tuple[bytes | np.ndarray, np.ndarray | None]:
        """Image and label of a frame."""


@dataclass(frozen=True)
class FrameJob:
    """What all frames of a run have in common.

    Attributes:
        loader: Reads a frame.
        root: Folder that `images/` and `labels/` are written to.
        size: (width, height) to resize to, or None to keep each frame's own.
        region: bool (h, w), True where frames are not the scene: labels become 255 there. None for none.
    """

    loader: Loader
    root: Path
    size: tuple[int, int] | None
    region: np.ndarray | None = None


def process(job: FrameJob, frame: RawFrame, ready: Any) -> dict[str, Any]:
    """Prepare one frame and write its files.

    Args:
        job: What to do.
        frame: The frame.
        ready: Its decoded image, uint8 (H, W, 3) RGB; or a string that says what is wrong; or None to read
            it.

    Returns:
        The frame's record: paths and sizes of the `files` written and their `sha256`, `width`, `height`, `pixels` per
        trainId, `mean` and `std` per channel in [0, 255], perceptual `hash`, and `doubt` (`file`, `reason`) where the
        decoder remarked something; `passed_over`, names that were passed over in the label; or `file` and `reason`
        when it is bad.
    """
    record, files = render(job, frame, ready)
    for path, data in files.items():
        _save(job.root / path, data)
    return record


def render(job: FrameJob, frame: RawFrame, ready: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What `process` does, without writing.

    Returns:
        The frame's record, and the content of its files by path.
    """
    passed_over: list[str] = getattr(job.loader, "passed_over", [])
    passed_over.clear()
    try:
        if isinstance(ready, str):
            raise FileProblem(frame.image, ready)
        raw, label = (ready, None) if ready is not None else job.loader.load(frame)
        with blame(frame.image):
            record, files = _render(job, frame, raw, label)
    except FileProblem as problem:
        return {"file": problem.file, "reason": problem.reason}, {}
    if passed_over:
        record["passed_over"] = sorted(passed_over)
    return record, files


def _render(
    job: FrameJob, frame: RawFrame, raw: bytes | np.ndarray, label: np.ndarray | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    photo = checks.decode_image(raw) if isinstance(raw, bytes) else checks.Photograph(raw, "", keep=False)
    image, form, keep = photo.pixels, photo.format, photo.keep
    height, width = image.shape[:2]
    if label is not None and label.shape != (height, width):
        reason = f"is {label.shape[1]}x{label.shape[0]}, its image is {width}x{height}"
        raise FileProblem(frame.label or frame.image, reason)
    if job.region is not None:
        region = fitted_region(job.region, (height, width))  # also refuses frames of another camera
        if label is not None:
            label = np.where(region, np.uint8(IGNORE), label)
    if job.size is not None and (width, height) != job.size:
        image, label, keep = _resize(image, job.size), _shrink_label(label, job.size), False
        form = "JPEG"
    mean, std = (values.ravel() for values in cv2.meanStdDev(image))
    checks.check_content(mean, std)
    record: dict[str, Any] = {"hash": f"{checks.perceptual_hash(image):016x}"}
    if photo.doubt:
        record["doubt"] = {"file": frame.image, "reason": photo.doubt}
    suffix = ".png" if form not in ("JPEG", "") else ".jpg"
    path = f"images/{frame.split}/{frame.key}{suffix}"
    data = raw if keep and isinstance(raw, bytes) else _encode(image, suffix)
    files = {path: data}
    if label is not None:
        path = f"labels/{frame.split}/{frame.key}.png"
        files[path] = _encode(label, ".png")
        counts = histogram(label)
        record["pixels"] = {str(i): int(counts[i]) for i in np.flatnonzero(counts)}
    sizes = {path: len(data) for path, data in files.items()}
    digests = [hashlib.sha256(data).hexdigest() for data in files.values()]
    record |= {"files": sizes, "sha256": digests, "width": image.shape[1], "height": image.shape[0]}
    record |= {"mean": [round(float(m), 4) for m in mean], "std": [round(float(s), 4) for s in std]}
    return record, files


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _shrink_label(label: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    if label is None:
        return None
    if np.count_nonzero(label != IGNORE) < SPARSE * label.size:
        return shrink_marks(label, size)
    # NEAREST_EXACT takes the pixel under each new pixel's centre, as the image filters do; NEAREST its corner.
    return cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _encode(pixels: np.ndarray, suffix: str) -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, DATA_QUALITY] if suffix == ".jpg" else []
    done, data = cv2.imencode(suffix, pixels, options)
    assert done
    return data.tobytes()


def _save(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
