"""The page of `iccld compare`: tables, a picture of all seeds, what was quoted, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iccld_cli.compare.tables import QUOTED, failures, note, number, sure
from iccld_cli.report.page import Cell, Listing, Pictures, Section, Table, Text, write_page

PAGE_NAME, CHART_NAME = "index.html", "chart.png"


def write_comparison(path: Path, found: dict[str, Any], chart: Path | None) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        found: See `Results.to_json`.
        chart: Picture of the results; None for none.

    Raises:
        IccldError: The page cannot be written.
    """
    sections = [Section("Result", [*_warnings(found), _main(found), Text(note(found))])]
    if found["published"]:
        sections.append(Section("Published scores, not measured here", [Text(_PUBLISHED), _published(found)]))
    if chart is not None:
        sections.append(
            Section("Every seed", [Pictures([chart], "A dot a seed, a stroke for the mean.", width=0, plot=True)])
        )
    for column in found["columns"]:
        if column["classes"]:
            sections.append(Section(f"IoU of the classes: {column['name']} (%)", [_classes(found, column)]))
    sections.append(Section("Columns", [_columns(found)]))
    took = [row for row in found["rows"] if row["compute"]]
    if took:
        sections.append(Section("What it took", [_compute(took)]))
    done = sum(len(own["seeds"]) for row in found["rows"] for own in row["columns"].values())
    write_page(path, found["title"], sections, f"{len(found['rows'])} rows, {done} scores")


_PUBLISHED = (
    "These numbers were read where the last column says. They were not measured here: network, training time and way "
    "of scoring are those of their authors."
)


def _warnings(found: dict[str, Any]) -> list[Listing]:
    lines = failures(found)
    return [Listing(lines, warning=True)] if lines else []


def _main(found: dict[str, Any]) -> Table:
    with_gaps = found["base"] is not None and len(found["rows"]) > 1
    head = ["row"]
    for column in found["columns"]:
        head += [f"{column['name']}, mIoU %", "95 % interval", *(["difference", "its interval"] if with_gaps else [])]
    rows: list[list[str | Cell]] = []
    for row in found["rows"]:
        cells: list[str | Cell] = [row["title"]]
        for column in found["columns"]:
            own = row["columns"].get(column["name"])
            cells += [_score(own), _interval(own["interval"] if own else None)]
            if with_gaps:
                change = own.get("difference") if own else None
                mean = None if change is None else change["mean"]
                cells += [
                    Cell("–" if mean is None else f"{mean:+.1f}", mean, strong=sure(change)),
                    _interval(change["interval"] if change else None, signed=True),
                ]
        seeds = max((len(own["seeds"]) for own in row["columns"].values()), default=0)
        rows.append([*cells, "model file" if row["kind"] == "model" else Cell(str(seeds), seeds)])
    return Table([*head, "seeds"], rows, sortable=True)


def _published(found: dict[str, Any]) -> Table:
    head = ["method", "network", *(column["name"] for column in found["columns"]), "source"]
    rows: list[list[str | Cell]] = []
    for row in found["published"]:
        scores = [row["scores"].get(column["name"]) for column in found["columns"]]
        cells = [Cell("–" if score is None else f"{score:.1f}", score) for score in scores]
        rows.append([row["title"], row["network"] or "–", *cells, f"{row['source']} ({QUOTED})"])
    return Table(head, rows, sortable=True)


def _classes(found: dict[str, Any], column: dict[str, Any]) -> Table:
    base = found["base"]
    rows: list[list[str | Cell]] = []
    for row in found["rows"]:
        own = row["columns"].get(column["name"])
        if own is None:
            continue
        cells: list[str | Cell] = [row["title"]]
        gaps = own.get("difference")
        for name in column["classes"]:
            change = None if gaps is None else gaps["classes"][name]
            told = number(own["classes"][name])
            cells.append(Cell(told, own["classes"][name]["mean"], strong=base is not None and sure(change)))
        rows.append([*cells, _score(own)])
    return Table(["row", *column["classes"], "mean"], rows, sortable=True)


def _columns(found: dict[str, Any]) -> Table:
    rules = {"official": "every labelled pixel counts", "known": "pixels of these classes alone count"}
    rows = [
        [
            column["name"], f"{column['set']}/{column['split']}", str(column["images"] or "–"),
            ", ".join(column["classes"]) or column["class_set"], ", ".join(column["absent"]) or "–",
            rules[column["rule"]],
        ]
        for column in found["columns"]
    ]  # fmt: skip
    return Table(["column", "frames of", "frames", "averaged over", "never labelled, left out", "rule"], rows)


def _compute(rows: Sequence[dict[str, Any]]) -> Table:
    told: list[list[str | Cell]] = []
    for row in rows:
        for one in row["compute"]:
            steps = ", ".join(f"{stage} {count}" for stage, count in one["steps"].items())
            memory = one["memory_gib"]
            told.append(
                [
                    row["title"], "–" if one["seed"] is None else str(one["seed"]), steps,
                    Cell(f"{one['seconds'] / 3600:.2f}", one["seconds"]),
                    Cell("–" if memory is None else f"{memory:.1f}", memory), str(one["parts"]),
                ]
            )  # fmt: skip
    return Table(["row", "seed", "steps", "hours", "memory, GiB", "parts"], told, sortable=True)


def _score(own: dict[str, Any] | None) -> Cell:
    mean = None if own is None else own["mean"]
    return Cell(number(own), mean, fraction=None if mean is None else mean / 100)


def _interval(bounds: Sequence[float] | None, signed: bool = False) -> Cell:
    if bounds is None:
        return Cell("–")
    return Cell(" to ".join(f"{bound:+.1f}" if signed else f"{bound:.1f}" for bound in bounds), bounds[0])


def draw_chart(found: dict[str, Any], path: Path) -> bool:
    """The results as a picture, atomically; whether there was anything to draw.

    Args:
        found: See `Results.to_json`.
        path: The PNG.
    """
    from matplotlib.figure import Figure

    from iccld_cli.files import atomic_path
    from iccld_cli.names import shown

    columns = [c["name"] for c in found["columns"] if any(c["name"] in row["columns"] for row in found["rows"])]
    rows = [row for row in found["rows"] if row["columns"]]
    if not rows:
        return False
    figure = Figure(figsize=(4.2 + 3.2 * len(columns), 0.9 + 0.36 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    titles = [shown(row["title"]).replace("$", r"\$") for row in rows]
    for panel, column in zip(panels, columns, strict=True):
        for place, row in enumerate(rows):
            own = row["columns"].get(column)
            mious = [value for value in (own["mious"] if own else []) if value is not None]
            panel.plot(mious, [place] * len(mious), "o", color="#1f6fb2", alpha=0.7, markersize=5)
            if mious:
                panel.plot([own["mean"]], [place], "|", color="#d1495b", markersize=15)
        panel.set_yticks(range(len(titles)), titles)
        panel.set_title(shown(f"mIoU, {column} (%)").replace("$", r"\$"), fontsize=10)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True
