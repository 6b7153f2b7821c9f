"""Label maps of one's own: a TOML file from ids or colours to class names.

unknown = "error"          # or "ignore": what to do with ids the map lacks
channel = 0                # which channel holds the ids, 0 = red or grey

[ids]                      # or [colors] with keys such as "128,64,128" or "#804080"
7 = "road"
255 = "ignore"

[names]                    # of shapes drawn with an annotation tool; without it they are the classes' own
lorry = "truck"
line_width = 5             # pixels, before any table; point_size too

[covers]                   # classes that a coarser one takes in here: as a target, source trucks count as cars
truck = "car"

[label_space]              # only for classes of one's own; without it they are those of Cityscapes
name = "harbour"
classes = [{ name = "quay", color = [128, 64, 128] }, { name = "crane", color = [70, 70, 70] }]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.reading import ReadError, read_toml

if TYPE_CHECKING:
    import numpy as np

_KEYS = ("unknown", "channel", "ids", "colors", "names", "line_width", "point_size", "covers", "label_space")
_WIDEST = 200


@dataclass(frozen=True)
class LabelMap:
    """From what a label file holds to trainIds.

    Attributes:
        space: Label space of the names.
        ids: Raw id in [0, 255] -> class name, None = ignore; None where `colors` or `by_name` alone are given.
        colors: (R, G, B) -> class name, None = ignore; None where `ids` are given.
        channel: Channel that holds the ids.
        strict: Whether an id or colour that the map lacks makes the frame a bad one.
        covers: Class name -> the class of the map that its pixels carry.
        by_name: Label of a drawn shape -> class name, None = ignore; None for the names of the classes themselves.
        line_width: Pixels that a drawn line is wide.
        point_size: Pixels that a drawn point is wide.
    """

    space: LabelSpace
    ids: Mapping[int, str | None] | None
    colors: Mapping[tuple[int, int, int], str | None] | None = None
    channel: int = 0
    strict: bool = True
    covers: Mapping[str, str] = field(default_factory=dict)
    by_name: Mapping[str, str | None] | None = None
    line_width: int = 5
    point_size: int = 5

    def names(self) -> tuple[str, ...]:
        """Classes that the map names, in the order of the label space."""
        tables: tuple[Mapping[Any, str | None], ...] = (self.ids or {}, self.colors or {}, self.by_name or {})
        named = {name for table in tables for name in table.values()}
        return tuple(name for name in self.space.names if name in named)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode and map a label file.

        Returns:
            uint8 (H, W) of trainIds.

        Raises:
            IccldError: Damaged, or it holds what the map lacks.
        """
        import numpy as np

        from iccld_cli.data.labelfiles import decode_channels, map_colors, map_ids

        raw = decode_channels(data)
        if self.ids is None and self.colors is None:
            raise IccldError("is a picture, and the label map has [names] alone")
        if self.ids is None:
            return map_colors(raw, self.colors or {}, self.space, self.strict)
        if self.channel >= raw.shape[2]:
            raise IccldError(f"has {raw.shape[2]} channels, the label map wants channel {self.channel}")
        values = raw[..., self.channel]
        if not self.strict:
            known = np.isin(values, list(self.ids))
            spare = next((i for i, name in self.ids.items() if name is None), None)
            if spare is None:
                spare = next(i for i in range(257) if i not in self.ids)
            if spare > 255:
                raise IccldError("the label map names all 256 ids, so none can be unknown")
            values = np.where(known, values, spare).astype(np.uint8)
            return map_ids(values, {**self.ids, spare: None}, self.space)
        return map_ids(values, self.ids, self.space)


def read_label_map(path: Path) -> LabelMap:
    """Read a label map.

    Args:
        path: The TOML file.

    Raises:
        IccldError: Missing, not TOML, an unknown key, an unknown class, or an id or colour out of range.
    """
    try:
        raw = read_toml(path)
    except ReadError as error:
        if error.message == "is missing":
            raise IccldError(f"no label map at {path}", "check the path") from None
        raise IccldError(f"label map {path} {error.message}", "see docs/data.md for an example") from None
    try:
        return parse_label_map(raw)
    except IccldError as error:
        raise IccldError(f"{path}: {error.message}", error.hint or "see docs/data.md for an example") from None


def parse_label_map(raw: Mapping[str, Any]) -> LabelMap:
    """Read the content of a label map.

    Raises:
        IccldError: See `read_label_map`.
    """
    for key in raw:
        if key not in _KEYS:
            raise IccldError(f"unknown key {key!r}", did_you_mean(key, _KEYS))
    if ("ids" in raw and "colors" in raw) or not {"ids", "colors", "names"} & raw.keys():
        raise IccldError("needs either [ids] or [colors], or [names]", "see docs/data.md for an example")
    unknown, channel = raw.get("unknown", "error"), raw.get("channel", 0)
    for key in ("ids", "colors", "names", "covers", "label_space"):
        if not isinstance(raw.get(key, {}), Mapping):
            raise IccldError(f"{key} = {str(raw[key])[:60]} is no table", f"write [{key}] and a line for each entry")
    if unknown not in ("error", "ignore"):
        raise IccldError(f"unknown = {unknown!r} is not possible", "write error or ignore")
    if isinstance(channel, bool) or not isinstance(channel, int) or channel not in (0, 1, 2, 3):
        raise IccldError(f"channel = {channel!r} is not possible", "write 0, 1, 2 or 3")
    space = LabelSpace.from_json(raw["label_space"]) if "label_space" in raw else CITYSCAPES
    if "ids" in raw:
        ids = {_parse_id(key): _class(name, space) for key, name in raw["ids"].items()}
        table = LabelMap(space, ids, channel=channel, strict=unknown == "error")
    elif "colors" in raw:
        colors = {_parse_color(key): _class(name, space) for key, name in raw["colors"].items()}
        table = LabelMap(space, None, colors, strict=unknown == "error")
    else:
        table = LabelMap(space, None, strict=unknown == "error")
    if "names" in raw:
        table = replace(table, by_name={text: _class(name, space) for text, name in raw["names"].items()})
    for key in ("line_width", "point_size"):
        _check_width(key, raw.get(key, 1))
    widths = raw.get("line_width", table.line_width), raw.get("point_size", table.point_size)
    table = replace(table, line_width=widths[0], point_size=widths[1])
    return replace(table, covers=_covers(raw.get("covers", {}), table))


def _covers(raw: Mapping[str, Any], table: LabelMap) -> dict[str, str]:
    named = table.names()
    for fine, coarse in raw.items():
        table.space.id_of(fine)
        if not isinstance(coarse, str):
            raise IccldError(f"[covers] {fine} = {str(coarse)[:60]} is no class", "write its name in quotes")
        if coarse not in named:
            raise IccldError(f"[covers] {fine} = {coarse!r} is no class of this map", did_you_mean(str(coarse), named))
        if fine in named:
            raise IccldError(f"[covers] {fine!r} is a class of this map itself", "only classes it lacks can be covered")
    return dict(raw)


def _class(name: Any, space: LabelSpace) -> str | None:
    if name == "ignore":
        return None
    if not isinstance(name, str):
        raise IccldError(f"{str(name)[:60]} is no class", "write a class's name in quotes, or 'ignore'")
    space.id_of(name)
    return name


def _check_width(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _WIDEST:
        raise IccldError(f"{key} = {str(value)[:40]} is not possible", f"write pixels from 1 to {_WIDEST}")


def _parse_id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > 255:
        raise IccldError(f"{text!r} is no id", "ids are 0 to 255")
    return int(text)


def _parse_color(text: str) -> tuple[int, int, int]:
    if found := re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip()):
        return int(found[1], 16), int(found[2], 16), int(found[3], 16)
    if found := re.fullmatch(r"([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})", text.strip()):
        red, green, blue = (int(part) for part in found.groups())
        if max(red, green, blue) <= 255:
            return red, green, blue
    raise IccldError(f"{text!r} is no colour", "write it as '128,64,128' or '#804080'")
