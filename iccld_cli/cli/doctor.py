"""`iccld doctor`: what this machine has, and whether it is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from iccld_cli.cli.terminal import console, say, shown


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Try out what the program needs here: devices, libraries, H.264, disk, a forward pass."""
    from iccld_cli.inference.doctor import examine

    found = examine(Path.cwd())
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    if found["problems"]:
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    table.add_row("python", f"{found['python']} on {found['platform']}")
    for name, version in found["versions"].items():
        table.add_row(name, version or Text("not installed", style="dim"))
    threads = found["cpu"].get("torch_threads")
    table.add_row("cpu", f"{found['cpu']['threads']} threads" + (f", torch uses {threads}" if threads else ""))
    for device in found["cuda"]:
        table.add_row(
            "cuda",
            f"{device['name']}, {device['memory_bytes'] / 1024**3:.0f} GB, compute {device['capability']}, "
            f"bf16 {'yes' if device['bf16'] else 'no'}",
        )
    if not found["cuda"]:
        table.add_row("cuda", "none")
    table.add_row("H.264", "works" if found["h264"]["works"] else str(found["h264"]["reason"]))
    disk = found["disk"]
    table.add_row(
        "disk",
        f"{disk['free_bytes'] / 1024**3:.1f} GB free, {'writable' if disk['writable'] else 'not writable'}: "
        f"{shown(disk['folder'])}",
    )
    for device, row in found["forward"].items():
        table.add_row("forward pass", f"256x128 on {device} in {1000 * row['seconds']:.0f} ms (preset tiny, 1 step)")
    console().print(table)
    for text in found["problems"]:
        say(f"problem: {text}", style="red")
    for text in found["warnings"]:
        say(f"warning: {text}", style="yellow")
    say(found["verdict"], style="red" if found["problems"] else "green")
