"""Which frames of the footage are most worth labelling, and their pictures for an annotation tool.

    OUT/to_label/001-NAME.png ...   the frames, the first one first, byte for byte as they were trained on
    OUT/to_label/labels.txt         the model's classes, for `labelme --labels`
    OUT/to_label.jsonl              a line a frame: what the model says of it, as `predict --to-label` writes it

What a person has drawn beside the pictures stays: a frame that is there is not written again, and nothing is removed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.data.spread import evenly
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_text
from iccld_cli.footage.options import FootageOptions
from iccld_cli.header import read_header
from iccld_cli.inference.collected import TO_LABEL_NAME
from iccld_cli.inference.facts import facts_of, label_row, most_worth_labelling, named_shares, share_rows
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.labels import IGNORE
from iccld_cli.names import json_safe
from iccld_cli.reading import ReadError, parse_json, read_text
from iccld_cli.report import page

FOLDER = "to_label"
LABELS_NAME = "labels.txt"
LOOKED_AT = 200
"""Frames that are looked at, over all of the footage."""

_ROW = 5
_LONGEST_NAME = 40  # letters, which may be four bytes each
_LONGEST_LIST = 16 << 20


def list_worth(
    options: FootageOptions, model_path: Path, targets: Sequence[PreparedDataset], console: Console
) -> list[dict[str, Any]]:
    """Write the list and the pictures, or read the list where it is there.

    Frames that a set of `options.labelled` holds, byte for byte, are not listed again.

    Args:
        options: Of the run; `to_label` frames are listed.
        model_path: The model that was kept.
        targets: The footage's frames.
        console: Where messages go.

    Returns:
        The lines of `to_label.jsonl`.

    Raises:
        IccldError: A frame cannot be read, or the list is damaged.
    """
    listed = options.out / TO_LABEL_NAME
    if listed.exists():
        return _read(listed)
    if not options.to_label:
        return []
    pairs = _unlabelled(options, targets)
    told = _told(options, model_path, pairs)
    if not told:
        return []
    header = read_header(model_path)
    space = header.label_space
    shares = share_rows([one["classes"] for one in told], space)
    unsure = np.array([one["uncertainty"] for one in told], np.float32)
    rows = []
    for rank, (number, distance) in enumerate(most_worth_labelling(shares, unsure, options.to_label), 1):
        target, frame = pairs[number]
        source = target.root / frame.image
        name = f"{rank:03d}-{source.stem[:_LONGEST_NAME]}{source.suffix}"
        path = options.out / FOLDER / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(source.read_bytes())
        rows.append(label_row(rank, told[number], distance, f"{FOLDER}/{name}"))
    names = [*space.names_of(header.classes), "ignore"]
    write_text(options.out / FOLDER / LABELS_NAME, "".join(f"{name}\n" for name in names))
    write_text(listed, "".join(json_safe(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))
    console.print(f"{len(rows)} frames most worth labelling: {listed}", soft_wrap=True, markup=False)
    return rows


def _unlabelled(options: FootageOptions, targets: Sequence[PreparedDataset]) -> list[tuple[PreparedDataset, Frame]]:
    """Frames that nobody has labelled yet, spread over all of the footage."""
    known = {
        frame.image_sha256
        for path in options.labelled
        for frame in PreparedDataset(path).iter_frames()
        if frame.label is not None and frame.image_sha256 is not None
    }
    pairs = [(target, frame) for target in targets for frame in target.frames("train")]
    return evenly([pair for pair in pairs if pair[1].image_sha256 not in known], LOOKED_AT)


def _told(
    options: FootageOptions, model_path: Path, pairs: Sequence[tuple[PreparedDataset, Frame]]
) -> list[dict[str, Any]]:
    """What the model says of each frame, in the words of `frames.jsonl`."""
    model = load_model(model_path, options.device, backend="auto")
    sampling, space, found = model.settle(Sampling()), model.header.label_space, []
    for target, frame in pairs:
        image = target.read_image(frame)
        answer = model.segment(image[None], ("confidence", "uncertainty"), sampling=sampling)
        region = target.ignored(frame)
        if region is not None:
            answer = replace(answer, labels=np.where(region[None], np.uint8(IGNORE), answer.labels))
        facts = facts_of(image, answer, 0)
        found.append(
            {
                "input": str((target.root / frame.image).absolute()),
                "frame": None,
                "time": None,
                "uncertainty": facts.uncertainty,
                "confidence": facts.confidence,
                "classes": named_shares(facts, space),
            }
        )
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    hint = "remove it, and the same command makes it again"
    try:
        rows = [parse_json(line) for line in read_text(path, _LONGEST_LIST).splitlines()]
    except ReadError as error:
        raise IccldError(f"{path} {error.message}", hint) from None
    if not all(_is_row(row) for row in rows):
        raise IccldError(f"{path} is damaged", hint)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        return False
    folder, _, name = row["image"].partition("/")  # a picture of another place is none of this list
    inside = folder == FOLDER and name not in ("", "..") and "/" not in name and "\\" not in name
    return inside and isinstance(row.get("uncertainty"), int | float)


def section(options: FootageOptions, rows: Sequence[Mapping[str, Any]]) -> page.Section:
    """The frames with their pictures, and how to go on, for the page."""
    from iccld_cli.data.checks import decode_image
    from iccld_cli.reading import read_bytes

    blocks: list[page.Block] = [page.Text(_WHY)]
    shown = [row for row in rows if (options.out / row["image"]).is_file()]
    count = -(-len(shown) // _ROW)  # rows, as equally long as can be: their pictures fill the page's width
    for number in range(count):
        part = shown[number * len(shown) // count : (number + 1) * len(shown) // count]
        pictures = [decode_image(read_bytes(options.out / row["image"])).pixels for row in part]
        titles = [f"{row['image'].rpartition('/')[2]}, {100 * row['uncertainty']:.0f} % unsure" for row in part]
        blocks.append(page.Pictures(pictures, titles=titles, width=320))
    folder, data = options.out / FOLDER, options.out / "labels"
    more: list[Path | str] = [] if options.ckpt is None else ["--ckpt", options.ckpt]
    more += [] if options.val is None else ["--val", options.val]
    more += [] if options.ignore is None else ["--ignore-mask", options.ignore]
    usual = FootageOptions(options.footage, options.out)
    for name in ("minutes", "iterations", "seed", "device"):
        value = getattr(options, name)
        more += [] if value == getattr(usual, name) else [f"--{name}", str(value)]
    more += ["--stage-2"] if options.stage2 else []
    more += [] if options.answers else ["--no-answers"]
    more += ["--predict"] if options.predict else []
    more += [part for path in (*options.labelled, data / "few") for part in ("--labelled", path)]
    commands: list[list[Path | str]] = [
        ["labelme", folder, "--labels", folder / LABELS_NAME, "--nodata"],
        ["iccld", "prepare", "--images", folder, "--masks", folder, "--name", "few", "--out", data],
        ["iccld", "adapt", *options.footage, "--out", f"{options.out}-labelled", *more],
    ]
    blocks += [
        page.Text("To go on: draw points, lines or areas of what you are sure of, on as many of them as you like."),
        page.Listing([shlex.join(map(str, command)) for command in commands]),
    ]
    return page.Section("Frames most worth labelling", blocks)


_WHY = (
    "The frames that the model is unsure of and that are unlike one another, the first one first. A few labels of this "
    "road, even points, tell the model what its own answers cannot."
)
