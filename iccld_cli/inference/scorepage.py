"""The page of `iccld evaluate`: an evaluation for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.inference.evaluate import folded_predictions
from iccld_cli.inference.runs import Contest
from iccld_cli.labels import IGNORE
from iccld_cli.report.page import ClassMap, Frames, LayeredFrame, Section, Text, write_page
from iccld_cli.report.scores import LEFT_OUT, RIGHT, WRONG, class_map, error_map, score_sections

_GALLERY = 12
_MOST_RUNS = 4
"""Runs whose answers are shown; each is two pictures a frame."""


def write_report(path: Path, contest: Contest, raw: dict[str, Any]) -> None:
    """Write the page: scores, and frames whose answers, labels and errors can be laid over each other.

    Args:
        path: The HTML file.
        contest: The runs.
        raw: Their JSON.

    Raises:
        IccldError: A frame cannot be read, or the page cannot be written.
    """
    result, dataset = contest.results[0], contest.dataset
    space = dataset.info.label_space
    models: dict[str, None] = {}
    for number, file in enumerate(contest.files):
        header = contest.model(number).header
        models[f"{file} ({header.stage}, {header.iterations} iterations, {header.sha256[:16]})"] = None
    facts = {
        "model" if len(models) == 1 else "models": "; ".join(models),
        "data": f"{dataset.info.name}/{result.split}, {result.images} images",
        "rule": _RULES[result.rule].format(", ".join(raw["not_known"]) or "none"),
        "steps": ", ".join(dict.fromkeys(str(run["steps"]) for run in raw["runs"]))
        + f"; {result.samples} noise seed(s) from {result.seed}",
        "scales": ", ".join(f"{scale:g}" for scale in result.scales) + (", and mirrored" if result.flip else ""),
        "answer": "mean of all passes" if result.average else "plain pass",
        "height": f"{result.height} rows" if result.height else "the images' own",
        "run by": f"{result.backend}, {result.precision}",
    }
    colors = dict(zip(space.names, space.colors, strict=True))
    sections = score_sections(raw["runs"], contest.names, facts, colors)
    title = f"{contest.files[0].stem} on {dataset.info.name}/{result.split}"
    place = next(i for i, section in enumerate(sections) if section.title == "Calibration")
    write_page(path, title, [*sections[:place], _frames(contest), *sections[place:]])


_RULES = {
    "known": "known: pixels of classes that the model does not know are left out ({})",
    "official": "official: pixels of classes that the model does not know count as wrong ({})",
}


def _frames(contest: Contest) -> Section:
    """The worst frames of the first run, then some middling and the best ones."""
    result, dataset, runs = contest.results[0], contest.dataset, min(_MOST_RUNS, len(contest.results))
    space = dataset.info.label_space
    counted = [i for i in range(len(space)) if result.rule == "official" or i in result.scores.subset]
    kept = np.full(256, IGNORE, np.uint8)
    kept[counted] = counted
    shown = [contest.names[number] for number in range(runs)]
    names = ["picture", "label"]
    for name in shown:
        names += [f"answer {name}".strip(), f"errors {name}".strip()]
    rows = []
    for why, score in result.gallery(_GALLERY):
        image, label = dataset.read_image(score.frame), dataset.read_label(score.frame)
        layers: list[np.ndarray | ClassMap] = [image, class_map(label, space)]
        for number in range(runs):
            model = contest.model(number)
            fold = np.arange(256, dtype=np.uint8)
            for fine, coarse in folded_predictions(model.header.classes, dataset).items():
                fold[fine] = coarse
            answer = model.segment(image[None], size=label.shape, sampling=contest.sampling(number)).labels[0]
            layers += [class_map(answer, space), error_map(fold[answer], kept[label])]
        caption = f"{why}: {score.frame.image}, mIoU {100 * score.miou:.1f}, {100 * score.pixel_accuracy:.1f} % right"
        rows.append(LayeredFrame(caption, layers))
    legend = [(space.names[i], space.colors[i]) for i in result.scores.subset]
    legend += [("right", RIGHT), ("wrong", WRONG), ("does not count", LEFT_OUT)]
    return Section(
        "Frames, the worst first",
        [
            Text("Label and answers have the same colours. Drag the line, or choose what lies left and right of it."),
            Frames(names, rows, 2, 4 if runs > 1 else 1, legend=legend),
        ],
    )
