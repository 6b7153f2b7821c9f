"""The command line, assembled: which commands there are and what an error becomes.

Each command lives in a file of its own, parses its options, calls one function and prints. Heavy libraries
are imported inside the commands, so that `iccld --help` starts at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from iccld_cli import __version__
from iccld_cli.cli import (
    adapt,
    adapt_adv,
    adapt_seg,
    compare,
    config,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    predict,
    prepare,
)
from iccld_cli.cli.options import Command
from iccld_cli.cli.terminal import safe_streams, say
from iccld_cli.errors import IccldError
from iccld_cli.explain import explain

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="iccld",
    help="Adapt a segmentation model from labelled virtual driving scenes to unlabelled real footage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"iccld {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["ICCLD_DEBUG"] = "1"


app.command("prepare", cls=Command)(prepare.prepare)
app.command("inspect", cls=Command)(inspect.inspect)
app.command("adapt", cls=Command)(adapt.adapt)
app.command("adapt-seg", cls=Command)(adapt_seg.adapt_seg)
app.command("adapt-adv", cls=Command)(adapt_adv.adapt_adv)
app.command("config", cls=Command)(config.config)
app.command("evaluate", cls=Command)(evaluate.evaluate)
app.command("compare", cls=Command)(compare.compare)
app.command("predict", cls=Command)(predict.predict)
app.command("demo", cls=Command)(demo.demo)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("export", cls=Command)(export.export)


def main() -> None:
    """Run the command line and leave with its exit status.

    0 done; 1 an error the user can act on; 2 wrong usage; 130 interrupted with everything so far kept.
    """
    with safe_streams():
        try:
            app()
        except KeyboardInterrupt:
            say("interrupted; everything finished so far is kept", stderr=True)
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if os.environ.get("ICCLD_DEBUG"):
                raise
            say(f"error: {_explained(error)}", stderr=True, style="red")
            sys.exit(EXIT_ERROR)


def _explained(error: Exception) -> IccldError:
    explained = explain(error)
    if isinstance(explained, IccldError):
        return explained
    return IccldError(
        f"internal error, {type(error).__name__}: {error}", "run `iccld --debug ...` and report what it shows"
    )
