"""Option types that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from iccld_cli.cli.helptext import dress, epilog
from iccld_cli.errors import IccldError
from iccld_cli.parts import MOST, Part
from iccld_cli.reading import kind_problem
from iccld_cli.storage import shown_address, url_of

if TYPE_CHECKING:
    from iccld_cli.fleet.work import Fleet

MAX_SIDE = 16384
"""Pixels of a side, the most that H.264 takes."""

MAX_PIXELS = 100_000_000
"""Pixels of an image or a crop, the most that an input may have."""

MAX_SAMPLES = 1000
"""Noise seeds; the average hardly moves after a few dozen."""

MAX_WORKERS = 1024
"""Processes."""


class Command(TyperCommand):
    """A command that takes no empty value: `--out ""`, as of an unset variable, would mean the current folder."""

    def __init__(self, name: str | None, **given: Any) -> None:
        """See `typer`; options get their groups, type names and completion, the page an example."""
        given.setdefault("params", None)
        dress(name or "", given["params"] or [])
        given["epilog"] = given.get("epilog") or epilog(name or "")
        super().__init__(name, **given)

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`, without a type."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.metavar = " "
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            typer.BadParameter: A value is empty.
        """
        for before, word in zip(["", *args], args, strict=False):
            if word == "" or (word.startswith("--") and word.endswith("=")):
                name = word.rstrip("=") or (before if before.startswith("-") else "an argument")
                raise typer.BadParameter(f"the value of {name} is empty")
        return super().parse_args(ctx, args)


Scales = Annotated[
    str, typer.Option(metavar="S,S", help="Sizes the network sees, as factors such as 1,0.75,1.5: 1 answers.")
]
Height = Annotated[
    str | None,
    typer.Option(
        metavar="ROWS",
        help="Height the network works at, or `own` for the frame's (default: as trained); results keep their size.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What runs a .safetensors file: auto (the fastest), torch, compiled (by torch), openvino.",
    ),
]
IgnoreMask = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|auto",
        help="What is not the scene (bonnet, time stamp): a picture, white there, or found as what never moves.",
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Ask the mirrored image as well how sure the answer is.")]
Average = Annotated[
    bool, typer.Option("--average", help="Answer with the mean of all scales, the mirrored image and samples.")
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part", metavar="I/N", help="Do only part I of N, for --merge to join: one command for each of N machines."
    ),
]
Merge = Annotated[bool, typer.Option("--merge", help="Join the parts, and say which are missing.")]
Engine = Annotated[
    str,
    typer.Option(metavar="NAME", help="local, or ray: in parts on the machines of a Ray cluster, joined at the end."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine ray: head of the cluster, or auto (default: $RAY_ADDRESS, or this machine).",
    ),
]
Parts = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST, metavar="N", help="With --engine ray: number of parts (default: 8 a worker, of prepare 2)."
    ),
]
WorkerCpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --engine ray: processors of a worker (default: a node's, or a GPU's share).",
    ),
]


def parse_fleet(
    engine: str, address: str | None, parts: int | None, cpus: int | None, alone: Mapping[str, bool]
) -> Fleet | None:
    """Read `--engine` and what goes with it.

    Args:
        engine: As given.
        address: As given.
        parts: As given.
        cpus: As given.
        alone: Option -> whether it is given, of those that go with a single machine.

    Returns:
        None for the local engine.

    Raises:
        typer.BadParameter: There is no such engine, or options do not go together.
    """
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"{engine!r}: write local or ray", param_hint="--engine")
    if engine == "local":
        for option, value in (("--ray-address", address), ("--parts", parts), ("--worker-cpus", cpus)):
            if value is not None:
                raise typer.BadParameter("goes with --engine ray", param_hint=option)
        return None
    for option, given in alone.items():
        if given:
            raise typer.BadParameter("cannot go with --engine ray, which makes all parts", param_hint=option)
    from iccld_cli.fleet.work import Fleet

    return Fleet(address, parts, cpus)


def parse_part(text: str | None, merge: bool) -> Part | None:
    """Read `--part I/N`.

    Raises:
        typer.BadParameter: It is no part, or `--merge` is given as well.
    """
    if text is None:
        return None
    if merge:
        raise typer.BadParameter("--merge joins parts that are done; leave --part out", param_hint="--part")
    try:
        return Part.parse(text)
    except IccldError as error:
        raise typer.BadParameter(str(error), param_hint="--part") from None


def refuse_stored(given: Mapping[str, Path | None]) -> None:
    """Refuse addresses in object storage, which one machine alone does not take.

    Args:
        given: Option to its value.

    Raises:
        IccldError: One is such an address.
    """
    for option, path in given.items():
        if (url := url_of(path)) is not None:
            raise IccldError(
                f"{option} {shown_address(url)} lies in object storage", "give a local path, or --engine ray as well"
            )


def refuse_idle(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that were given and would do nothing.

    Args:
        ctx: Of the command.
        names: Names of their parameters.
        why: What to say of them, after "does nothing".

    Raises:
        typer.BadParameter: One or more of them were given.
    """
    found = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name in names and getattr(ctx.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
    ]
    if found:
        raise typer.BadParameter(f"{', '.join(found)} would do nothing {why}")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read `WxH`, such as `512x256`.

    Returns:
        (width, height) in pixels, or None for None.

    Raises:
        typer.BadParameter: The text is not of that form, or larger than any image that is read.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if not found or not all(n.strip("0") for n in found.groups()):
        raise typer.BadParameter(f"{text!r} is not a size; write width x height, such as 512x256")
    if any(len(n) > 6 or int(n) > MAX_SIDE for n in found.groups()) or int(found[1]) * int(found[2]) > MAX_PIXELS:
        raise typer.BadParameter(
            f"{text!r} is too large: at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 1_000_000} million in all"
        )
    return int(found[1]), int(found[2])


def parse_height(text: str | None) -> int | None:
    """Read rows, or `own`.

    Returns:
        Rows; 0 for `own`, None for None.

    Raises:
        typer.BadParameter: It is neither, or no possible height.
    """
    if text is None or text in ("own", "0"):
        return None if text is None else 0
    if not text.isdecimal() or not 32 <= int(text[:6]) <= MAX_SIDE:
        raise typer.BadParameter(f"{text!r}: write rows from 32 to {MAX_SIDE}, or own", param_hint="--height")
    return int(text)


def parse_time(text: str | None, option: str) -> Fraction | None:
    """Read seconds, `MM:SS` or `HH:MM:SS`, with or without a fraction.

    Raises:
        typer.BadParameter: It is none of them.
    """
    if text is None:
        return None
    if not re.fullmatch(r"(\d{1,4}:)?(\d{1,6}:)?\d{1,9}(\.\d{1,9})?", text):
        raise typer.BadParameter(f"{text!r}: write seconds, or HH:MM:SS", param_hint=option)
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds


def refuse_inputs(outputs: Mapping[str, Path | None], files: Sequence[Path], data: Sequence[Path]) -> None:
    """Refuse to write over what the command reads.

    Args:
        outputs: Option to the file it names.
        files: Files that are read.
        data: Prepared data sets that are read.

    Raises:
        IccldError: An output is one of them, a file of a data set, another output, or a device or pipe.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if problem := kind_problem(path):
            raise IccldError(f"{option} {path} {problem}", "name a file")
        real = _real(path)
        if real in seen:
            raise IccldError(f"{option} and {seen[real]} name the same file {path}", "give each its own")
        seen[real] = option
        if any(real == _real(file) for file in files) or any(_belongs(real, _real(folder)) for folder in data):
            raise IccldError(f"{option} would write over its input {path}", "give another name")


def _belongs(path: Path, data: Path) -> bool:
    """Whether a path is one of a prepared data set's own files."""
    if not path.is_relative_to(data):
        return False
    first = path.relative_to(data).parts[:1]
    return first in ((), ("images",), ("labels",)) or path in (data / "dataset.json", data / "index.jsonl")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def parse_scales(text: str) -> tuple[float, ...]:
    """Read factors separated by commas, such as `1,1.5`.

    Raises:
        typer.BadParameter: One is no number between 0.1 and 8.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = (math.nan,)
    if not all(0.1 <= scale <= 8 for scale in scales):
        raise typer.BadParameter(f"{text!r}: write factors between 0.1 and 8 with commas, such as 1,1.5")
    return scales
