"""What the parts of all commands share on the driver's side."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error
from iccld_cli.fleet.work import PartsFailedError
from iccld_cli.parts import Part, listed

_TOKEN = ".fleet-"


@contextlib.contextmanager
def named(*places: tuple[Path, str]) -> Iterator[None]:
    """Say addresses in errors, not the folders on this machine that stand for them."""
    try:
        yield
    except IccldError as error:
        rename(error, *places)
        raise


def rename(error: IccldError, *places: tuple[Path, str]) -> IccldError:
    """Say addresses in an error, see `named`; the same error."""
    for folder, url in places:
        error.message = error.message.replace(str(folder), storage.shown_address(url))
        error.hint = error.hint and error.hint.replace(str(folder), storage.shown_address(url))
    error.args = (error.message,)
    return error


def relative_to_here(*paths: Path | str) -> str | None:
    """This folder, where one of the paths counts from it."""
    return None if all(os.path.isabs(path) for path in paths) else os.getcwd()


@contextlib.contextmanager
def token_in(folder: Path | None) -> Iterator[Path | None]:
    """A file that every node must see, and that goes when the block ends, with the folders that were made for it.

    Args:
        folder: Where the parts will lie; None where that is object storage.

    Yields:
        The file.

    Raises:
        IccldError: It cannot be written.
    """
    if folder is None:
        yield None
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    token = folder / f"{_TOKEN}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_TOKEN}*"):  # of a command that was killed
            left.unlink(missing_ok=True)
        token.touch()
    except OSError as error:
        raise explain_os_error(error, folder) from error
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            token.unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def failed_parts(error: PartsFailedError, inputs: Callable[[Part], str] | None = None) -> IccldError:
    """What to say of parts that could not be made.

    Args:
        error: Which, and why.
        inputs: Names the inputs of a part.
    """
    parts = sorted(error.failed, key=lambda part: part.number)
    first = error.failed[parts[0]]
    numbers = listed([part.number for part in parts])
    what = f"part{'s' * (len(parts) > 1)} {numbers} of {parts[0].of}"
    holds = f" ({inputs(parts[0])})" if inputs is not None and len(parts) == 1 else ""
    reason = first.message if isinstance(first, IccldError) else str(first)
    hint = f"{first.hint}; " if isinstance(first, IccldError) and first.hint else ""
    return IccldError(
        f"{what}{holds} could not be made: {reason}",
        f"{hint}the other parts are kept, and the same command goes on with {'it' if len(parts) == 1 else 'these'}",
    )
