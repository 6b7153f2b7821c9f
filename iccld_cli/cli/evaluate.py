"""`iccld evaluate`: a model's scores on a labelled data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from iccld_cli.cli.bars import progress_bar
from iccld_cli.cli.options import (
    MAX_SAMPLES,
    Average,
    Backend,
    Flip,
    Height,
    Scales,
    parse_height,
    parse_scales,
    refuse_inputs,
)
from iccld_cli.cli.terminal import console, say, shown
from iccld_cli.errors import IccldError

if TYPE_CHECKING:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.inference.evaluation import Evaluation
    from iccld_cli.inference.model import Model
    from iccld_cli.report.page import Section

_GALLERY = 8


def evaluate(
    ckpt: Annotated[Path, typer.Option(metavar="FILE", help="Model file: .safetensors, .onnx or .xml.")],
    data: Annotated[Path, typer.Option(metavar="DATA/SET", help="Prepared data set with labels.")],
    split: Annotated[str, typer.Option(help="val, test or train.")] = "val",
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Score these classes only (default: all that both know).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Denoising steps; 0 decodes the latent directly.")] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=MAX_SAMPLES, help="Noise seeds: the first answers, the others say how sure it is.")
    ] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Noise seed (default: the model's, 0).")] = None,
    scales: Scales = "1",
    flip: Flip = False,
    average: Average = False,
    height: Height = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or mps (untested).")] = "auto",
    backend: Backend = "torch",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Frames a pass (default: by device).")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only this many frames, spread over the split.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the scores as JSON.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Also write a page with pictures.")] = None,
) -> None:
    """Score a model: mean IoU over all pixels of a split, per class, and how well calibrated it is."""
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.inference.evaluate import Scope, check_label_space, chosen_classes, labelled_frames, scored_classes
    from iccld_cli.inference.evaluate import evaluate as run
    from iccld_cli.inference.model import Sampling, find_model, load_model

    sampling = Sampling(steps, seed, samples, parse_scales(scales), flip, parse_height(height), average=average)
    for path in (json_path, report):
        if path is not None and path.is_dir():
            raise IccldError(f"{path} is a folder", "give the name of a file to write")
    file = find_model(ckpt)
    refuse_inputs({"--json": json_path, "--report": report}, files=[ckpt, file], data=[data])
    dataset = PreparedDataset(data)
    labelled_frames(dataset, split)  # a wrong split is reported before a large model is loaded
    model = load_model(file, device, backend=backend, sampling=sampling, tell=lambda line: say(line, stderr=True))
    check_label_space(model.header.label_space, dataset)
    known = scored_classes(model.header.classes, dataset)
    scored = known if classes is None else chosen_classes(classes, known, model.header.label_space)
    with progress_bar(f"evaluate {dataset.info.name}/{split}", "images") as progress:
        result = run(model, dataset, Scope(split, scored, limit, batch_size), sampling, progress)
    try:
        _write_scores(json_path, result, model, file, dataset)
        if report is not None:
            _write_report(report, model, file, dataset, result)
    finally:  # scores that cannot be written are still printed
        _print_scores(result)


def _write_scores(path: Path | None, result: Evaluation, model: Model, ckpt: Path, dataset: PreparedDataset) -> None:
    from iccld_cli.files import remove_leftovers, write_json

    if path is not None:
        remove_leftovers(path)
        facts = {"file": str(ckpt), "stage": model.header.stage, "sha256": model.header.sha256}
        write_json(path, {**result.to_json(), "model": facts, "data_digest": dataset.digest})


def _write_report(path: Path, model: Model, ckpt: Path, dataset: PreparedDataset, result: Evaluation) -> None:
    from iccld_cli.files import remove_leftovers
    from iccld_cli.report.page import write_page

    remove_leftovers(path)
    sections = _report_sections(model, ckpt, dataset, result)
    write_page(path, f"{ckpt.stem} on {dataset.info.name}/{result.split}", sections)


def _print_scores(result: Evaluation) -> None:
    raw = result.to_json()
    screen = console()
    block = "█" if screen.encoding.lower().startswith("utf") else "#"
    table = Table(title=shown(f"{result.dataset}/{result.split}, {result.images} images, {result.steps} steps"))
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    table.add_column("", min_width=20)
    table.add_column("accuracy %", justify="right")
    table.add_column("label pixels", justify="right")
    for name, row in raw["classes"].items():
        bar = Text("" if row["iou"] is None else block * round(row["iou"] / 5), style="cyan")
        table.add_row(shown(name), _number(row["iou"]), bar, _number(row["accuracy"]), f"{row['pixels']:,}")
    table.add_section()
    table.add_row("mean", Text(_number(raw["miou"]), style="bold"), "", "", "")
    screen.print(table)
    say(
        f"mIoU {_number(raw['miou'])} over {len(raw['subset'])} classes, "
        f"pixel accuracy {_number(raw['pixel_accuracy'])}, "
        f"calibration error {_number(raw['ece'], 4)}, error detection AUROC {_number(raw['auroc'], 4)}, "
        f"{result.seconds_per_image:.3f} s an image"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _report_sections(model: Model, ckpt: Path, dataset: PreparedDataset, result: Evaluation) -> list[Section]:
    """The page: scores, and pictures of the worst, a middling and the best frames."""
    from iccld_cli.inference.model import Sampling
    from iccld_cli.report.overlay import colorize, draw_overlay
    from iccld_cli.report.scores import gallery_section, score_sections

    header = model.header
    facts = {
        "model": f"{ckpt} ({header.stage}, {header.iterations} iterations)",
        "data": f"{dataset.info.name}/{result.split}, {result.images} images",
        "steps": f"{result.steps}, {result.samples} noise seed(s) from {result.seed}",
        "scales": ", ".join(f"{scale:g}" for scale in result.scales) + (", and mirrored" if result.flip else ""),
        "answer": "mean of all passes" if result.average else "plain pass",
        "height": f"{result.height} rows" if result.height else "the images' own",
        "run by": f"{result.backend}, {result.precision}",
        "weights": header.sha256[:16],
    }
    colors = dict(zip(header.label_space.names, header.label_space.colors, strict=True))
    sections = score_sections(result.to_json(), facts, colors)
    height, average = result.height, result.average
    sampling = Sampling(result.steps, result.seed, result.samples, result.scales, result.flip, height, average=average)
    rows = []
    for why, score in result.gallery(_GALLERY):
        image, label = dataset.read_image(score.frame), dataset.read_label(score.frame)
        predicted = model.segment(image[None], size=label.shape, sampling=sampling).labels[0]
        if image.shape[:2] == label.shape:
            shown = draw_overlay(image, predicted, header.label_space)
        else:
            shown = colorize(predicted, header.label_space)
        caption = f"{why}: {score.frame.image}, mIoU {100 * score.miou:.1f}, {100 * score.pixel_accuracy:.1f} % right"
        rows.append((caption, [image, shown, colorize(label, header.label_space)]))
    gallery = gallery_section(rows, ["input", "prediction", "ground truth"])
    return [*sections[:2], gallery, *sections[2:]]
