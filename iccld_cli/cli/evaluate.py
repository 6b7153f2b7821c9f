"""`iccld evaluate`: scores of models on a labelled data set."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iccld_cli.cli.hints import say_next
from iccld_cli.cli.options import (
    MAX_SAMPLES,
    Average,
    Backend,
    Engine,
    Flip,
    Height,
    Merge,
    PartOption,
    Parts,
    RayAddress,
    Scales,
    WorkerCpus,
    parse_fleet,
    parse_height,
    parse_part,
    parse_scales,
    refuse_inputs,
    refuse_stored,
)
from iccld_cli.cli.scores import print_label_free, print_scores
from iccld_cli.cli.terminal import progress_bar, say
from iccld_cli.errors import IccldError
from iccld_cli.storage import local_path, url_of

if TYPE_CHECKING:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.fleet.work import Fleet
    from iccld_cli.inference.evaluate import Scope
    from iccld_cli.inference.model import Sampling
    from iccld_cli.inference.runs import Contest
    from iccld_cli.parts import Part

_MOST_STEPS = 1000


def evaluate(
    data: Annotated[Path, typer.Option(metavar="DATA/SET", help="Prepared data set with labels.")],
    ckpt: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Model file (.safetensors, .onnx, .xml), or a shipped one: small (default), roads, free. Several are "
            "compared with the first.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="val, test or train (default: val; without labels and without val, the first split)."),
    ] = None,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Judge without labels, which are not read: confidence, agreement over views and along the motion "
            "of a video, class shares.",
        ),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(metavar="DATA/SET", help="With --no-labels: a labelled set to compare the class shares with."),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="known: pixels of classes that the model does not know are left out; official: they are wrong, as in "
            "cityscapesScripts.",
        ),
    ] = "known",
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Score these classes only (default: all that both know).")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Scores of groups too: drive, condition, camera, folder, size, a key of index.jsonl, or a regular "
            "expression on file names.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Denoising steps; 0 decodes the latent directly. Several are compared."),
    ] = None,
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
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Frames a pass (default: by device). With --part, 1, 2, 4, 8 and 16 give one run's results to the "
            "last bit.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only this many frames, spread over the split.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the scores as JSON.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Also write a page with pictures.")] = None,
    part: PartOption = None,
    merge: Merge = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    parts: Parts = None,
    worker_cpus: WorkerCpus = None,
) -> None:
    """Score models: mean IoU over all pixels of a split, per class, with intervals, and how well calibrated it is."""
    if rule not in ("known", "official"):
        raise typer.BadParameter(f"{rule!r}: write known or official", param_hint="--rule")
    if source is not None and not no_labels:
        raise typer.BadParameter("goes with --no-labels", param_hint="--source")
    share = parse_part(part, merge)
    if no_labels and (share is not None or merge):
        raise typer.BadParameter("cannot go with --no-labels", param_hint="--merge" if merge else "--part")
    alone = {"--part": share is not None, "--merge": merge, "--no-labels": no_labels}
    fleet = parse_fleet(engine, ray_address, parts, worker_cpus, alone)
    if json_path is None and (share is not None or merge or fleet is not None):
        raise typer.BadParameter("name the file of the joined scores with --json FILE; parts lie in FILE.parts")
    refused = {"--by": by, "--classes": classes, "--report": report, "--rule": None if rule == "known" else rule}
    if no_labels and (given_names := [name for name, value in refused.items() if value is not None]):
        raise typer.BadParameter(f"{', '.join(given_names)} cannot go with --no-labels")
    asked, factors, rows = _parse_steps(steps), parse_scales(scales), parse_height(height)
    data, ckpt = local_path(data), None if ckpt is None else [local_path(path) for path in ckpt]
    json_path = None if json_path is None else local_path(json_path)
    report = None if report is None else local_path(report)
    if fleet is None:
        models = {} if ckpt is None else {"--ckpt": next((path for path in ckpt if url_of(path)), None)}
        refuse_stored({"--data": data, "--json": json_path, "--report": report, **models})

    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.inference.evaluate import Scope, labelled_frames
    from iccld_cli.inference.grouping import group_frames
    from iccld_cli.inference.model import Sampling, find_model
    from iccld_cli.inference.runs import Contest

    for path in (json_path, report):
        if path is not None and path.is_dir():
            raise IccldError(f"{path} is a folder", "give the name of a file to write")
    given: list[Path | None] = [*ckpt] if ckpt else [None]
    if fleet is not None:
        assert json_path is not None
        samplings = [Sampling(number, seed, samples, factors, flip, rows, average=average) for number in asked]
        limits = (split or "val", limit, batch_size, rule)
        _with_ray(fleet, data, given, samplings, limits, classes, by, json_path, report, device, backend)
        return
    files = list(dict.fromkeys(find_model(path) for path in given))
    read = [data] if source is None else [data, source]
    refuse_inputs({"--json": json_path, "--report": report}, files=[*(ckpt or []), *files], data=read)
    dataset = PreparedDataset(data)
    if no_labels:
        samplings = [Sampling(number, seed, samples, factors, flip, rows, average=average) for number in asked]
        contest = Contest(dataset, files, samplings, device, backend, tell=lambda line: say(line, stderr=True))
        _without_labels(contest, split, limit, batch_size, source, json_path)
        _hint(dataset, ckpt, files[0])
        return
    split = split or "val"
    frames = labelled_frames(dataset, split, limit)  # a wrong split is reported before a large model is loaded
    groups = None if by is None else group_frames(dataset, frames, by)
    contest = Contest(
        dataset,
        files,
        [Sampling(number, seed, samples, factors, flip, rows, average=average) for number in asked],
        "auto" if merge else device,  # parts may come from machines of another kind
        "torch" if merge else backend,
        tell=lambda line: say(line, stderr=True),
    )
    if not ckpt:
        say(f"scoring the model that comes with iccld, {files[0].name}; --ckpt takes another", stderr=True)
    scope = Scope(split, contest.classes(classes), limit, batch_size, rule)  # type: ignore[arg-type]
    if share is not None:
        assert json_path is not None
        _part(contest, scope, share, json_path)
        return
    if merge:
        from iccld_cli.inference.scoreparts import JoinedParts

        assert json_path is not None
        head = contest.head_of_parts(scope, json_path)
        joined = JoinedParts(json_path, head, len(contest.names), len(frames))
        contest.join(scope, joined, head)
        raw = contest.to_json(by, groups)
        _write(contest, raw, json_path, report)
        print_scores(contest, raw)
        joined.remove()
        return
    try:
        for number, name in enumerate(contest.names):
            with progress_bar(f"evaluate {dataset.info.name}/{split} {name}".rstrip(), "images") as progress:
                contest.run(number, scope, progress)
    finally:  # what was scored before an error or an interrupt is kept, and scores that cannot be written are printed
        if contest.results:
            raw = contest.to_json(by, groups)
            try:
                _write(contest, raw, json_path, report)
            finally:
                print_scores(contest, raw)
    best = max(range(len(contest.names)), key=lambda number: contest.results[number].miou)
    _hint(dataset, ckpt, contest.files[best])


def _with_ray(
    fleet: Fleet,
    data: Path,
    ckpts: list[Path | None],
    samplings: list[Sampling],
    limits: tuple[str, int | None, int | None, str],
    classes: str | None,
    by: str | None,
    json_path: Path,
    report: Path | None,
    device: str,
    backend: str,
) -> None:
    from iccld_cli import storage
    from iccld_cli.cli.fleet import fleet_bars
    from iccld_cli.fleet.cluster import import_ray
    from iccld_cli.fleet.common import named
    from iccld_cli.fleet.fetched import as_given, model_file, open_dataset
    from iccld_cli.fleet.scoring import remove_stored_parts, score_with_ray
    from iccld_cli.inference.evaluate import Scope, labelled_frames
    from iccld_cli.inference.grouping import group_frames
    from iccld_cli.inference.runs import Contest
    from iccld_cli.inference.scoreparts import JoinedParts

    import_ray()  # told before anything is fetched
    split, limit, batch_size, rule = limits
    target, page = url_of(json_path), url_of(report)
    with tempfile.TemporaryDirectory(prefix="iccld-") as folder, contextlib.ExitStack() as held:
        scratch = Path(folder)
        scores = json_path if target is None else scratch / storage.name_below(target)
        drawn = report if page is None else scratch / storage.name_below(page)
        dataset = open_dataset(data, scratch)
        places = {scores: target, drawn: page, dataset.root: url_of(data)}
        held.enter_context(named(*((path, url) for path, url in places.items() if path and url)))
        files = {model_file(path, scratch): as_given(path) for path in ckpts}
        refuse_inputs({"--json": scores, "--report": drawn}, files=[*files], data=[dataset.root])
        frames = labelled_frames(dataset, split, limit)
        groups = None if by is None else group_frames(dataset, frames, by)
        contest = Contest(dataset, [*files], samplings, "cpu", "torch", tell=lambda line: say(line, stderr=True))
        scope = Scope(split, contest.classes(classes), limit, batch_size, rule)  # type: ignore[arg-type]
        try:
            with fleet_bars(f"evaluate {dataset.info.name}/{split}", "images", "join", "parts") as bars:
                score_with_ray(
                    contest,
                    scope,
                    scores,
                    data,
                    ckpts,
                    samplings,
                    fleet,
                    target=target,
                    device=device,
                    backend=backend,
                    progress=bars.work,
                    tell=bars.tell,
                )
        except KeyboardInterrupt:
            say("interrupted; finished parts are kept, the same command goes on", stderr=True)
            raise
        head = contest.head_of_parts(scope, scores)
        joined = JoinedParts(scores, head, len(contest.names), len(frames))
        contest.join(scope, joined, head)
        raw = contest.to_json(by, groups)
        for run, file in zip(raw["runs"], contest.files, strict=True):
            if (url := url_of(files[file])) is not None:
                run["model"]["file"] = url
        _write(contest, raw, scores, drawn)
        storage.send_all((path, url) for path, url in ((drawn, page), (scores, target)) if path and url)
        print_scores(contest, raw)
        joined.remove()
        if target is not None:
            remove_stored_parts(target)


def _hint(dataset: PreparedDataset, ckpt: list[Path] | None, best: Path) -> None:
    words: list[str | Path] = ["predict", dataset.root / "images"]
    say_next([*words, "--ckpt", ckpt[0] if len(ckpt) == 1 else best] if ckpt else words)


def _part(contest: Contest, scope: Scope, share: Part, json_path: Path) -> None:
    from iccld_cli.inference.scoreparts import PartFile

    total = 0
    with PartFile(json_path, share, contest.head(scope)) as file:
        for number, name in enumerate(contest.names):
            with progress_bar(f"part {share} {name}".rstrip(), "images") as progress:
                total = contest.run_part(number, scope, file, progress)
    if not total:
        say(f"part {share} has nothing to do: the split has fewer pieces of frames than parts -> {file.path}")
        return
    say(f"part {share} is done: {total} frames -> {file.path}")
    say("when all parts are done, the same command with --merge instead of --part joins them")


def _without_labels(
    contest: Contest,
    split: str | None,
    limit: int | None,
    batch_size: int | None,
    source: Path | None,
    json_path: Path | None,
) -> None:
    from iccld_cli.data.prepared import PreparedDataset
    from iccld_cli.data.spread import evenly
    from iccld_cli.files import remove_leftovers, write_json
    from iccld_cli.inference.along_flow import flow_consistency
    from iccld_cli.inference.labelfree import look, source_pixels

    dataset = contest.dataset
    pixels = None if source is None else source_pixels(PreparedDataset(source))
    if split is None:  # footage often has no val
        split = "val" if dataset.info.splits.get("val") else next(iter(dataset.info.splits), "val")
    frames = evenly(dataset.frames(split), limit)
    found: list[dict[str, Any]] = []
    try:
        for number, name in enumerate(contest.names):
            with progress_bar(f"look at {dataset.info.name}/{split} {name}".rstrip(), "images") as progress:
                seen = look(
                    contest.model(number), dataset, frames, contest.sampling(number), pixels, batch_size, progress
                )
            with progress_bar(f"follow {dataset.info.name}/{split} {name}".rstrip(), "pairs") as progress:
                flow = flow_consistency(
                    contest.model(number), dataset, split, contest.sampling(number), progress, limit
                )
            seen = replace(seen, flow=flow)
            facts = {"file": str(contest.files[number]), "sha256": contest.model(number).header.sha256}
            found.append({**seen.to_json(), "model": facts, "data_digest": dataset.digest})
    finally:
        if found:
            try:
                if json_path is not None:
                    remove_leftovers(json_path)
                    write_json(json_path, {**found[0], "runs": found})
            finally:
                print_label_free(contest.names, found, pixels)


def _parse_steps(text: str | None) -> list[int | None]:
    """Read numbers of steps separated by commas, such as `0,1,4`; None stands for the model's own."""
    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 6 and int(part) <= _MOST_STEPS for part in parts):
        raise typer.BadParameter(
            f"{text!r}: write numbers from 0 to {_MOST_STEPS} with commas, such as 0,1,4", param_hint="--steps"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def _write(contest: Contest, raw: dict, json_path: Path | None, report: Path | None) -> None:
    from iccld_cli.files import remove_leftovers, write_json

    if json_path is not None:
        remove_leftovers(json_path)
        write_json(json_path, raw)
    if report is not None and len(contest.results) == len(contest.names):
        from iccld_cli.inference.scorepage import write_report

        remove_leftovers(report)
        write_report(report, contest, raw)
