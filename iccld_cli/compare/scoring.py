"""A process that scores a model on some splits: `python -m iccld_cli.compare.scoring JOBS --device D`.

JOBS is JSON of the caller, `iccld compare`. Each score is a JSON file as of `iccld evaluate`, with the confusion matrix
of every frame beside it, from which any set of classes and any resample of the frames can be scored later.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from iccld_cli.compare.scorefiles import write_score
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.explain import explain
from iccld_cli.inference.evaluate import Scope, evaluate, scored_classes
from iccld_cli.inference.model import Model, Sampling, load_model
from iccld_cli.names import shown


def score(model: Model, sha256: str, job: dict[str, Any]) -> dict[str, Any]:
    """Score a model on a split and write what was found.

    Args:
        model: The model.
        sha256: What tells its file from others.
        job: See `Plan.scoring_job`; `most` frames alone are scored, and nothing is written, where it is given.

    Returns:
        The JSON of the score; `wall` is seconds a frame without the first batch.

    Raises:
        IccldError: See `evaluate`; or the model knows none of the classes.
    """
    dataset = PreparedDataset(job["root"])
    space = dataset.info.label_space
    possible = scored_classes(model.header.classes, dataset)
    wanted = {space.names.index(name) for name in job["classes"] if name in space.names}
    if not wanted & set(possible):
        raise IccldError(
            "the model and the labels have none of the evaluation's classes in common", "see `iccld inspect`"
        )
    how = job["sampling"]
    sampling = Sampling(
        how["steps"], None, how["samples"], tuple(how["scales"]), how["flip"], how["height"], average=how["average"]
    )
    limit = job["most"] or job["limit"]
    scope = Scope(job["split"], tuple(sorted(wanted & set(possible))), limit, None, job["rule"], boundary=False)
    counts: list[np.ndarray] = []
    clock = [time.perf_counter()]
    marks: list[tuple[int, float]] = []
    found = evaluate(
        model, dataset, scope, sampling,
        lambda done, total: marks.append((done, time.perf_counter())),
        lambda frame, matrix: counts.append(matrix),
    )  # fmt: skip
    first, last = marks[0], marks[-1]
    later = last[0] - first[0]
    wall = (last[1] - first[1]) / later if later else (last[1] - clock[0]) / last[0]
    facts = {key: job[key] for key in ("data", "split", "limit", "rule", "classes", "sampling")}
    raw = {
        **found.to_json(),
        "facts": {**facts, "model": sha256},
        "knows": list(space.names_of(possible)),
        "wall": round(wall, 6),
    }
    if job["most"] is None:
        write_score(Path(job["path"]), raw, np.stack(counts))
    return raw


def main() -> None:
    """Score what the command line says, and print a line of JSON a score."""
    jobs, device = json.loads(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else "auto"
    model = load_model(Path(jobs["model"]), device)
    for job in jobs["jobs"]:
        found = score(model, jobs["sha256"], job)
        print(json.dumps({"path": job["path"], "miou": found["miou"], "wall": found["wall"]}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        explained = explain(error)
        text = str(explained) if isinstance(explained, IccldError) else repr(explained)
        print(f"error: {shown(text)}", file=sys.stderr)
        sys.exit(1)
