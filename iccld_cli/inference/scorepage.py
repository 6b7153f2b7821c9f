"""The page of `iccld evaluate`: an evaluation for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iccld_cli.inference.runs import Contest
from iccld_cli.report.overlay import colorize, draw_overlay
from iccld_cli.report.page import write_page
from iccld_cli.report.scores import gallery_section, score_sections

_GALLERY = 8


def write_report(path: Path, contest: Contest, raw: dict[str, Any]) -> None:
    """Write the page: scores, and pictures of the worst, some middling and the best frames.

    Args:
        path: The HTML file.
        contest: The runs.
        raw: Their JSON.

    Raises:
        IccldError: A frame cannot be read, or the page cannot be written.
    """
    model, result, dataset = contest.model(0), contest.results[0], contest.dataset
    header, file = model.header, contest.files[0]
    facts = {
        "model": f"{file} ({header.stage}, {header.iterations} iterations)",
        "data": f"{dataset.info.name}/{result.split}, {result.images} images",
        "steps": f"{result.steps}, {result.samples} noise seed(s) from {result.seed}",
        "scales": ", ".join(f"{scale:g}" for scale in result.scales) + (", and mirrored" if result.flip else ""),
        "height": f"{result.height} rows" if result.height else "the images' own",
        "run by": f"{result.backend}, {result.precision}",
        "weights": header.sha256[:16],
    }
    colors = dict(zip(header.label_space.names, header.label_space.colors, strict=True))
    sections = score_sections(raw, facts, colors)
    rows = []
    for why, score in result.gallery(_GALLERY):
        image, label = dataset.read_image(score.frame), dataset.read_label(score.frame)
        predicted = model.segment(image[None], size=label.shape, sampling=contest.sampling(0)).labels[0]
        if image.shape[:2] == label.shape:
            shown = draw_overlay(image, predicted, header.label_space)
        else:
            shown = colorize(predicted, header.label_space)
        caption = f"{why}: {score.frame.image}, mIoU {100 * score.miou:.1f}, {100 * score.pixel_accuracy:.1f} % right"
        rows.append((caption, [image, shown, colorize(label, header.label_space)]))
    gallery = gallery_section(rows, ["input", "prediction", "ground truth"])
    write_page(path, f"{file.stem} on {dataset.info.name}/{result.split}", [*sections[:2], gallery, *sections[2:]])
