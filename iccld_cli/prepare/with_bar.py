"""Preparing as a part of something larger: a bar on the given console."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from iccld_cli.names import shown
from iccld_cli.prepare.prepare import PrepareOptions, prepare

if TYPE_CHECKING:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.prepare.prepare import Source


def prepare_shown(
    source: Source, out: Path, name: str, options: PrepareOptions, console: Console
) -> tuple[PreparedDataset, bool]:
    """`prepare`, with a bar where the console is a terminal; see there."""
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(shown(name), total=None)
        return prepare(source, out, name, options, lambda done, total: bar.update(task, completed=done, total=total))
