"""`iccld export`: a model for ONNX Runtime or OpenVINO, or a small model file to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from iccld_cli.cli.hints import say_next
from iccld_cli.cli.options import parse_height, parse_size, refuse_idle, refuse_inputs
from iccld_cli.cli.terminal import say
from iccld_cli.errors import IccldError, did_you_mean


def export(
    ctx: typer.Context,
    ckpt: Annotated[Path, typer.Option(metavar="FILE", help="Model file, or small, roads or free: the shipped ones.")],
    format_: Annotated[str, typer.Option("--format", help="onnx, openvino, half or hub.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="File to write: .onnx, .xml for openvino, .safetensors for half; a folder for hub."
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH|dynamic",
            help="Size of its images (default: 16:9 at the trained height), or dynamic: the file takes any.",
        ),
    ] = None,
    height: Annotated[str | None, typer.Option(metavar="ROWS", help="16:9 at this height, in place of --size.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Denoising steps (default: the model's).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Noise seed; the noise becomes part of the file.")] = 0,
    precision: Annotated[
        str, typer.Option(metavar="P", help="fp32, fp16 (half the size), or int8 (openvino; needs --calibrate).")
    ] = "fp32",
    calibrate: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT", help="Your footage, as of predict: for int8, and to compare the file on."),
    ] = None,
    opset: Annotated[int, typer.Option(min=14, help="ONNX operator set.")] = 18,
    licence: Annotated[
        str, typer.Option(metavar="ID", help="For the card of `hub`, as the hub writes it, such as apache-2.0.")
    ] = "other",
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload the folder of `hub` to the Hugging Face hub.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write a model that runs without this program: image (1, 3, H, W) in [0, 1] to probabilities (1, K, H, W).

    The file says what its classes are; `predict` and `evaluate` take it as --ckpt.

    `--format half` writes a model file of half the size instead, to hand on: weights in fp16, and names of data
    sets and encoder without the paths of this machine.

    `--format hub` writes a folder as the Hugging Face hub has it: weights, config.json and a model card; `--push`
    uploads it.
    """
    from iccld_cli.header import DYNAMIC, PRECISIONS
    from iccld_cli.inference.model import find_model

    formats = ("onnx", "openvino", "half", "hub")
    if format_ not in formats:
        raise typer.BadParameter(f"{format_!r}: {did_you_mean(format_, formats)}", param_hint="--format")
    if format_ in ("onnx", "openvino"):
        refuse_idle(ctx, ("licence", "push"), "without --format hub")
    else:
        of_graphs = "size", "height", "steps", "seed", "precision", "calibrate", "opset"
        refuse_idle(ctx, (*of_graphs, *(("licence", "push") if format_ == "half" else ())), f"with --format {format_}")
    if precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r}: {did_you_mean(precision, PRECISIONS)}", param_hint="--precision")
    wanted: tuple[int, int] | Literal["dynamic"] | None = "dynamic" if size == DYNAMIC else parse_size(size)
    rows = parse_height(height)
    if rows is not None and (rows == 0 or wanted is not None):
        raise typer.BadParameter("give rows, and no --size beside them", param_hint="--height")
    if rows is not None:
        wanted = (round(rows * 16 / 9), rows)
    ckpt = find_model(ckpt)
    refuse_inputs({"--out": out}, files=[ckpt], data=[])
    if out.exists() and not overwrite:
        raise IccldError(f"{out} exists", "give another --out, or --overwrite")

    from iccld_cli.checkpoint import load_segmenter, save_segmenter
    from iccld_cli.header import without_paths
    from iccld_cli.inference import export as exporting
    from iccld_cli.inference.inputs import collect

    if ckpt.suffix != ".safetensors":
        raise IccldError(f"{ckpt} is an exported file already", "give the .safetensors file that it was made from")
    if format_ == "hub":
        _to_hub(ckpt, out, licence, push)
        return
    items = []
    if format_ != "half":  # checked before anything is loaded or decoded
        exporting.check_kind(format_, out, precision, 2 if calibrate else 0)
        items = collect(calibrate or [], out)
        exporting.check_inputs(items)
    segmenter, header = load_segmenter(ckpt)
    if format_ == "half":
        save_segmenter(out, segmenter, without_paths(header), half=True)
        say(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB, fp16")
        say_next(["doctor", "--speed", "--ckpt", out])
        return
    wanted_frames = exporting.CHECKED + (exporting.CALIBRATION_FRAMES if precision == "int8" else 0)
    frames = exporting.sample_frames(items, wanted_frames, exporting.graph_size(header, wanted))
    done = exporting.export(
        segmenter, header, out, format_, size=wanted, steps=steps, seed=seed, opset=opset, precision=precision,
        frames=frames,
    )  # fmt: skip
    on = f"on {done.frames} of your frames" if done.frames else "on a frame of noise"
    of_size = "any size" if done.size is None else f"{done.size[0]}x{done.size[1]}"
    say(
        f"wrote {done.path}: {of_size}, {done.steps} steps, {done.precision}; probabilities differ "
        f"by at most {done.difference:.1e}, {100 * done.agreement:.3f} % of the pixels get the same class ({on})"
    )
    if done.doubtful:
        say(
            f"warning: in {done.precision} {100 * (1 - done.agreement):.1f} % of the pixels get another class; compare "
            "both files with `iccld evaluate` before you use this one",
            stderr=True,
            style="yellow",
        )
    say_next(["predict", *calibrate, "--ckpt", out] if calibrate else ["doctor", "--speed", "--ckpt", out])


def _to_hub(ckpt: Path, out: Path, licence: str, name: str | None) -> None:
    from iccld_cli.checkpoint import check_segmenter
    from iccld_cli.inference.hub import push, save_folder

    check_segmenter(ckpt)
    save_folder(ckpt, out, licence=licence, name=name)
    say(f"wrote {out}: model.safetensors, config.json and README.md, the model card")
    if name is not None:
        say(f"uploaded to {push(out, name)}")
    say_next(["doctor", "--speed", "--ckpt", out])
