"""One HTML page that needs nothing but itself: pictures, style and script are embedded, nothing is loaded.

Videos are the exception: they are named by a path relative to the page. A content security policy keeps a browser from
loading anything else and from running any other script, whatever a name holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
import urllib.parse
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
class Cell:
    """A cell of a `Table` that is more than text.

    Attributes:
        text: What it says.
        value: What it is sorted by; None sorts last.
        color: (R, G, B) in [0, 255] of a chip before the text.
        fraction: Length in [0, 1] of a bar behind the text.
        strong: Whether it stands out.
    """

    text: str
    value: float | None = None
    color: tuple[int, int, int] | None = None
    fraction: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; cells after the first column are set flush right.

    Attributes:
        header: Column heads; empty texts for none.
        rows: Cells.
        sortable: Whether a click on a head sorts the rows.
        foot: A last row that stays where it is; empty for none.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    sortable: bool = False
    foot: Sequence[str | Cell] = ()


@dataclass(frozen=True)
class Matrix:
    """A square of percentages, such as a confusion matrix.

    Attributes:
        rows: Names of the rows.
        columns: Names of the columns.
        shares: Percent in [0, 100], a row each.
    """

    kind: ClassVar[str] = "matrix"
    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Reliability:
    """Reliability diagrams: accuracy over confidence, with the share of pixels as bars.

    Attributes:
        curves: (name, points) each; points are (mean confidence, accuracy, pixels) of the bins.
    """

    kind: ClassVar[str] = "reliability"
    curves: Sequence[tuple[str, Sequence[tuple[float, float, int]]]]

    def svg(self) -> list[tuple[str, str, list[tuple[float, float, float, float]], int]]:
        """(name, polyline, bars (x, y, width, height), colour number) of each curve, in units of 100 by 100."""
        drawn = []
        for number, (name, points) in enumerate(self.curves):
            line = " ".join(f"{100 * c:.2f},{100 * (1 - a):.2f}" for c, a, _ in points)
            total = sum(pixels for *_, pixels in points) or 1
            width = 4 / max(1, len(self.curves))
            bars = [
                (100 * c - 2 + number * width, 100 * (1 - pixels / total), width, 100 * pixels / total)
                for c, _, pixels in points
            ]
            drawn.append((name, line, bars, number % 6))
        return drawn


@dataclass(frozen=True)
class ClassMap:
    """A picture of few colours, embedded without loss.

    Attributes:
        labels: uint8 (H, W).
        palette: uint8 (256, 3), RGB.
    """

    labels: np.ndarray
    palette: np.ndarray


@dataclass(frozen=True)
class LayeredFrame:
    """One frame of `Frames`.

    Attributes:
        caption: Above it.
        layers: A picture each: uint8 (H, W, 3) RGB, or a map; all of one shape.
    """

    caption: str
    layers: Sequence[np.ndarray | ClassMap]


@dataclass(frozen=True)
class Frames:
    """Frames whose layers can be compared with a slider; without a script they stand side by side.

    Attributes:
        names: Of the layers.
        frames: From top to bottom.
        left: Layer that is shown on the left of the slider at first.
        right: The same on the right.
        width: Wider pictures are scaled down to this many pixels.
        legend: (name, colour) of what the maps show.
    """

    kind: ClassVar[str] = "frames"
    names: Sequence[str]
    frames: Sequence[LayeredFrame]
    left: int
    right: int
    width: int = 960
    legend: Sequence[tuple[str, tuple[int, int, int]]] = ()


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
        plot: Whether they are dark lines on white, which a dark page shows the other way round.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[np.ndarray | Path]
    caption: str = ""
    titles: Sequence[str] = ()
    width: int = 640
    plot: bool = False


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

    def address(self) -> str:
        """The path as an address that stays beside the page, whatever letters it has."""
        return urllib.parse.quote(f"./{self.path}")


@dataclass(frozen=True)
class Listing:
    """A list of short texts.

    Attributes:
        items: The texts.
        warning: Whether they should be seen first.
    """

    kind: ClassVar[str] = "list"
    items: Sequence[str]
    warning: bool = False


Block = Text | Numbers | Table | Bars | Pictures | Clip | Matrix | Reliability | Frames | Listing


@dataclass(frozen=True)
class Section:
    """A heading and its content."""

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
    style, script = (_source(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    moving = any(
        isinstance(block, Frames) or (isinstance(block, Table) and block.sortable)
        for section in sections
        for block in section.blocks
    )
    template = environment.get_template("page.html")
    write_text(
        path,
        template.render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            style=style,
            script=script if moving else "",
            digest=digest,
        ),
    )


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8").strip()


def as_text(value: object) -> object:
    """What Jinja puts into a page, with control characters written out; markup is escaped by Jinja itself."""
    return shown_lines(value) if type(value) is str else value


def embed_picture(picture: np.ndarray | ClassMap | Path, width: int = 0) -> str:
    """A picture as a `data:` address.

    Args:
        picture: uint8 (H, W, 3) RGB or (H, W) grey, embedded as JPEG; a map, embedded as PNG; or a file,
            embedded as it is.
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
    elif isinstance(picture, ClassMap):
        import cv2
        from PIL import Image

        labels = picture.labels
        if width and labels.shape[1] > width:
            size = width, max(1, round(labels.shape[0] * width / labels.shape[1]))
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        paletted = Image.fromarray(labels, "P")
        paletted.putpalette(picture.palette.tobytes())
        buffer = io.BytesIO()
        paletted.save(buffer, "png", optimize=True)
        kind, data = "png", buffer.getvalue()
    else:
        import cv2

        pixels = picture[..., ::-1] if picture.ndim == 3 else picture  # OpenCV writes BGR
        if width and pixels.shape[1] > width:
            height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        kind = "jpeg"
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
