"""`iccld doctor`: what this machine has, and whether it is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from iccld_cli.cli.options import parse_size, refuse_idle
from iccld_cli.cli.terminal import console, say, shown


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure how fast a model predicts and trains here, in about two minutes.")
    ] = False,
    ckpt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model to measure (default: the shipped one).")
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the frames to measure with.")] = "960x540",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, to measure on.")] = "auto",
) -> None:
    """Try out what the program needs here: devices, libraries, H.264, disk, a forward pass.

    With `--speed`: frames per second and memory of every backend, steps per second of both stages, and what would be
    faster.
    """
    if speed:
        _speed(ckpt, size, device, as_json)
        return
    refuse_idle(ctx, ("ckpt", "size", "device"), "without --speed")

    from iccld_cli.inference.doctor import examine

    found = examine(Path.cwd())
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    if found["problems"]:
        raise typer.Exit(1)


def _speed(ckpt: Path | None, size: str, device: str, as_json: bool) -> None:
    from iccld_cli.inference.speed import measure

    wanted = parse_size(size)
    assert wanted is not None
    found = measure(ckpt, (wanted[1], wanted[0]), device, tell=lambda line: say(f"{line} ...", stderr=True))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    say(f"{found['model']}, frames of {found['size']}, network at {found['height']} rows")
    table = Table("backend", "precision", box=None, header_style="bold")
    for name in ("frames/s", "first, s", "memory"):
        table.add_column(name, justify="right")
    for row in found["predict"]:
        if "error" in row:
            table.add_row(row["backend"], Text(shown(row["error"]), style="dim"))
        else:
            numbers = (row["frames_per_second"], row["first_seconds"])
            table.add_row(
                row["backend"], row["precision"], *(f"{n:.1f}" for n in numbers), f"{row['memory_gib']:.2f} GiB"
            )
    console().print(table)
    if found["train"]:
        table = Table("training", "crops", "batch", box=None, header_style="bold")
        for name in ("steps/s", "memory"):
            table.add_column(name, justify="right")
        for row in found["train"]:
            facts = (row["stage"], row["crop"], str(row["batch_size"]))
            if "error" in row:
                table.add_row(*facts, Text(shown(row["error"]), style="dim"))
            else:
                table.add_row(*facts, f"{row['steps_per_second']:.2f}", f"{row['memory_gib']:.2f} GiB")
        console().print(table)
    for line in found["advice"]:
        say(line, style="green")


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
