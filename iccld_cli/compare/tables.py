"""The results as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from iccld_cli.names import shown

QUOTED = "published, not measured here"
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_CSV_HEAD = (
    "row", "title", "kind", "column", "measure", "seeds", "mean", "std", "low", "high", "difference",
    "difference_low", "difference_high", "source",
)  # fmt: skip


def number(value: dict[str, Any] | None, digits: int = 1) -> str:
    """`52.7 ± 0.2`, or `-`."""
    if value is None or value["mean"] is None:
        return "-"
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def gap(value: dict[str, Any] | None) -> str:
    """`+3.7 (2.9 to 4.4)`, or `-`."""
    if value is None or value["mean"] is None:
        return "-"
    bounds = value["interval"]
    told = "" if bounds is None else f" ({bounds[0]:+.1f} to {bounds[1]:+.1f})"
    return f"{value['mean']:+.1f}{told}"


def sure(value: dict[str, Any] | None) -> bool:
    """Whether a difference's interval leaves out 0."""
    bounds = None if value is None else value["interval"]
    return bounds is not None and (bounds[0] > 0 or bounds[1] < 0)


def title_of(found: dict[str, Any], name: str) -> str:
    """The title of a row."""
    return next(row["title"] for row in found["rows"] if row["name"] == name)


def note(found: dict[str, Any]) -> str:
    """What the numbers are, in a sentence or two."""
    told = "mIoU in percent, mean ± standard deviation over seeds."
    if found["base"] is not None:
        several = any(len(row["seeds"]) > 1 for row in found["rows"])
        drawn = "frames and seeds" if several else "frames"
        told += (
            f" The interval of a difference to {title_of(found, found['base'])} is paired, 95 %, {drawn} drawn anew."
        )
    for column in found["columns"]:
        if column["absent"] and column["classes"]:
            told += f" {column['name']}: without {', '.join(column['absent'])}, which no label shows."
    return told


def main_table(found: dict[str, Any]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """(head, rows of ours, rows of others) as texts; a row's last cell says how many seeds, or the source."""
    with_gaps = found["base"] is not None and len(found["rows"]) > 1
    head = ["row"]
    for column in found["columns"]:
        classes = f"{len(column['classes'])} classes" if column["classes"] else column["class_set"]
        head += [f"{column['name']} ({classes})", *(["difference"] if with_gaps else [])]
    ours, others = [], []
    for row in found["rows"]:
        cells = [row["title"]]
        for column in found["columns"]:
            own = row["columns"].get(column["name"])
            cells += [number(own), *([gap(own.get("difference") if own else None)] if with_gaps else [])]
        ours.append([*cells, _seeds(row)])
    for row in found["published"]:
        cells = [" ".join(part for part in (row["title"], f"({row['network']})" if row["network"] else "") if part)]
        for column in found["columns"]:
            score = row["scores"].get(column["name"])
            cells += ["-" if score is None else f"{score:.1f}", *([""] if with_gaps else [])]
        others.append([*cells, f"{QUOTED}: {row['source']}"])
    return [*head, "seeds"], ours, others


def _seeds(row: dict[str, Any]) -> str:
    done = max((len(own["seeds"]) for own in row["columns"].values()), default=0)
    return str(done) if row["kind"] != "model" else ("model file" if done else "0")


def class_table(found: dict[str, Any], column: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of the IoU of the classes on a column."""
    head = ["row", *column["classes"], "mean"]
    rows = []
    for row in found["rows"]:
        own = row["columns"].get(column["name"])
        if own is not None:
            rows.append([row["title"], *(number(own["classes"][name]) for name in column["classes"]), number(own)])
    return head, rows


def markdown(found: dict[str, Any]) -> str:
    """All tables as Markdown."""
    head, ours, others = main_table(found)
    parts = [f"# {_md(found['title'])}", _markdown_table(head, [*ours, *others]), _md(note(found))]
    parts += [f"**{_md(line)}**" for line in failures(found)]
    for column in found["columns"]:
        if column["classes"]:
            parts += [f"## IoU of the classes, {_md(column['name'])}", _markdown_table(*class_table(found, column))]
    return "\n\n".join(parts) + "\n"


def failures(found: dict[str, Any]) -> list[str]:
    """Cells that failed, a line each."""
    return [
        f"{row['name']}, seed {seed}: failed, {why}" for row in found["rows"] for seed, why in row["failed"].items()
    ]


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_md, head)) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(_md, row)) + " |" for row in rows)])


def _md(text: str) -> str:
    return shown(text).replace("|", "\\|").replace("<", "&lt;")


def latex(found: dict[str, Any]) -> str:
    """All tables as LaTeX; they need the package `booktabs`."""
    head, ours, others = main_table(found)
    quoted = [[*row[:-1], "$^\\dagger$"] for row in others]
    parts = [
        "% needs \\usepackage{booktabs}",
        _latex_table(head, ours, quoted, caption=note(found) + _daggers(found), label="compare"),
    ]
    for column in found["columns"]:
        if column["classes"]:
            caption = f"IoU of the classes in percent, {column['name']}."
            label = f"classes-{column['name'].replace(' ', '-')}"
            parts.append(_latex_table(*class_table(found, column), [], caption, label))
    return "\n".join(parts)


def _daggers(found: dict[str, Any]) -> str:
    if not found["published"]:
        return ""
    sources = "; ".join(f"{row['title']}: {row['source']}" for row in found["published"])
    return f" †: {QUOTED}. {sources}."


def _latex_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], quoted: Sequence[Sequence[str]], caption: str, label: str
) -> str:
    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(_tex(cell) for cell in cells) + r" \\"

    body = [line(row) for row in rows]
    if quoted:
        body += ["  \\midrule", *(line(row[:-1]).removesuffix(r" \\") + f" & {row[-1]} \\\\" for row in quoted)]
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{_tex(caption)}}}",
            f"  \\label{{tab:{label}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "  \\toprule",
            line(head),
            "  \\midrule",
            *body,
            "  \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    plain = "".join(_TEX.get(letter, letter) for letter in shown(text))
    return plain.replace("±", r"$\pm$").replace("†", r"$^\dagger$")


def csv_text(found: dict[str, Any]) -> str:
    """A line a row, column and measure (mIoU, then each class)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for row in found["rows"]:
        for name, own in row["columns"].items():
            base = own.get("difference") or {}
            measures = [("mIoU", own, own["interval"], base)]
            gaps = base.get("classes", {})
            measures += [(c, value, None, gaps.get(c, {})) for c, value in own["classes"].items()]
            for measure, value, bounds, difference in measures:
                low, high = bounds or ("", "")
                gap_low, gap_high = difference.get("interval") or ("", "")
                cells = [row["name"], row["title"], row["kind"], name, measure, len(own["seeds"])]
                cells += [_or_empty(value["mean"]), _or_empty(value["std"]), low, high]
                writer.writerow([*map(_cell, [*cells, _or_empty(difference.get("mean")), gap_low, gap_high, ""])])
    for quoted in found["published"]:
        for name, score in quoted["scores"].items():
            cells = ["", quoted["title"], QUOTED, name, "mIoU", "", score, "", "", "", "", "", "", quoted["source"]]
            writer.writerow([*map(_cell, cells)])
    return stream.getvalue()


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _cell(value: Any) -> Any:
    """A cell; a text that a spreadsheet would run as a formula gets a quote before it."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text[:1] in "=+-@" and text else text
