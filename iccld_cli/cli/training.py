"""Options that both training commands share, and how they become a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from iccld_cli.cli.options import parse_size

SHIPPED = "shipped"
MAX_BATCH = 4096
"""Crops a step, as `sections.DataConfig` has it; that module imports too much for `--help`."""

Preset = Annotated[
    str | None, typer.Option(help="Sizes and recipe: tiny, small, base, large, xl; paper-gta5, paper-synthia.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A method of the field by name, as settings on the preset: iccld, source-only, adversarial, advent, fada, "
        "dacs, daformer, hrda, mic, bapa.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="Pretrained encoder: `mobilenet-v2`, `efficientnet-lite0` (no network needed), hub id, folder, or `tiny`."
    ),
]
Val = Annotated[
    Path | None, typer.Option(help="Labelled prepared data set whose `val` split is scored during training.")
]
Labelled = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="SET",
        help="Prepared set of the target's domain with any labels (frames, points, scribbles), learnt too; repeatable.",
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="NAME,NAME", help="Train these classes only (default: all that the sources know).")
]
Iterations = Annotated[int | None, typer.Option(min=1, help="Training steps of this stage.")]
BatchSize = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Source crops a step and process, and as many target crops; auto: what fits."),
]
Crop = Annotated[str | None, typer.Option(metavar="WxH", help="Training crop, multiples of 32.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest training state.")]
SaveEvery = Annotated[int | None, typer.Option(min=0, help="Steps between two training states; 0 only at the end.")]
Select = Annotated[
    str | None,
    typer.Option(
        metavar="BY",
        help="What chooses STAGE.best.safetensors: miou (needs labels in val) or labels-free.",
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Run the networks through torch.compile.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with any part of a configuration.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One configuration value, such as optim.lr=1e-4; `iccld config` lists the keys.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and the model's size and memory, and stop.")
]


def overrides(section: str, **given: Any) -> dict[str, Any]:
    """Dotted configuration keys of the options that were given.

    Args:
        section: `seg` or `adv`, whose iterations are meant.
        given: The options by name; None where not given.
    """
    return {
        "model.encoder": given["encoder"],
        f"{section}.iterations": given["iterations"],
        "data.batch_size": _batch_size(given["batch_size"]),
        "data.crop": parse_size(given["crop"]),
        "run.seed": given["seed"],
        "run.device": given["device"],
        "run.precision": given["precision"],
        "run.save_every": given["save_every"],
        "run.select": given["select"],
        "run.compile": given["compile"] or None,
    }


def wants_auto(batch_size: str | None) -> bool:
    """Whether `--batch-size` asks to find what fits."""
    return batch_size == "auto"


def _batch_size(text: str | None) -> int | None:
    if text is None or wants_auto(text):
        return None
    if not text.isdecimal() or not text.strip("0"):
        raise typer.BadParameter(f"--batch-size {text[:40]!r} is not a number above 0 and not `auto`")
    if len(text) > 4 or int(text) > MAX_BATCH:
        raise typer.BadParameter(f"--batch-size {text[:40]} is too large: at most {MAX_BATCH}")
    return int(text)


def class_names(text: str | None) -> list[str] | None:
    """The names of `--classes`; None where it was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def start_file(ckpt: Path | None) -> Path | None:
    """The model file that `--ckpt` names: a file, a folder with one, a hub id, a shipped model, or `shipped`."""
    from iccld_cli.inference.hub import is_hub_id
    from iccld_cli.inference.model import find_model

    if ckpt is None or str(ckpt) == SHIPPED:
        return None if ckpt is None else find_model(None)
    return find_model(ckpt) if is_shipped(ckpt) or ckpt.is_dir() or is_hub_id(ckpt) else ckpt


def is_shipped(ckpt: Path) -> bool:
    """Whether `--ckpt` is the name of a model that comes with the program, which no file or folder changes."""
    from iccld_cli.inference.model import SHIPPED_MODELS

    return str(ckpt) in (SHIPPED, *SHIPPED_MODELS)
