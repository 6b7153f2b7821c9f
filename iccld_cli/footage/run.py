"""Adapting to footage, from its frames to the page.

    footage -> frames worth training on -> the start's answers to them
    -> stage 1 from a finished model, with the virtual town as source, the answers as labels and self-training
    -> start, adapted, and their average; one of them is kept -> model.safetensors, page, predictions

With `stage2`, stage 2 goes on from the adapted model, and what it gives is a fourth to choose among.

No label of the footage is read, and nothing is downloaded. Every part leaves its result in the folder and is skipped
when that is whole, so a stopped run goes on.

    OUT/model.safetensors    the model that was chosen       OUT/index.html      before and after
    OUT/summary.json         what was done                   OUT/predictions/    with `predict`
    OUT/data/                frames that were trained on     OUT/runs/           the trainings: adapted/, stage2/
    OUT/to_label/            frames most worth labelling     OUT/to_label.jsonl  their list
    OUT/answers/             the start's answers        OUT/pairs/  neighbouring frames that answers are compared on
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from iccld_cli.data.prepared import INFO_NAME, PreparedDataset, labelled_pixels
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_json
from iccld_cli.footage.answers import learnt_answers
from iccld_cli.footage.choice import Judged, choice, judge, learnt_before, reason
from iccld_cli.footage.frames import targets_of
from iccld_cli.footage.options import FootageOptions
from iccld_cli.footage.page import write_page
from iccld_cli.footage.record import Record
from iccld_cli.footage.training import average, begin_stage2, count_steps, render_town, train
from iccld_cli.footage.worth import list_worth
from iccld_cli.header import ModelHeader, read_header
from iccld_cli.inference.inputs import collect
from iccld_cli.inference.model import find_model, load_model
from iccld_cli.inference.predict import predict
from iccld_cli.inference.predict_options import PredictOptions
from iccld_cli.names import shown

MODEL_NAME, SUMMARY_NAME = "model.safetensors", "summary.json"

ONCE_MORE = (
    "has learnt this footage already, and learning it once more has lost so far (docs/adapting.md): it will be kept as "
    "it is. Give other footage of this road, labels of it with --labelled or --val, or, for a longer training, the "
    "model that this one began with"
)


def adapt_footage(options: FootageOptions, console: Console) -> dict[str, Any]:
    """Adapt a model to footage, or what is left of it.

    Args:
        options: What and how long.
        console: Where messages go.

    Returns:
        What `summary.json` holds: `seconds`, `frames`, `start` (name and sha256), `answered` (frames whose answers
        were learnt), `iterations` of stage 1, `iterations_stage2` (None without it), `chosen` (`start`, `adapted`,
        `average` or `stage2`), `why`, and what each candidate was `judged` by.

    Raises:
        IccldError: Something is wrong with the footage or the model, or the folder holds something else.
        KeyboardInterrupt: Interrupted; what was finished is kept.
    """
    start = find_model(options.ckpt)
    if start.suffix != ".safetensors":
        raise IccldError(f"{start} is an exported file, which cannot be trained", "give the .safetensors file")
    header = read_header(start)
    if options.val is not None:
        _check_val(options.val, header)
    for path in options.labelled:
        _check_labelled(path, header)
    record = Record(options, header)
    began = time.perf_counter()
    try:
        console.rule("Footage")
        with record.given_back_on_error():
            targets = targets_of(options, record, console)
        again = learnt_before(header, targets)
        if again and options.val is None and not options.labelled:
            console.print(shown(f"warning: {start.name} {ONCE_MORE}"), style="yellow", soft_wrap=True)
        record.note(began)
        console.rule("Virtual town")
        sources = render_town(options, console)
        record.note(began)
        if options.answers:
            console.rule("Answers of the start")
        answers = learnt_answers(options, record, start, targets, console)
        record.note(began)
        console.rule("Training")
        runs = options.out / "runs"
        iterations = count_steps("stage1", options, record, start, sources, targets, answers, console)
        adapted = train("stage1", options, start, sources, targets, answers, iterations, runs / "adapted", console)
        record.note(began)
        candidates, more = {"start": start, "adapted": adapted}, None
        if options.stage2:
            console.rule("Stage 2")
            begin = begin_stage2(start, adapted, options.out)
            more = count_steps("stage2", options, record, begin, sources, targets, answers, console)
            second = train("stage2", options, begin, sources, targets, answers, more, runs / "stage2", console)
            record.note(began)
        console.rule("Choice")
        candidates["average"] = average(start, adapted, options.out)
        if options.stage2:
            candidates["stage2"] = second
        judged = _judged(candidates, targets, options, record, console)
        chosen = choice(judged, bool(options.labelled), again)
        why = reason(judged, chosen, bool(options.labelled), again)
        console.print(f"kept: {chosen}, {why}")
        with atomic_path(options.out / MODEL_NAME) as temporary:
            shutil.copyfile(candidates[chosen], temporary)
        predictions = _predict(options, console) if options.predict else None
        to_label = list_worth(options, options.out / MODEL_NAME, targets, console)
    finally:
        seconds = record.note(began) if options.out.exists() else 0.0
    summary = {
        "seconds": round(seconds, 1),
        "frames": sum(len(target.frames("train")) for target in targets),
        "start": f"{start.name} {header.sha256}",
        "answered": sum(len(PreparedDataset(path).frames("train")) for path in answers),
        "iterations": iterations,
        "iterations_stage2": more,
        "chosen": chosen,
        "why": why,
        "judged": {name: one.to_json() for name, one in judged.items()},
    }
    write_page(options, candidates, judged, targets, summary, predictions, to_label)
    write_json(options.out / SUMMARY_NAME, summary)
    return summary


def _judged(
    candidates: dict[str, Path],
    targets: Sequence[PreparedDataset],
    options: FootageOptions,
    record: Record,
    console: Console,
) -> dict[str, Judged]:
    """How the candidates did; judged once."""
    before = record.tree.get("judged")
    if isinstance(before, dict):
        known = {name: one for name in candidates if (one := Judged.from_json(before.get(name))) is not None}
        if known.keys() == candidates.keys():
            return known
    pairs = record.tree.get("pairs") or [{"root": str(target.root)} for target in targets]
    judged = judge(candidates, targets, pairs, options, console)
    record.keep("judged", {name: one.to_json() for name, one in judged.items()})
    return judged


def _check_val(val: Path, header: ModelHeader) -> None:
    dataset = PreparedDataset(val)
    if not any(frame.label for frame in dataset.iter_frames("val")):
        raise IccldError(f"{val} has no labels in a split `val`", "give another set, or none")
    if dataset.info.label_space.names != header.label_space.names:
        raise IccldError(f"{val} has other classes than the model", "prepare it in the model's label space")


def _check_labelled(path: Path, header: ModelHeader) -> None:
    """Refuse a set before the footage is looked at and the town rendered; what is left `open_data` finds."""
    dataset = PreparedDataset(path)
    if dataset.info.label_space.names != header.label_space.names:
        raise IccldError(f"{path} has other classes than the model", "prepare it in the model's label space")
    if labelled_pixels((f for f in dataset.iter_frames("train") if f.label), header.classes) == 0:
        raise IccldError(
            f"{path} has no labels of the model's classes in its split `train`", "give another set, or none"
        )


def _predict(options: FootageOptions, console: Console) -> Path:
    """Segment all of the footage with the chosen model."""
    out = options.out / "predictions"
    given = [str(p / "images" if (p / INFO_NAME).is_file() else p) for p in options.footage]
    model = load_model(options.out / MODEL_NAME, options.device, backend="auto")
    predict(model, collect(given, out), PredictOptions(out, skip_existing=True, ignore=options.ignore))
    console.print(shown(f"wrote the segmented footage to {out}"), soft_wrap=True)
    return out
