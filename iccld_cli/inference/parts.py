"""One part of the predictions for a list of inputs: `iccld predict --part I/N`.

    OUT/parts/inputs.jsonl               a line about the list, then all inputs in order, and which parts each has
    OUT/parts/I-of-N/part.json           what the part was made with, and whether it is done
    OUT/parts/I-of-N/problems.jsonl      what was wrong with its inputs
    OUT/parts/I-of-N/<kind>/<name>       its results, as a run writes them; of a cut video its stretch alone
    OUT/parts/I-of-N/videos/             facts about each video, which joining needs
    OUT/parts/I-of-N/lines/              what each input adds to the files about all frames
    OUT/parts/I-of-N/.predict/           the journal, until the part is done

Inputs go to parts in order, and long videos are cut where the running mean of steady video begins anew anyway, at
multiples of `GRID` frames. A single run breaks the batches of videos and begins its encoders anew at the same places,
so that parts give the same results, see `inference.merge`. Images of one run fill whole batches; they are those of
the parts where the batch size divides `IMAGES` and `WARM_UP` and images have one size. With others, a network's last
digits may differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json, write_text
from iccld_cli.header import ModelHeader
from iccld_cli.inference.inputs import Input
from iccld_cli.inference.predict_options import PredictOptions, Summary
from iccld_cli.inference.smooth import GRID
from iccld_cli.inference.spans import Span
from iccld_cli.inference.video import VideoReader
from iccld_cli.names import shown
from iccld_cli.parts import FOLDER, Part, begun, differences, shares
from iccld_cli.plainjson import parse_json

FORMAT = 1
HEAD, INPUTS, PROBLEMS = "part.json", "inputs.jsonl", "problems.jsonl"
VIDEOS, LINES = "videos", "lines"

IMAGES = 16
"""Images go to parts in groups of as many, within which a part's batches stay."""

_LONG = 16
"""A video is cut where it is larger than this fraction of a part's share of the bytes."""

_BYTES = 12_000
"""Bytes that a frame of a video takes, about; only the balance of the parts depends on it."""


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video, or of a stretch of it, when it was predicted.

    Attributes:
        found: Frames that were segmented.
        decoded: Frames that could be decoded, of all.
        announced: Frames that the file claims to hold.
        missing: Whether some were lost.
        complete: Whether the video was read as far as it was asked for, and not up to its end.
        ticks: When the first frame is shown, after the first of the whole video's result, in units of `joining.BASE`.
    """

    found: int
    decoded: int
    announced: int
    missing: bool
    complete: bool
    ticks: int = 0

    def to_json(self) -> str:
        """As a file's text."""
        return json.dumps(self.__dict__)

    @classmethod
    def read(cls, path: Path, folder: Path) -> VideoFacts:
        """Read a file with the text.

        Args:
            path: The file.
            folder: The part's.

        Raises:
            IccldError: It is missing or damaged.
        """
        raw = _read_json(path, folder)
        try:
            numbers = {name: int(raw[name]) for name in ("found", "decoded", "announced", "ticks")}
            return cls(**numbers, missing=raw["missing"] is True, complete=raw["complete"] is True)
        except (KeyError, TypeError, ValueError):
            raise _damaged(path, folder) from None

    @classmethod
    def joined(cls, facts: Sequence[VideoFacts]) -> VideoFacts:
        """Of stretches, in order, as of the whole video."""
        return cls(
            sum(one.found for one in facts),
            sum(one.decoded for one in facts),
            max(one.announced for one in facts),
            any(one.missing for one in facts),
            facts[-1].complete,
        )

    def problem(self, where: str, described: str, narrowed: bool) -> IccldError | None:
        """What to say of the video.

        Args:
            where: Its name.
            described: Where its first result lies.
            narrowed: Whether a part of its frames alone was asked for.
        """
        if self.missing and not self.complete:
            of = f" of {self.announced}" if self.announced > self.decoded else ""
            if not self.decoded:
                return IccldError(f"no frame{of} in {where} could be decoded", "the file is damaged")
            return IccldError(
                f"{where} is damaged or cut off, {self.decoded}{of} frames could be decoded",
                f"{described} holds those",
            )
        if self.found:
            return None
        if narrowed:
            return IccldError(f"{where} has no frame between --start and --end", "give other times")
        return IccldError(f"{where} holds no frame", "play it to check")


@dataclass(frozen=True)
class Plan:
    """Which inputs go to which parts.

    Attributes:
        inputs: All of them, in order.
        parts: The first and the last part that have to do with each.
        mine: Positions of the inputs of the part.
        spans: Of the videos that are cut, the part's own stretch, by position.
        pieces: In how many pieces all inputs were cut.
        cut: How all inputs are shared.
    """

    inputs: tuple[Input, ...]
    parts: tuple[tuple[int, int], ...]
    mine: range
    spans: Mapping[int, Span]
    pieces: int
    cut: Cut

    def lines(self) -> str:
        """`inputs.jsonl`: which inputs these are, then a line for each."""
        rows = [self._first_line()]
        for item, size, parts in zip(self.inputs, self.cut.sizes, self.parts, strict=True):
            row = {
                "name": item.name.as_posix(),
                "path": str(item.path),
                "where": item.where,
                "video": item.is_video,
                "bytes": size,
                "parts": list(parts),
            }
            rows.append(json.dumps(row) + "\n")
        return "".join(rows)

    def told(self, path: Path) -> bool:
        """Whether a file is `inputs.jsonl` of these inputs."""
        try:
            with open(path, encoding="utf-8") as file:
                return file.readline() == self._first_line()
        except (OSError, ValueError):
            return False

    def _first_line(self) -> str:
        return json.dumps({"inputs": self.digest(), "count": len(self.inputs)}) + "\n"

    def digest(self) -> str:
        """See `Cut.digest`."""
        return self.cut.digest


@dataclass(frozen=True)
class Cut:
    """How inputs are shared among all parts; made in one place, it holds on every machine.

    Attributes:
        inputs: All of them, in order.
        sizes: Bytes of each.
        parts: The first and the last part that have to do with each.
        spans: Part by part, the stretches of the videos that are cut, by the position of the input.
        pieces: In how many pieces all inputs were cut.
        weights: Part by part about how many images and frames it has.
        digest: sha256 of what makes parts fit together: names and sizes of the inputs in order, and how they are
            shared.
    """

    inputs: tuple[Input, ...]
    sizes: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]
    spans: tuple[Mapping[int, Span], ...]
    pieces: int
    weights: tuple[int, ...]
    digest: str

    def of(self, part: Part) -> Plan:
        """What one part has to do."""
        mine = [position for position, (a, b) in enumerate(self.parts) if a <= part.number <= b]
        which = range(mine[0], mine[-1] + 1) if mine else range(0)
        return Plan(self.inputs, self.parts, which, self.spans[part.number - 1], self.pieces, self)


def cut(inputs: Sequence[Input], options: PredictOptions, count: int) -> Cut:
    """Share inputs among parts.

    Args:
        inputs: All inputs, images first.
        options: What is predicted of them.
        count: How many parts.
    """
    pieces: list[tuple[int, Span | None]] = []
    weights: list[int] = []
    sizes = [_size(item) for item in inputs]
    videos = sum(size for item, size in zip(inputs, sizes, strict=True) if item.is_video)
    images = 0
    for position, (item, size) in enumerate(zip(inputs, sizes, strict=True)):
        if not item.is_video:
            if images % IMAGES == 0:
                pieces.append((position, None))
                weights.append(0)
            images += 1
            weights[-1] += 1
            continue
        long = (item.source is None or item.stored) and options.limit is None and size * count * _LONG > videos
        spans = _spans(item, options) if long else []
        if len(spans) > 1:
            pieces += [(position, span) for span in spans]
            weights += [GRID] * len(spans)
        else:
            pieces.append((position, None))
            weights.append(max(1, size // _BYTES // options.every))
    found = shares(weights, count)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    own: list[dict[int, Span]] = []
    for number, share in enumerate(found, 1):
        mine: dict[int, Span] = {}
        for piece in share:
            position, stretch = pieces[piece]
            first.setdefault(position, number)
            last[position] = number
            if stretch is not None:
                mine[position] = Span(mine[position].first, stretch.last) if position in mine else stretch
        own.append({position: span for position, span in mine.items() if span != Span()})
    parts, now = [], (1, 1)
    for position in range(len(inputs)):
        now = (first[position], last[position]) if position in first else now  # an image stays with its group
        parts.append(now)
    total = hashlib.sha256()
    for item, size, mine_of in zip(inputs, sizes, parts, strict=True):
        row = [item.name.as_posix(), item.is_video, size, item.identity, list(item.stamp), *mine_of]
        total.update(json.dumps(row).encode() + b"\n")
    return Cut(
        tuple(inputs),
        tuple(sizes),
        tuple(parts),
        tuple(own),
        len(pieces),
        tuple(sum(weights[piece] for piece in share) for share in found),
        total.hexdigest(),
    )


def _spans(item: Input, options: PredictOptions) -> list[Span]:
    """A video cut at every `GRID`th frame that is segmented, as far as its header tells; the ends are open."""
    try:
        with contextlib.ExitStack() as held:
            file = held.enter_context(storage.opened(str(item.source))) if item.stored else None
            reader = held.enter_context(VideoReader(item.path, file))
            announced, fps = reader.announced, reader.fps
    except IccldError:
        return []
    begin = 0 if options.start is None else int(options.start * fps)
    end = announced if options.end is None else min(announced, int(options.end * fps))
    step = GRID * options.every
    borders = range((begin // step + 1) * step, end, step)
    edges = [None, *borders, None]
    return [Span(a, b) for a, b in itertools.pairwise(edges)]


class PartRun:
    """One part on disk, for `predict`.

    Attributes:
        part: Which.
        plan: What it has to do.
        folder: Where its results go.
        out: Where the joined results will go.
    """

    def __init__(self, part: Part, plan: Plan, options: PredictOptions) -> None:
        """Nothing is written yet.

        Args:
            part: Which part.
            plan: Its plan.
            options: As of a single run.
        """
        self.part, self.plan, self.out = part, plan, options.out
        self.final = options
        self.folder = options.out / FOLDER / part.name
        self.places = {item: position for position, item in enumerate(plan.inputs)}
        self._head: dict[str, Any] = {}

    @property
    def items(self) -> list[Input]:
        """The part's inputs."""
        return [self.plan.inputs[position] for position in self.plan.mine]

    def span(self, item: Input) -> Span | None:
        """The part's stretch of a video; None for all of it."""
        return self.plan.spans.get(self.places[item])

    def facts_path(self, item: Input) -> Path:
        """Where the facts about a video lie."""
        return facts_path(self.folder, item.name.as_posix())

    def lines_path(self, item: Input) -> Path:
        """Where an input's lines for the files about all frames lie."""
        return lines_path(self.folder, item.name.as_posix())

    def finished(self, settings: Mapping[str, Any]) -> Summary | None:
        """What the part found, where an earlier run of the same finished it.

        Raises:
            IccldError: Other parts lie there.
        """
        self._head = {
            "format": FORMAT,
            "part": [self.part.number, self.part.of],
            "inputs": self.plan.digest(),
            "settings": json.loads(json.dumps(settings)),
        }
        for folder in part_folders(self.out):
            compare(read_head(folder), self._head, folder)
        found = read_head(self.folder) if (self.folder / HEAD).exists() else None
        if found is None or not found["done"]:
            return None
        self._tell_inputs()
        problems = tuple((where, problem) for _, where, problem in read_problems(self.folder))
        return Summary(0, 0, found["skipped"], problems, len(self.plan.mine) - found["skipped"])

    def begin(self, header: ModelHeader) -> None:
        """Say what the part is made with."""
        self._head["header"] = header.to_json()
        self._tell_inputs()
        write_json(self.folder / HEAD, {**self._head, "done": False})

    def _tell_inputs(self) -> None:
        """Write which inputs there are; a list of others is left from parts that were removed."""
        if not self.plan.told(self.out / FOLDER / INPUTS):
            write_text(self.out / FOLDER / INPUTS, self.plan.lines())

    def end(self, problems: Sequence[tuple[Input, IccldError]], skipped: int) -> None:
        """Say that the part is done.

        Args:
            problems: Inputs, each with what was wrong with it.
            skipped: Inputs left out because their results exist.
        """
        rows = [
            [self.places[item], shown(item.where), shown(problem.message), problem.hint and shown(problem.hint)]
            for item, problem in sorted(problems, key=lambda found: self.places[found[0]])
        ]
        write_text(self.folder / PROBLEMS, "".join(json.dumps(row) + "\n" for row in rows))
        write_json(self.folder / HEAD, {**self._head, "done": True, "skipped": skipped})


def facts_path(folder: Path, name: str) -> Path:
    """Where a part keeps the facts about the video of a name."""
    return folder / VIDEOS / f"{_short(name)}.json"


def lines_path(folder: Path, name: str) -> Path:
    """Where a part keeps the lines of the input of a name."""
    return folder / LINES / f"{_short(name)}.jsonl"


def _short(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def part_folders(out: Path) -> list[Path]:
    """Folders of the parts below an output folder that have begun, by number."""
    return begun(out / FOLDER, HEAD)


def read_head(folder: Path) -> dict[str, Any]:
    """What a part says about itself.

    Raises:
        IccldError: It cannot be read.
    """
    raw = _read_json(folder / HEAD, folder)
    try:
        if raw["format"] != FORMAT:
            raise IccldError(f"{folder} was made by another version of iccld", "make it again with this one")
        number, of = raw["part"]
        good = (
            Part(number, of) == Part.named(folder)
            and isinstance(raw["settings"], dict)
            and isinstance(raw["inputs"], str)
            and isinstance(raw["done"], bool)
        )
        if not good or (raw["done"] and type(raw["skipped"]) is not int):
            raise ValueError
        return raw
    except (KeyError, TypeError, ValueError):
        raise _damaged(folder / HEAD, folder) from None


def compare(one: Mapping[str, Any], other: Mapping[str, Any], folder: Path) -> None:
    """Refuse parts that do not belong together.

    Args:
        one: What the part in `folder` says about itself.
        other: The same of another part.
        folder: For the message.

    Raises:
        IccldError: They were made of other inputs or with other settings.
    """
    differs = []
    if one["part"][1] != other["part"][1]:
        differs.append(f"one of {one['part'][1]} parts, not of {other['part'][1]}")
    differs += differences(one["settings"], other["settings"])
    if not differs and one["inputs"] != other["inputs"]:
        differs.append("of other inputs")
    if differs:
        raise IccldError(
            f"{folder} is another run's part ({'; '.join(differs)})",
            "make all parts with the same command and version, give another --out, or remove that folder",
        )


def read_problems(folder: Path) -> list[tuple[int, str, IccldError]]:
    """What was wrong with inputs of a part: position, name, problem.

    Raises:
        IccldError: The file is missing or damaged.
    """
    path = folder / PROBLEMS
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            position, where, message, hint = json.loads(line)
            found.append((int(position), str(where), IccldError(str(message), None if hint is None else str(hint))))
    except FileNotFoundError:
        raise IccldError(f"{path} is missing", again(folder)) from None
    except (OSError, ValueError, TypeError):
        raise _damaged(path, folder) from None
    return found


def _size(item: Input) -> int:
    if item.source is not None:
        return item.stamp[0] if item.stored else 0
    try:
        return item.path.stat().st_size
    except OSError:
        return 0


def _read_json(path: Path, folder: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise IccldError(f"{path} is missing", again(folder)) from None
    except (OSError, ValueError):
        raise _damaged(path, folder) from None


def _damaged(path: Path, folder: Path) -> IccldError:
    return IccldError(f"{path} is damaged", again(folder))


def again(folder: Path) -> str:
    """How to mend a part: as long as it says that it is done, nothing of it is made again."""
    return f"remove {folder} and run that part again"
