"""What `iccld prepare --check` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from iccld_cli.errors import IccldError

if TYPE_CHECKING:
    from iccld_cli.prepare.prepare import PrepareOptions, Source
    from iccld_cli.prepare.rehearsal import Rehearsal

_SHOWN_SIZES = 6
_SHOWN_BAD = 8


def print_check(sources: list[tuple[str, Source]], out: Path, options: PrepareOptions, stopped: list[str]) -> None:
    """Look at each set and print what was found.

    Args:
        sources: The sets by name.
        out: Folder that a run would write to.
        options: How a run would prepare them.
        stopped: Sets that could not be opened, each a sentence.

    Raises:
        IccldError: A run would stop.
    """
    from iccld_cli.prepare.rehearsal import rehearse

    console = Console(highlight=False, soft_wrap=True)
    failed = list(stopped)
    for name, source in sources:
        try:
            look = rehearse(source, out, name, options)
        except IccldError as error:
            failed.append(f"{name}: {error}")
            continue
        for line in lines(look):
            console.print(line, markup=False)
        failed += [f"{name}: {text}" for text in look.problems]
    if failed:
        for text in failed[:-1]:
            Console(stderr=True, highlight=False, soft_wrap=True).print(f"would stop: {text}", markup=False)
        raise IccldError(f"prepare would stop: {failed[-1]}")


def lines(look: Rehearsal) -> list[str]:
    """The report on one set."""
    from iccld_cli.prepare.rehearsal import human

    splits = ", ".join(f"{split} {count:,}" for split, count in look.splits.items()) or "nothing"
    without = look.frames - look.labelled
    labels = "all with labels" if not without else "no labels" if not look.labelled else f"{without:,} without a label"
    found = [f"{look.name} ({look.path}): {splits} would be taken, {labels}"]
    if look.headers:
        shown = ", ".join(f"{w}x{h} ({n})" for (w, h), n in look.sizes.most_common(_SHOWN_SIZES))
        more = f", {len(look.sizes) - _SHOWN_SIZES} more" if len(look.sizes) > _SHOWN_SIZES else ""
        found.append(f"  sizes in {look.headers} headers: {shown}{more}")
    for reason, count in look.known_bad.items():
        found.append(f"  left out, known to be bad: {count} ({reason})")
    found += [f"  note: {text}" for text in look.notices]
    if look.values:
        known = ", ".join(f"{value} {name or 'ignore'}" for value, name in sorted(look.values.items(), key=_by_number))
        found.append(f"  labels of {look.sampled} frames hold: {known}")
    if look.pixels:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in look.pixels.items())
        found.append(f"  of their pixels: {shares}")
    for entry in look.bad[:_SHOWN_BAD]:
        found.append(f"  cannot be used: {entry['file']} {entry['reason']}")
    if len(look.bad) > _SHOWN_BAD:
        found.append(f"  ... and {len(look.bad) - _SHOWN_BAD} more of the files looked at")
    if look.sampled:
        minutes = look.seconds / 60
        took = f"{minutes:.0f} min" if minutes >= 1.5 else f"{look.seconds:.0f} s"
        found.append(f"  needs about {human(look.bytes)} ({human(look.free)} free) and {took}")
    return found


def _by_number(item: tuple[str, str | None]) -> tuple[int, str]:
    return (int(item[0]), "") if item[0].isdigit() else (1 << 20, item[0])
