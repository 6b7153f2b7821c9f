"""Raw data sets, opened by the name of their adapter."""

from __future__ import annotations

from pathlib import Path

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import Adapter
from iccld_cli.prepare.archives import open_tree, plain_copies
from iccld_cli.prepare.peek import cut_short


def open_set(
    adapter: type[Adapter], folder: Path, out: Path, peek: bool, options: dict[str, str] | None, labelled: bool
) -> Adapter:
    """Open a raw data set; a copy that was made of its archive goes again where the set is not in it.

    Args:
        adapter: Its reader.
        folder: Its folder or archive.
        out: Folder for uncompressed copies of compressed archives.
        peek: Whether it is only looked at, so that no copy is made.
        options: Of the adapter, such as `condition`.
        labelled: Whether labels are read.

    Raises:
        IccldError: The set is not there, or an option is not possible.
    """
    tree = open_tree(folder, out, peek)
    try:
        return adapter(tree, options, labelled)
    except IccldError as error:
        for copy in plain_copies(tree):
            copy.unlink(missing_ok=True)
        if peek and (cut := cut_short(tree)):
            raise IccldError(f"{error.message}, but {cut}", "unpack it, or run without --check") from None
        raise
