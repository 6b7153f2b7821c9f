"""Scores of `iccld evaluate` as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from iccld_cli.cli.terminal import console, say, shown

if TYPE_CHECKING:
    from iccld_cli.inference.runs import Contest

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORST = 5
_COLUMNS = 3
_SHARES = 6


def print_scores(contest: Contest, raw: dict[str, Any]) -> None:
    """Print what `Contest.to_json` holds.

    Args:
        contest: The runs.
        raw: Their JSON.
    """
    runs = raw["runs"]
    screen = console()
    if len(runs) == 1:
        screen.print(_classes(raw))
    else:
        letters = [_letter(number) for number in range(len(runs))]
        names = [shown(name) for name in contest.names[: len(runs)]]
        for letter, name in zip(letters, names, strict=True):
            say(f"{letter} = {name}")
        screen.print(_summary(runs, letters))
        for start in range(1, len(runs), _COLUMNS):  # as many beside the first as 80 columns hold
            part = [0, *range(start, min(start + _COLUMNS, len(runs)))]
            screen.print(_compared([runs[i] for i in part], [letters[i] for i in part]))
    if "by" in raw:
        screen.print(_groups(runs))
    _say_rest(runs)


def print_label_free(names: Sequence[str], runs: Sequence[dict[str, Any]], source: Mapping[str, int] | None) -> None:
    """Print what `look` found.

    Args:
        names: Of the runs.
        runs: Their JSON.
        source: Class name -> labelled pixels of the set whose shares are compared; None for none.
    """
    screen = console()
    table = Table(title=shown(f"{_title(runs[0])}, without labels"))
    for head in ("", "score %", "confidence %", "mirrored %", "scaled %", "flow %", "shift"):
        table.add_column(head, justify="right" if head else "left", overflow="fold")
    for number, (run, name) in enumerate(zip(runs, names[: len(runs)], strict=True)):
        if len(runs) > 1:
            say(f"{_letter(number)} = {name}")
        cells = (run[key] for key in ("score", "confidence", "agreement_mirrored", "agreement_scaled"))
        mark = _letter(number) if len(runs) > 1 else "model"
        flow = None if run["flow"] is None else run["flow"]["agreement"]
        table.add_row(mark, *(_number(cell) for cell in cells), _number(flow), _number(run["shift"], 4))
    screen.print(table)
    why = next((run["flow"]["left_out"] for run in runs if run["flow"] and run["flow"]["left_out"]), None)
    if why is not None:
        say(f"flow is left out: {why}")
    shares = Table(title="share of the pixels, %")
    shares.add_column("class")
    shown_runs = runs[:_SHARES]
    for number in range(len(shown_runs)):
        shares.add_column(_letter(number) if len(runs) > 1 else "answers", justify="right")
    if source is not None:
        shares.add_column("source", justify="right")
    total = sum(source.values()) if source else 1
    for name in dict.fromkeys(name for part in (*(run["shares"] for run in shown_runs), source or {}) for name in part):
        own = [] if source is None else [_number(100 * source.get(name, 0) / total)]
        shares.add_row(shown(name), *(_number(run["shares"].get(name, 0)) for run in shown_runs), *own)
    screen.print(shares)
    say("the score is no accuracy; docs/evaluating.md says how far it follows mIoU")


def _classes(raw: dict[str, Any]) -> Table:
    table = Table(title=shown(_title(raw) + f", {raw['steps']} steps"))
    for head in ("class", "IoU %", "95 % interval", "accuracy %", "boundary %", "pixels"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for name, row in raw["classes"].items():
        cells = _number(row["iou"]), _interval(row["interval"]), _number(row["accuracy"])
        table.add_row(shown(name), *cells, _number(row["boundary_iou"]), f"{row['pixels']:,}")
    table.add_section()
    mean = Text(_number(raw["miou"]), style="bold"), _interval(raw["interval"]), _number(raw["class_accuracy"])
    table.add_row("mean", *mean, _number(raw["boundary_iou"]), "")
    return table


def _title(raw: dict[str, Any]) -> str:
    return f"{raw['dataset']}/{raw['split']}, {raw['images']} images"


def _summary(runs: Sequence[dict[str, Any]], letters: Sequence[str]) -> Table:
    table = Table(title=shown(_title(runs[0])))
    heads = ("", "mIoU %", "95 % interval", f"- {letters[0]}", "95 % interval", "boundary", "ECE")
    for head in heads:
        table.add_column(head, justify="left" if head == "" else "right", no_wrap=True)
    for run, letter in zip(runs, letters, strict=True):
        gap = run.get("difference")
        table.add_row(
            letter,
            _number(run["miou"]),
            _interval(run["interval"]),
            "" if gap is None else _signed(gap["miou"]),
            "" if gap is None else _interval(gap["interval"], signed=True),
            _number(run["boundary_iou"]),
            _number(run["ece"], 4),
        )
    return table


def _compared(runs: Sequence[dict[str, Any]], letters: Sequence[str]) -> Table:
    table = Table(title="IoU % of the classes, and differences")
    table.add_column("class")
    for letter in letters:
        table.add_column(letter, justify="right")
        if letter != letters[0]:
            table.add_column(f"- {letters[0]}", justify="right")
    for name in runs[0]["subset"]:
        cells: list[Text | str] = []
        for run in runs:
            cells.append(_number(run["classes"][name]["iou"]))
            if "difference" in run:
                cells.append(_styled(run["difference"]["classes"][name]))
        table.add_row(shown(name), *cells)
    table.add_section()
    means = [cell for run in runs for cell in (_number(run["miou"]), *_gap(run))]
    table.add_row("mean", *means)
    return table


def _gap(run: dict[str, Any]) -> list[Text | str]:
    if "difference" not in run:
        return []
    return [_styled({"iou": run["difference"]["miou"], "interval": run["difference"]["interval"]})]


def _styled(gap: dict[str, Any]) -> Text:
    """A difference; in bold where its interval leaves out 0."""
    bounds = gap["interval"]
    sure = bounds is not None and (bounds[0] > 0 or bounds[1] < 0)
    return Text(_signed(gap["iou"]), style="bold" if sure else "")


def _groups(runs: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=shown(f"mIoU % by {runs[0]['by']['field']}"))
    table.add_column("group", overflow="fold")
    table.add_column("images", justify="right")
    for number in range(len(runs)):
        table.add_column("mIoU %" if len(runs) == 1 else _letter(number), justify="right")
        table.add_column("95 % interval", justify="right")
    for name, group in runs[0]["by"]["groups"].items():
        cells = []
        for run in runs:
            own = run["by"]["groups"][name]
            cells += [_number(own["miou"]), _interval(own["interval"])]
        table.add_row(shown(name), f"{group['images']}", *cells)
    return table


def _say_rest(runs: Sequence[dict[str, Any]]) -> None:
    raw = runs[0]
    worst = [f"{frame['image']} ({_number(frame['miou'], 1)})" for frame in raw["worst"][:_WORST]]
    if worst:
        say(f"worst frames{'' if len(runs) == 1 else ' of A'}: {', '.join(map(shown, worst))}")
    if raw["not_known"]:
        unknown = ", ".join(raw["not_known"])
        if raw["rule"] == "known":
            say(f"pixels labelled {unknown} are left out, for the model does not know these classes; --rule official")
        else:
            say(
                f"pixels labelled {unknown} count as wrong, for the model does not know these classes; "
                f"with them and all others that occur, the mean is {_number(raw['miou_of_all'])}"
            )
    for number, run in enumerate(runs):
        say(
            f"{'' if len(runs) == 1 else _letter(number) + ': '}"
            f"mIoU {_number(run['miou'])} over {len(run['subset'])} classes, "
            f"pixel accuracy {_number(run['pixel_accuracy'])}, class accuracy {_number(run['class_accuracy'])}, "
            f"calibration error {_number(run['ece'], 4)}, error detection AUROC {_number(run['auroc'], 4)}, "
            f"{run['seconds_per_image']:.3f} s an image ({run['backend']} {run['precision']}, rule {run['rule']})"
        )


def _letter(number: int) -> str:
    return _LETTERS[number] if number < len(_LETTERS) else str(number + 1)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _interval(bounds: Sequence[float] | None, signed: bool = False) -> str:
    if bounds is None:
        return "-"
    return " .. ".join(f"{bound:+.1f}" if signed else f"{bound:.1f}" for bound in bounds)
