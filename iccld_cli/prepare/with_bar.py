"""Preparing as a part of something larger: a bar on the given console."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from iccld_cli.bars import progress_bar
from iccld_cli.names import shown
from iccld_cli.prepare.prepare import PrepareOptions, prepare

if TYPE_CHECKING:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.prepare.prepare import Source


def prepare_shown(
    source: Source, out: Path, name: str, options: PrepareOptions, console: Console
) -> tuple[PreparedDataset, bool]:
    """`prepare`, with a bar, or where the console is no terminal with a line now and then; see there.

    What another version of the program left unfinished is begun anew, with a line: the commands that prepare as a part
    of something larger have no `--force`.
    """

    def tell(line: str) -> None:
        console.print(shown(line), soft_wrap=True)

    with progress_bar(name, "frames", console) as update:
        return prepare(source, out, name, options, update, tell)
