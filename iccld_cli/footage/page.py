"""The page of `iccld adapt`: before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.footage import worth
from iccld_cli.footage.answers import KEPT
from iccld_cli.footage.choice import Judged, by_labels, some_frames
from iccld_cli.footage.options import FootageOptions
from iccld_cli.inference.model import load_model
from iccld_cli.report import page
from iccld_cli.report.scores import class_map

PAGE_NAME = "index.html"
SHOWN_FRAMES = 12
_MOST_CLIPS = 4


def write_page(
    options: FootageOptions,
    candidates: Mapping[str, Path],
    judged: Mapping[str, Judged],
    targets: Sequence[PreparedDataset],
    summary: Mapping[str, Any],
    predictions: Path | None,
    to_label: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `index.html`.

    Args:
        options: Of the run.
        candidates: Name -> model file.
        judged: What they were judged by.
        targets: The footage's frames.
        summary: What `summary.json` holds.
        predictions: Folder of the segmented footage, if any.
        to_label: Frames most worth labelling, from `worth.list_worth`.
    """
    chosen = summary["chosen"]
    changed, frames = _compared(options, candidates, chosen, targets)
    unsure = [] if by_labels(judged) else [page.Text(_UNSURE)]
    result = page.Text(
        f"Kept: {_name(chosen)}, because {summary['why']}. It gives another label than the start in "
        f"{100 * changed:.1f} % of the pixels of the frames that were compared."
    )
    table = [[_name(name) + " (kept)" * (name == chosen), *_cells(one)] for name, one in judged.items()]
    heads = ["model", "score without labels, %", "confidence, %", "flow consistency, %", "mIoU"]
    followed = judged[chosen].flow
    flow = [] if followed is None else [page.Text(_flow_in_words(followed))]
    sections = [
        page.Section("Result", [result, page.Table(heads, table), *flow, *unsure]),
        page.Section("Before and after, where they differ most", [frames]),
        page.Section(
            "Training",
            [
                *([page.Text(_learnt(summary["answered"]))] if summary["answered"] else []),
                *(
                    page.Pictures([options.out / f"runs/{run}/curves.png"], caption="", width=1100, plot=True)
                    for run in ("adapted", *(["stage2"] if options.stage2 else []))
                ),
            ],
        ),
    ]
    if to_label:
        sections.insert(2, worth.section(options, to_label))
    clips = [] if predictions is None else sorted(predictions.rglob("*.mp4"))[:_MOST_CLIPS]
    if clips:
        shown = [page.Clip(path.relative_to(options.out).as_posix(), path.stem) for path in clips]
        sections.insert(1, page.Section("The footage, segmented", list(shown)))
    steps = f"{summary['iterations']} steps"
    if options.stage2:
        steps += f" of stage 1 and {summary['iterations_stage2']} of stage 2"
    subtitle = f"{summary['frames']} frames, {steps}, {summary['seconds']:.0f} s in all"
    page.write_page(options.out / PAGE_NAME, "Adapted to your footage", sections, subtitle)


_UNSURE = (
    "The score without labels counts the confidence of pixels that keep their label when the frame is mirrored or "
    "made smaller. A clear rise has meant a gain so far, a deep fall a model that has broken; in between it does not "
    "say which is better, and the average is kept. Look below, or label a few frames of this road and give them as "
    "--labelled, or as --val."
)


def _learnt(answered: int) -> str:
    return (
        f"Before training the start answered {answered} of the frames once, as they are and mirrored. Of each class "
        f"the surest {100 * KEPT:.0f} % of the pixels were learnt as labels, beside the labels that the model gave "
        "while it learnt and the virtual town's. No label of a person was needed for that."
    )


def _compared(
    options: FootageOptions, candidates: Mapping[str, Path], chosen: str, targets: Sequence[PreparedDataset]
) -> tuple[float, page.Frames]:
    """Mean share of the pixels that changed, and the frames where most did."""
    models = [load_model(candidates[name], options.device) for name in ("start", chosen)]
    space, rows = models[0].header.label_space, []
    for target, frames in some_frames(targets):
        for frame in frames:
            image = target.read_image(frame)
            before, after = (model.segment(image[None]).labels[0] for model in models)
            rows.append((float((before != after).mean()), frame.image, image, before, after))
    changed = float(np.mean([row[0] for row in rows]))
    rows.sort(key=lambda row: -row[0])
    layered = [
        page.LayeredFrame(
            f"{name}: {100 * share:.1f} % changed", [image, class_map(before, space), class_map(after, space)]
        )
        for share, name, image, before, after in rows[:SHOWN_FRAMES]
    ]
    legend = [(space.names[i], space.colors[i]) for i in models[0].header.classes]
    return changed, page.Frames(["picture", "before", "after"], layered, 1, 2, legend=legend)


def _name(candidate: str) -> str:
    return "stage 2" if candidate == "stage2" else candidate


def _cells(found: Judged) -> list[str]:
    miou = "-" if found.miou is None else f"{found.miou:.1f}"
    flow = None if found.flow is None else found.flow["agreement"]
    return [f"{100 * found.score:.1f}", f"{100 * found.confidence:.1f}", "-" if flow is None else f"{flow:.1f}", miou]


def _flow_in_words(flow: Mapping[str, Any]) -> str:
    if flow["left_out"] is not None:
        return f"Flow consistency was not measured: {flow['left_out']}."
    return (
        "Flow consistency is the share of the places in view of two neighbouring frames that keep their label from one "
        f"to the next, followed along the optical flow ({flow['pairs']} pairs). Answers that flicker lower it; whether "
        "they are right it does not say, and it plays no part in the choice."
    )
