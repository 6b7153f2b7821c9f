"""The files of a score: JSON as of `iccld evaluate`, and the confusion matrix of every frame beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from iccld_cli.compare.spec import EvaluationSpec
from iccld_cli.files import atomic_path, write_json
from iccld_cli.reading import ReadError, read_json

_known: dict[Path, tuple[tuple[int, int, int, int], dict[str, Any], np.ndarray]] = {}


def score_path(folder: Path, evaluation: EvaluationSpec) -> Path:
    """The JSON of a score."""
    return folder / f"score-{evaluation.name}.json"


def write_score(path: Path, raw: dict[str, Any], confusion: np.ndarray) -> None:
    """Write both files, the JSON last.

    Args:
        path: The JSON.
        raw: What it holds; `confusion` in it is the sum.
        confusion: int64 (F, K, K), row = label, column = prediction.

    Raises:
        IccldError: They cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path.with_suffix(".safetensors")) as temporary:
        save_file({"confusion": confusion}, temporary)
    write_json(path, raw)


def read_score(path: Path) -> tuple[dict[str, Any], np.ndarray] | None:
    """Read both files; what was read is kept while they stay the same.

    Args:
        path: The JSON.

    Returns:
        The JSON, and int64 (F, K, K); None where one is missing or damaged, or they do not belong together, so that
        the score is taken again.
    """
    counts = path.with_suffix(".safetensors")
    try:
        stats = path.stat(), counts.stat()
        mark = (stats[0].st_mtime_ns, stats[0].st_size, stats[1].st_mtime_ns, stats[1].st_size)
        if path in _known and _known[path][0] == mark:
            return _known[path][1:]
        raw, confusion = read_json(path), load_file(counts)["confusion"].astype(np.int64)
        total = np.array(raw["confusion"]["counts"], np.int64)
        names = raw["confusion"]["classes"]
        whole = len(confusion) > 0 and confusion.shape[1:] == total.shape == (len(names), len(names))
        if not whole or not isinstance(raw["facts"], dict) or (confusion.sum(axis=0) != total).any():
            return None
    except (OSError, ReadError, SafetensorError, KeyError, TypeError, ValueError, OverflowError):
        return None
    _known[path] = (mark, raw, confusion)
    return raw, confusion
