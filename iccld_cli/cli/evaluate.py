"""`iccld evaluate`: a model's scores on a labelled data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from iccld_cli.cli.bars import progress_bar
from iccld_cli.cli.options import MAX_SAMPLES, Flip, Scales, parse_scales, refuse_inputs
from iccld_cli.cli.terminal import console, say, shown
from iccld_cli.errors import IccldError

if TYPE_CHECKING:
    import torch

    from iccld_cli.checkpoint import ModelHeader
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.inference.evaluation import Evaluation
    from iccld_cli.models.segmenter import Segmenter
    from iccld_cli.report.page import Section

_GALLERY = 8


def evaluate(
    ckpt: Annotated[Path, typer.Option(metavar="FILE", help="Model file.")],
    data: Annotated[Path, typer.Option(metavar="DATA/SET", help="Prepared data set with labels.")],
    split: Annotated[str, typer.Option(help="val, test or train.")] = "val",
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Score these classes only (default: all that both know).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Denoising steps; 0 decodes the latent directly.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=MAX_SAMPLES, help="Noise seeds to average.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Noise seed.")] = 0,
    scales: Scales = "1",
    flip: Flip = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
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
    from iccld_cli.inference.device import load_for_inference, pick_device
    from iccld_cli.inference.evaluate import check_label_space, chosen_classes, labelled_frames, scored_classes
    from iccld_cli.inference.evaluate import evaluate as run

    factors = parse_scales(scales)
    for path in (json_path, report):
        if path is not None and path.is_dir():
            raise IccldError(f"{path} is a folder", "give the name of a file to write")
    refuse_inputs({"--json": json_path, "--report": report}, files=[ckpt], data=[data])
    dataset = PreparedDataset(data)
    labelled_frames(dataset, split)  # a wrong split is told before a large model is loaded
    where = pick_device(device)
    segmenter, header = load_for_inference(ckpt, where)
    check_label_space(header.label_space, dataset)
    known = scored_classes(header.classes, dataset)
    scored = known if classes is None else chosen_classes(classes, known, header.label_space)
    with progress_bar(f"evaluate {dataset.info.name}/{split}", "images") as progress:
        result = run(
            segmenter,
            dataset,
            split,
            classes=scored,
            steps=steps,
            seed=seed,
            samples=samples,
            scales=factors,
            flip=flip,
            limit=limit,
            device=where,
            batch_size=batch_size,
            progress=progress,
        )
    try:
        _write_scores(json_path, result, header, ckpt, dataset)
        if report is not None:
            _write_report(report, segmenter, header, ckpt, dataset, result, where)
    finally:  # scores that cannot be written are still told
        _print_scores(result)


def _write_scores(
    path: Path | None, result: Evaluation, header: ModelHeader, ckpt: Path, dataset: PreparedDataset
) -> None:
    from iccld_cli.files import remove_leftovers, write_json

    if path is not None:
        remove_leftovers(path)
        model = {"file": str(ckpt), "stage": header.stage, "sha256": header.sha256}
        write_json(path, {**result.to_json(), "model": model, "data_digest": dataset.digest})


def _write_report(
    path: Path,
    segmenter: Segmenter,
    header: ModelHeader,
    ckpt: Path,
    dataset: PreparedDataset,
    result: Evaluation,
    device: torch.device,
) -> None:
    from iccld_cli.files import remove_leftovers
    from iccld_cli.report.page import write_page

    remove_leftovers(path)
    sections = _report_sections(segmenter, header, ckpt, dataset, result, device)
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


def _report_sections(
    segmenter: Segmenter,
    header: ModelHeader,
    ckpt: Path,
    dataset: PreparedDataset,
    result: Evaluation,
    device: torch.device,
) -> list[Section]:
    """The page: scores, and pictures of the worst, a middling and the best frames."""
    from iccld_cli.inference.evaluate import predict_labels
    from iccld_cli.report.overlay import colorize, draw_overlay
    from iccld_cli.report.scores import gallery_section, score_sections

    facts = {
        "model": f"{ckpt} ({header.stage}, {header.iterations} iterations)",
        "data": f"{dataset.info.name}/{result.split}, {result.images} images",
        "steps": f"{result.steps}, {result.samples} noise seed(s) from {result.seed}",
        "scales": ", ".join(f"{scale:g}" for scale in result.scales) + (", and mirrored" if result.flip else ""),
        "weights": header.sha256[:16],
    }
    colors = dict(zip(header.label_space.names, header.label_space.colors, strict=True))
    sections = score_sections(result.to_json(), facts, colors)
    rows = []
    for why, score in result.gallery(_GALLERY):
        image, label = dataset.read_image(score.frame), dataset.read_label(score.frame)
        predicted = predict_labels(
            segmenter, image, label.shape, device, result.steps, result.seed, result.samples, result.scales, result.flip
        )
        if image.shape[:2] == label.shape:
            shown = draw_overlay(image, predicted, header.label_space)
        else:
            shown = colorize(predicted, header.label_space)
        caption = f"{why}: {score.frame.image}, mIoU {100 * score.miou:.1f}, {100 * score.pixel_accuracy:.1f} % right"
        rows.append((caption, [image, shown, colorize(label, header.label_space)]))
    gallery = gallery_section(rows, ["input", "prediction", "ground truth"])
    return [*sections[:2], gallery, *sections[2:]]
