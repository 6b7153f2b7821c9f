"""For people: a contact sheet with the labels over the images, and a page with the class table."""

from __future__ import annotations

import concurrent.futures
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iccld_cli.data.prepared import DatasetInfo, Frame
from iccld_cli.files import atomic_path
from iccld_cli.imagefiles import PREVIEW_QUALITY
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.report import page

PREVIEW_NAME = "preview.jpg"
PAGE_NAME = "index.html"
_TILE_WIDTH = 320
_COLUMNS = 4
_MOST = 16
_MOST_AT_ONCE = 4  # decoded frames in memory
_IGNORED = 0.35

_MOST_LEFT_OUT = 200


def choose(count: int, most: int = _MOST) -> list[int]:
    """Positions of the frames to show, evenly spread.

    Args:
        count: Number of frames.
        most: Number of frames to show at most.
    """
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(min(most, count))})


def overlay(image: np.ndarray, label: np.ndarray, space: LabelSpace, weight: float = 0.55) -> np.ndarray:
    """Lay a label's colours over an image; ignored pixels are darkened.

    Args:
        image: uint8 (H, W, 3) RGB.
        label: uint8 (H, W) of trainIds.
        space: Colours of the classes.
        weight: Share of the label's colour, in [0, 1].

    Returns:
        uint8 (H, W, 3) RGB.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(space)] = space.colors
    mixed = cv2.addWeighted(palette[label], weight, image, 1 - weight, 0)
    ignored = label == IGNORE
    mixed[ignored] = (image[ignored] * _IGNORED).astype(np.uint8)
    return mixed


def write_preview(root: Path, frames: list[Frame], space: LabelSpace, threads: int = 1) -> None:
    """Write the contact sheet: each frame, and beside it the same with its label.

    Args:
        root: Folder of the data set.
        frames: Frames to show.
        space: Colours of the classes.
        threads: How many frames are read at once.
    """
    # As high as the middle frame's shape asks, so that frames of one camera have no bars beside them.
    shapes = sorted(frame.height / frame.width for frame in frames)
    size = (_TILE_WIDTH, round(_TILE_WIDTH * min(shapes[len(shapes) // 2], 1.0)))
    # Nothing else runs by now, and large frames take most of the time between the last one and the end.
    with concurrent.futures.ThreadPoolExecutor(min(threads, _MOST_AT_ONCE)) as pool:
        shown = pool.map(functools.partial(_tiles, root, size, space), frames)
        tiles = [tile for of_frame in shown for tile in of_frame]
    blank = np.full((size[1], size[0], 3), 255, np.uint8)
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    sheet = np.vstack([np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)])
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY]
    )
    assert done
    with atomic_path(root / PREVIEW_NAME) as temporary:
        temporary.write_bytes(data.tobytes())


def _tiles(root: Path, size: tuple[int, int], space: LabelSpace, frame: Frame) -> list[np.ndarray]:
    tile = _fit(cv2.imread(str(root / frame.image), cv2.IMREAD_COLOR_RGB), size, cv2.INTER_AREA)
    if frame.label is None:
        return [tile]
    label = cv2.imread(str(root / frame.label), cv2.IMREAD_UNCHANGED)
    return [tile, overlay(tile, _fit(label, size, cv2.INTER_NEAREST_EXACT, IGNORE), space)]


def _fit(pixels: np.ndarray, tile: tuple[int, int], how: int, border: int = 24) -> np.ndarray:
    """Scale into a tile (width, height), keeping the shape."""
    height, width = pixels.shape[:2]
    scale = min(tile[0] / width, tile[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=how)
    left, top = (tile[0] - size[0]) // 2, (tile[1] - size[1]) // 2
    sides = top, tile[1] - size[1] - top, left, tile[0] - size[0] - left
    return cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=[border] * 3)


def class_rows(info: DatasetInfo) -> list[dict[str, Any]]:
    """The class table of a data set.

    Returns:
        For each class that it knows or that occurs, and for "ignore": `name`, `id`, `color`, `pixels`, `share` of all
        labelled pixels in [0, 1], `frames` that show it. Empty without labels.
    """
    pixels, frames = info.extra.get("pixels"), info.extra.get("frames", {})
    if not pixels:
        return []
    total = sum(pixels.values())
    known = set(info.classes_known or ()) | set(pixels)
    names = [*(name for name in info.label_space.names if name in known), *(["ignore"] if "ignore" in pixels else [])]
    return [
        {
            "name": name,
            "id": IGNORE if name == "ignore" else info.label_space.id_of(name),
            "color": (0, 0, 0) if name == "ignore" else info.label_space.colors[info.label_space.id_of(name)],
            "pixels": pixels.get(name, 0),
            "share": pixels.get(name, 0) / total,
            "frames": frames.get(name, 0),
        }
        for name in names
    ]


def write_page(root: Path, info: DatasetInfo, warnings: list[str]) -> None:
    """Write the page that shows the contact sheet, the class table and what was left out."""
    size = f", {info.size[0]}×{info.size[1]}" if info.size else ""
    splits = ", ".join(f"{split} {number}" for split, number in info.splits.items())
    mean, deviation = (" ".join(f"{v:.3f}" for v in info.extra.get(key, ())) for key in ("mean", "std"))
    facts = {
        "frames": f"{sum(info.splits.values())}{size}: {splits}",
        "from": f"{info.source.get('adapter', '')}, {info.source.get('path', '')}",
        "mean and standard deviation of R, G, B": f"{mean}; {deviation}",
    }
    about: list[page.Block] = [page.Listing(warnings, warning=True)] if warnings else []
    sections = [
        page.Section("About", [page.Table(["", ""], [[k, v] for k, v in facts.items()]), *about]),
        page.Section("Frames", [page.Pictures([root / PREVIEW_NAME], "Frames, and their labels beside them", width=0)]),
        page.Section("Classes", [_class_table(info)]),
    ]
    if info.skipped:
        items = [f"{row.get('file', '')} {row.get('reason', '')}" for row in info.skipped[:_MOST_LEFT_OUT]]
        if len(info.skipped) > _MOST_LEFT_OUT:
            items.append(f"and {len(info.skipped) - _MOST_LEFT_OUT} more, see dataset.json")
        sections.append(page.Section("Left out", [page.Listing(items)]))
    page.write_page(root / PAGE_NAME, info.name, sections)


def _class_table(info: DatasetInfo) -> page.Block:
    classes = class_rows(info)
    if not classes:
        return page.Text("No labels.")
    rows = [
        [
            page.Cell(row["name"], color=row["color"]),
            page.Cell(str(row["id"]), row["id"]),
            page.Cell(f"{100 * row['share']:.3f} %", row["share"], fraction=row["share"]),
            page.Cell(f"{row['frames']}", row["frames"]),
        ]
        for row in classes
    ]
    return page.Table(["class", "trainId", "share", "frames"], rows, sortable=True)
