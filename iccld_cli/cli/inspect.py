"""`iccld inspect`: what is in a prepared data set, and which classes a source and a target share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from iccld_cli.cli.hints import after_inspect, say_next
from iccld_cli.cli.options import refuse_inputs
from iccld_cli.cli.terminal import console, say, shown

if TYPE_CHECKING:
    from iccld_cli.prepare.inspect import Report


def inspect(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Prepared data set, or the source of a pair.")],
    target: Annotated[Path | None, typer.Argument(metavar="TARGET", help="The target of a pair.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as JSON.")] = None,
) -> None:
    """Show class shares, sizes and warnings; with a target also the classes that will be scored."""
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.files import write_json
    from iccld_cli.prepare.inspect import inspect as look

    refuse_inputs({"--json": json}, files=[], data=[data, *([] if target is None else [target])])
    pair = PreparedDataset(data), None if target is None else PreparedDataset(target)
    report = look(*pair)
    if json is not None:
        write_json(json, report.to_json())
    _print(report)
    say_next(after_inspect(*pair))


def _print(report: Report) -> None:
    from iccld_cli.prepare.preview import class_rows

    rows = [{row["name"]: row for row in class_rows(one.info)} for one in report.data]
    for one, sizes in zip(report.data, report.sizes, strict=True):
        splits = ", ".join(f"{split} {count}" for split, count in one.info.splits.items())
        most = ", ".join(f"{w}x{h}" + ("" if len(sizes) == 1 else f" ({n})") for (w, h), n in sizes[:3])
        more = " and others" if len(sizes) > 3 else ""
        say(f"{one.info.name}: {splits}; {most}{more}; from {one.info.source.get('adapter')}")
    names = [name for name in report.data[0].info.label_space.names if any(name in table for table in rows)]
    if any("ignore" in table for table in rows):
        names.append("ignore")
    if names:
        table = Table("class", box=None, header_style="bold")
        for one in report.data:
            table.add_column(shown(f"{one.info.name} %"), justify="right")
            table.add_column("frames", justify="right")
        if report.scored is not None:
            table.add_column("scored")
        for name in names:
            cells = [cell for have in rows for cell in _cells(have.get(name))]
            scored = [] if report.scored is None else ["yes" if name in report.scored else ""]
            table.add_row(shown(name), *cells, *scored)
        console().print(table)
    if report.scored is not None:
        say(f"{len(report.scored)} classes are scored: {', '.join(report.scored)}")
    for text in report.warnings:
        say(f"warning: {text}", style="yellow")


def _cells(row: dict[str, Any] | None) -> list[str]:
    return ["-", "-"] if row is None else [f"{100 * row['share']:.3f}", str(row["frames"])]
