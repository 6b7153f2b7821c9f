"""One HTML page that needs nothing but itself: pictures are embedded, styles are inline, nothing is loaded.

Videos are the exception: they are named by a path relative to the page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.files import write_text
from iccld_cli.imagefiles import PREVIEW_QUALITY
from iccld_cli.names import shown_lines

if TYPE_CHECKING:
    import numpy as np

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Numbers:
    """Headline figures: (name, value) pairs."""

    kind: ClassVar[str] = "numbers"
    figures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; cells after the first column are set flush right."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bar:
    """One row of `Bars`.

    Attributes:
        name: What it measures.
        fraction: Length in [0, 1]; None where there is no value.
        text: The value in words.
        color: (R, G, B) in [0, 255].
        note: Something small beside it.
    """

    name: str
    fraction: float | None
    text: str
    color: tuple[int, int, int] = (31, 111, 178)
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars."""

    kind: ClassVar[str] = "bars"
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Pictures:
    """A row of pictures with a caption.

    Attributes:
        pictures: uint8 (H, W, 3) RGB arrays, or picture files; all are embedded.
        caption: Below them.
        titles: One above each; empty for none.
        width: Pictures wider than this many pixels are scaled down before they are embedded; 0 for never.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[np.ndarray | Path]
    caption: str = ""
    titles: Sequence[str] = ()
    width: int = 640


@dataclass(frozen=True)
class Clip:
    """A video that lies beside the page.

    Attributes:
        path: Relative to the page, with forward slashes.
        caption: Below it.
    """

    kind: ClassVar[str] = "video"
    path: str
    caption: str = ""


Block = Text | Numbers | Table | Bars | Pictures | Clip


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def write_page(path: Path | str, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write a page, atomically.

    Args:
        path: The HTML file.
        title: Heading and window title.
        sections: From top to bottom.
        subtitle: A line below the heading.

    Raises:
        IccldError: A picture cannot be read, or the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=as_text,
    )
    environment.filters["embed"] = embed_picture
    template = environment.get_template("page.html")
    write_text(path, template.render(title=title, subtitle=subtitle, sections=sections))


def as_text(value: object) -> object:
    """What Jinja puts into a page, with control characters written out; markup is escaped by Jinja itself."""
    return shown_lines(value) if type(value) is str else value


def embed_picture(picture: np.ndarray | Path, width: int = 0) -> str:
    """A picture as a `data:` address.

    Args:
        picture: uint8 (H, W, 3) RGB or (H, W) grey, embedded as JPEG; or a file, embedded as it is.
        width: Arrays wider than this are scaled down; 0 for never.

    Raises:
        IccldError: The file cannot be read.
    """
    if isinstance(picture, Path):
        kind = "png" if picture.suffix.lower() == ".png" else "jpeg"
        try:
            data = picture.read_bytes()
        except OSError:
            raise IccldError(f"cannot read picture {picture}") from None
    else:
        import cv2

        pixels = picture[..., ::-1] if picture.ndim == 3 else picture  # OpenCV writes BGR
        if width and pixels.shape[1] > width:
            height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        kind = "jpeg"
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
