"""A drive through the virtual town as a video, to try `iccld predict` on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path

if TYPE_CHECKING:
    from iccld_cli.town import Mix

FPS = 25


def frames_of(seconds: float) -> int:
    """How many frames a drive of this length has."""
    return max(1, round(seconds * FPS))


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size that no drive can have.

    Raises:
        IccldError: An odd width or height, which the codec's chroma cannot have.
    """
    if size[0] % 2 or size[1] % 2:
        raise IccldError(f"a video cannot be {size[0]}x{size[1]}", "choose an even width and height with --size")


def write_drive(path: Path, seconds: float, look: str, size: tuple[int, int], seed: int, mix: Mix | None = None) -> int:
    """Render consecutive frames and encode them as H.264.

    Args:
        path: The MP4 file.
        seconds: Length.
        look: One of `iccld_cli.town.LOOKS`.
        size: (width, height) in pixels; both even, as the codec's chroma needs.
        seed: The town's seed.
        mix: Shares of kinds of road, hours and rain, see `render_drive`; None for a street in town by the look's light.

    Returns:
        Number of frames.

    Raises:
        IccldError: An odd size.
    """
    import av

    from iccld_cli.town import Mix, render_drive

    check_size(size)
    frames = frames_of(seconds)
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for image, _ in render_drive(seed, frames, look, size, FPS, mix or Mix()):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return frames
