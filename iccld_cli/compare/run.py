"""Trainings and models of a TOML file, scored alike and set beside each other: what `iccld compare` does.

    file -> cells (row x seed) -> what is left of them, some side by side -> tables, picture, page

Every cell leaves its results in OUT and is not done again; a training that was stopped goes on.

    OUT/<row>/seed<N>/   see `compare.cells`        OUT/table.md, table.tex, table.csv, results.json, index.html
    OUT/data/            sets that were prepared    OUT/.compare/  what was measured
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from iccld_cli.compare.cells import Cell, Plan, Task
from iccld_cli.compare.jobs import run_all
from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.page import CHART_NAME, PAGE_NAME, draw_chart, write_comparison
from iccld_cli.compare.rates import Estimate, Rates
from iccld_cli.compare.results import Results
from iccld_cli.compare.sets import Sets, used_sets
from iccld_cli.compare.spec import read_comparison, with_evaluations, with_needed
from iccld_cli.compare.tables import QUOTED, csv_text, latex, main_table, markdown, note
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.files import write_json, write_text
from iccld_cli.names import shown

RESULTS_NAME = "results.json"


def compare(options: CompareOptions, console: Console) -> dict[str, Any]:
    """Do a comparison, or what is left of it.

    Args:
        options: What and how.
        console: Where messages go.

    Returns:
        What `results.json` holds, see `Results.to_json`.

    Raises:
        IccldError: The file, a set or a row is not possible; finished rows have changed; or cells failed, which are
            named when all others are done.
        KeyboardInterrupt: Interrupted; what was finished is kept, and the same call goes on.
    """
    comparison = with_evaluations(read_comparison(options.file), options.evaluations)
    rows = with_needed(comparison, options.rows)
    sets = Sets(comparison, used_sets(comparison, rows), options)
    if sets.waiting and not options.dry_run:
        sets.prepare(console)
    plan = Plan(comparison, rows, sets, options)
    for evaluation in comparison.evaluation:
        if evaluation.set in sets.opened:
            plan.images(evaluation)  # a wrong split is told before anything is trained
    redone = _to_redo(plan, options.redo)
    if not options.dry_run:
        _set_aside(plan, redone, console)
    _refuse_changes([cell for cell in plan.cells if cell not in redone], plan)
    rates = Rates(plan, options.devices)
    if options.measure and not sets.waiting:
        _measure(plan, rates, console)
    _tell_plan(plan, rates, options, console)
    if options.dry_run:
        return {}
    results = Results(plan)
    try:
        run_all(plan, options.devices, options.jobs, console, _Teller(plan, rates, results, options, console))
    finally:
        found = write_results(results, options.out)
    failed = [cell for cell in plan.cells if cell.failure is not None]
    if failed:
        names = ", ".join(cell.name for cell in failed)
        raise IccldError(
            shown(f"{len(failed)} of {len(plan.cells)} cells failed: {names}"),
            f"the tables in {options.out} hold all others; mend what is named above and run the same command again",
        )
    return found


def write_results(results: Results, out: Path) -> dict[str, Any]:
    """Write all tables.

    Args:
        results: What the cells found.
        out: The comparison's folder.

    Returns:
        What `results.json` holds.
    """
    found = results.to_json()
    write_json(out / RESULTS_NAME, found)
    write_text(out / "table.md", markdown(found))
    write_text(out / "table.tex", latex(found))
    write_text(out / "table.csv", csv_text(found))
    drawn = draw_chart(found, out / CHART_NAME)
    write_comparison(out / PAGE_NAME, found, out / CHART_NAME if drawn else None)
    return found


def list_rows(options: CompareOptions) -> list[tuple[str, list[str]]]:
    """Rows and the commands that train them: (name: title, command lines), without looking at the sets' contents.

    Raises:
        IccldError: As `compare`.
    """
    comparison = with_evaluations(read_comparison(options.file), options.evaluations)
    rows = with_needed(comparison, options.rows)
    sets = Sets(comparison, used_sets(comparison, rows), options, listing=True)
    plan = Plan(comparison, rows, sets, options)
    found, seen = [], set[str]()
    for cell in plan.cells:
        if cell.row.name in seen:
            continue
        seen.add(cell.row.name)
        lines = [_line(plan.training(cell, stage)) for stage in comparison.stages(cell.row)]
        if cell.row.model is not None:
            lines = [f"the model {plan.model(cell)}"]
        elif cell.row.model_of is not None:
            lines = [f"the model of {cell.row.model_of}"]
        found.append((f"{cell.row.name}: {cell.row.shown_title}", lines))
    return found


def _line(arguments: Sequence[str]) -> str:
    import shlex

    return "iccld " + shlex.join(arguments)


def _to_redo(plan: Plan, names: Sequence[str]) -> list[Cell]:
    """Cells of the named rows, and those of the whole file that start from them, wanted now or not."""
    known = {cell.row.name for cell in plan.cells}
    for name in names:
        if name not in known:
            raise IccldError(f"there is no row {shown(name)!r} to do anew", did_you_mean(name, known))
    found: list[Cell] = []
    for cell in plan.cells:  # each after the one that it needs
        if cell.row.name in names or (cell.needs is not None and cell.needs in found and cell.row.model_of is None):
            found.append(cell)
    return found + _begun_from(plan, found)


def _begun_from(plan: Plan, parents: Sequence[Cell]) -> list[Cell]:
    """Cells of rows that are not wanted now, and that were begun from some cells or from each other."""
    there = {cell.row.name for cell in plan.cells}
    found: list[Cell] = []
    waiting = [*parents]
    while waiting:
        parent = waiting.pop(0)
        for row in plan.comparison.row:
            if row.name in there or row.parent != parent.row.name:
                continue
            folders = (plan.options.out / row.name).glob("seed*")
            seeds = [int(folder.name[4:]) for folder in folders if folder.name[4:].isdecimal()]
            own = [Cell(row, s, plan.options.out / row.name / f"seed{s}", parent) for s in seeds]
            waiting += [cell for cell in own if parent.seed in (None, cell.seed)]
            found += [cell for cell in own if parent.seed in (None, cell.seed)]
    return found


def _set_aside(plan: Plan, cells: Sequence[Cell], console: Console) -> None:
    for cell in cells:
        place = plan.set_aside(cell)
        if place is not None:
            console.print(shown(f"{cell.name}: done anew, what was there is in {place}"), soft_wrap=True)


def _refuse_changes(cells: Sequence[Cell], plan: Plan) -> None:
    """Refuse to set results of other settings beside new ones, row by row."""
    told: dict[str, str] = {}
    for cell in cells:
        changes = plan.changes(cell)
        if changes and cell.row.name not in told:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            told[cell.row.name] = f"row {cell.row.name!r} was begun otherwise: {', '.join(changes[:3])}{more}"
    if told:
        rows = ",".join(told)
        raise IccldError(
            shown("; ".join(told.values())),
            f"give changed rows other names, do them anew with --redo {shown(rows)} (the old ones are kept aside), or "
            "choose another --out",
        )


def _measure(plan: Plan, rates: Rates, console: Console) -> None:
    cells = rates.missing([cell for cell in plan.cells if not plan.done(cell)])
    if not cells:
        return
    console.print(
        f"measuring a few steps of {len(cells)} rows, to tell how long all of it takes (--no-measure)", soft_wrap=True
    )
    rates.measure(cells, lambda name: console.print(shown(f"  {name}"), soft_wrap=True))
    for name, why in rates.failed.items():
        console.print(shown(f"warning: row {name!r} would not run: {why}"), style="yellow", soft_wrap=True)


def _tell_plan(plan: Plan, rates: Rates, options: CompareOptions, console: Console) -> None:
    left = [cell for cell in plan.cells if not plan.done(cell)]
    done = len(plan.cells) - len(left)
    console.print(f"{len(plan.cells)} cells (row x seed), {done} done", soft_wrap=True)
    for row in plan.comparison.row:
        cells = [cell for cell in plan.cells if cell.row.name == row.name]
        if cells:
            console.print(shown(f"  {row.name}: {_row_plan(plan, rates, cells)}"), soft_wrap=True)
    for name, path in plan.sets.waiting.items():
        console.print(shown(f"  set {name} is prepared first, from {path}"), soft_wrap=True)
    if plan.sets.waiting:
        console.print("how long it takes can be told when the sets are prepared", soft_wrap=True)
        return
    if left:
        for line in [*_downloads(plan, left), *plan_lines(rates.estimate(), options)]:
            console.print(line, soft_wrap=True)


def _downloads(plan: Plan, left: Sequence[Cell]) -> list[str]:
    """What the trainings that are left will download first."""
    from iccld_cli.models.pretrained import describe_download

    rows = {cell.row.name: cell.row for cell in left if cell.row.seg is not None}
    encoders = [plan.config(row, "seg").model.encoder for row in rows.values() if row.parent is None]
    return [shown(told) for name in dict.fromkeys(encoders) if (told := describe_download(name)) is not None]


def _row_plan(plan: Plan, rates: Rates, cells: Sequence[Cell]) -> str:
    states, row = [], cells[0].row
    for cell in cells:
        seed = "" if cell.seed is None else f"seed {cell.seed} "
        try:
            task = plan.next_task(cell)
        except IccldError as error:
            states.append(f"{seed}cannot go on: {error}")
            continue
        if task is None:
            states.append(f"{seed}done")
        elif task.kind == "score":
            states.append(f"{seed}to be scored")
        elif any((cell.folder / "state").glob("*-*")):
            states.append(f"{seed}to go on")
        else:
            states.append(f"{seed}to be trained")
    rate = []
    for stage in plan.comparison.stages(row):
        found = rates.training(cells[0], stage)
        steps = getattr(plan.config(row, stage), stage).iterations
        if found is not None:
            memory = "" if found.memory is None else f", {found.memory:.1f} GiB"
            rate.append(f"{stage} {steps} steps of {found.seconds:.2f} s{memory} ({found.how})")
        else:
            rate.append(f"{stage} {steps} steps")
    return ", ".join(states) + (f"; {'; '.join(rate)}" if rate else "")


def plan_lines(estimate: Estimate, options: CompareOptions) -> list[str]:
    """What is left, in words."""
    lines = [f"left: {estimate.trainings} trainings, {estimate.steps} steps, {estimate.scores} scores"]
    if estimate.seconds is None:
        lines.append(f"how long that takes is not known: no rate of {', '.join(map(shown, estimate.unknown))}")
    else:
        told = f"about {_hours(estimate.seconds)} one after the other"
        if estimate.unscored:
            told += f", without the scores of {', '.join(map(shown, estimate.unscored))}"
        if options.jobs > 1:
            shortest = max(estimate.seconds / options.jobs, estimate.longest)
            told += f"; {options.jobs} side by side at best {_hours(shortest)}, where they do not slow each other down"
        lines.append(told)
    if estimate.memory is not None:
        lines += _memory_lines(estimate.memory, options)
    return lines


def _memory_lines(memory: float, options: CompareOptions) -> list[str]:
    import torch

    from iccld_cli.train.memory import GIB, available_bytes

    side_by_side = -(-options.jobs // len(options.devices))  # on one device
    name = options.devices[0]
    cuda = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if name == "auto" and cuda else name if cuda else "cpu")
    available = available_bytes(device) / GIB
    needed = memory * side_by_side
    told = f"memory: {memory:.1f} GiB a training, {needed:.1f} GiB of {available:.1f} GiB free on {device} at once"
    if needed > available:
        return [told, f"warning: that is too much; lower --jobs to {max(1, int(available / memory))}"]
    return [told]


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


class _Teller:
    """Tells of every command that ended, and keeps the tables up to date."""

    def __init__(self, plan: Plan, rates: Rates, results: Results, options: CompareOptions, console: Console) -> None:
        self.plan, self.rates, self.results, self.options, self.console = plan, rates, results, options, console
        self._written = 0.0

    def __call__(self, cell: Cell, task: Task, seconds: float) -> None:
        if task.kind != "score":
            self.console.print(shown(f"{cell.name}: {task.kind} trained in {_hours(seconds)}"), soft_wrap=True)
            return
        found = self.results.to_json()
        row = next(row for row in found["rows"] if row["name"] == cell.row.name)
        told = []
        for name, own in row["columns"].items():
            if cell.seed in own["seeds"] and (miou := own["mious"][own["seeds"].index(cell.seed)]) is not None:
                told.append(f"{name} {miou:.1f}")
        left = self.rates.estimate()
        more = "" if left.seconds is None or not left.seconds else f"; about {_hours(left.seconds)} of computing left"
        done = sum(self.plan.done(one) for one in self.plan.cells)
        line = f"{cell.name}: {', '.join(told) or 'scored'}; {done} of {len(self.plan.cells)} cells{more}"
        self.console.print(shown(line), soft_wrap=True)
        if time.monotonic() - self._written > 5:  # a page a second would cost more than short trainings do
            write_results(self.results, self.options.out)
            self._written = time.monotonic()


def result_lines(found: dict[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """The main table for the terminal: head, rows with quoted ones last, and what those are, a line a source."""
    head, ours, others = main_table(found)
    by_source: dict[str, list[str]] = {}
    for row in found["published"]:
        by_source.setdefault(row["source"], []).append(row["title"])
    lines = [f"{QUOTED}: {', '.join(titles)} ({source})" for source, titles in by_source.items()]
    return head, [*ours, *([*row[:-1], "published"] for row in others)], [note(found), *lines]
