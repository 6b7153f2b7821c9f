"""`iccld compare`: many trainings and models in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iccld_cli.cli.terminal import console as make_console
from iccld_cli.cli.terminal import say, shown


def compare(
    file: Annotated[
        str, typer.Argument(metavar="FILE.toml", help="Rows and evaluations; or gta5-cityscapes, synthia-cityscapes.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for everything (default: compare-NAME).")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="SET=DIR", help="Folder of a set of the file; repeatable.")
    ] = None,
    gta5: Annotated[
        Path | None,
        typer.Option(metavar="DIR", rich_help_panel="Data", help="Folder of the set gta5, raw or prepared."),
    ] = None,
    synthia: Annotated[
        Path | None, typer.Option(metavar="DIR", rich_help_panel="Data", help="The same of synthia.")
    ] = None,
    cityscapes: Annotated[
        Path | None, typer.Option(metavar="DIR", rich_help_panel="Data", help="The same of cityscapes.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,ROW", rich_help_panel="Training", help="These rows alone, with those that they start from."
        ),
    ] = None,
    evaluations: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", rich_help_panel="Data", help="These evaluations alone, such as val."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", rich_help_panel="Training", help="Seeds, in place of the file's.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Preset of every row that starts from no model.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of every such row.")] = None,
    seg_iterations: Annotated[
        int | None, typer.Option(min=1, rich_help_panel="Training", help="Steps of stage 1.")
    ] = None,
    adv_iterations: Annotated[
        int | None, typer.Option(min=1, rich_help_panel="Training", help="Steps of stage 2.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A configuration value for every training; what a row says itself wins."
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE,...", help="auto, cpu, cuda, cuda:N; jobs share several in turn.")
    ] = "auto",
    jobs: Annotated[
        int, typer.Option(min=1, max=256, rich_help_panel="Machine", help="Trainings and evaluations side by side.")
    ] = 1,
    redo: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,ROW", rich_help_panel="Training", help="Do these rows anew; what is there is kept aside."
        ),
    ] = None,
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure", rich_help_panel="Training", help="Take no steps beforehand to tell how long it takes."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what is left and how long it takes, and stop.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", rich_help_panel="Results", help="List rows and their commands, and stop.")
    ] = False,
) -> None:
    """Train and score the rows of a TOML file over seeds, and set them beside each other in tables and a page.

    Mean and standard deviation over seeds, paired differences to a base row with intervals, as Markdown, LaTeX, CSV,
    JSON and HTML. The same command again goes on where it stopped.
    """
    from iccld_cli.compare.options import CompareOptions
    from iccld_cli.compare.run import PAGE_NAME, list_rows, result_lines
    from iccld_cli.compare.run import compare as run
    from iccld_cli.compare.spec import find_comparison

    path = find_comparison(file)
    given = {"gta5": gta5, "synthia": synthia, "cityscapes": cityscapes}
    options = CompareOptions(
        file=path,
        out=out or Path(f"compare-{path.stem}"),
        data={**_sets(data), **{name: folder for name, folder in given.items() if folder is not None}},
        rows=_names(rows),
        evaluations=_names(evaluations),
        seeds=_seeds(seeds),
        preset=preset,
        encoder=encoder,
        seg_iterations=seg_iterations,
        adv_iterations=adv_iterations,
        settings=assignments or (),
        precision=precision,
        devices=_names(device) or ["auto"],
        jobs=jobs,
        redo=_names(redo),
        measure=not no_measure,
        dry_run=dry_run,
    )
    if list_:
        for title, lines in list_rows(options):
            say(shown(title))
            for line in lines:
                say(f"    {shown(line)}")
        return
    console = make_console()
    found = run(options, console)
    if not found:
        return
    from rich.table import Table

    head, body, lines = result_lines(found)
    table = Table(title=shown(found["title"]))
    for number, name in enumerate(head):
        table.add_column(shown(name), justify="right" if number else "left", overflow="fold")
    for row in body:
        table.add_row(*map(shown, row))
    console.print(table)
    for line in lines:
        say(shown(line))
    say(f"wrote table.md, table.tex, table.csv and results.json to {options.out}; open {options.out / PAGE_NAME}")


def _names(text: str | None) -> list[str]:
    return [] if text is None else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _seeds(text: str | None) -> list[int]:
    names = _names(text)
    if not all(name.isdecimal() and len(name) < 10 for name in names):
        raise typer.BadParameter(f"{text!r}: write numbers with commas, such as 0,1,2", param_hint="--seeds")
    return [int(name) for name in names]


def _sets(texts: list[str] | None) -> dict[str, Path]:
    found = {}
    for text in texts or ():
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder:
            raise typer.BadParameter(f"{text!r}: write SET=DIR, such as camvid=data/camvid", param_hint="--data")
        found[name] = Path(folder)
    return found
