"""`adapt.json`: what a run was asked for and what it has settled, so that the same command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.footage.options import FootageOptions
from iccld_cli.header import ModelHeader
from iccld_cli.reading import ReadError, read_json

MARKER = "adapt.json"


class Record:
    """The folder of a run: what it was asked for, what is settled for good, and how long it took so far.

    Attributes:
        tree: Its content; `options`, `seconds`, and what `keep` was given.
    """

    def __init__(self, options: FootageOptions, header: ModelHeader) -> None:
        self.path = options.out / MARKER
        self.fresh = not self.path.exists()
        asked: dict[str, Any] = {
            "footage": [str(Path(p).absolute()) for p in options.footage],
            "start": header.sha256,
            "minutes": None if options.iterations else options.minutes,
            "iterations": options.iterations,
            "val": None if options.val is None else str(options.val.absolute()),
            "seed": options.seed,
            "ignore_mask": None if options.ignore is None else str(options.ignore),
        }
        if options.labelled:
            asked["labelled"] = [[str(path.absolute()), PreparedDataset(path).digest] for path in options.labelled]
        if options.stage2:
            asked["stage2"] = True
        if options.answers:
            asked["answers"] = True
        if os.path.lexists(self.path):
            self.tree = self._read()
            before = self.tree["options"]
            known = asked.keys() | before.keys() & {"labelled", "stage2", "answers"}
            differs = sorted(key for key in known if before.get(key) != asked.get(key))
            if differs:
                raise IccldError(
                    f"{options.out} was begun with other options ({', '.join(differs)})",
                    "give the same ones, or choose another --out",
                )
            return
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise IccldError(f"{options.out} exists and holds something else", "choose another --out")
        self.tree = {"options": asked, "seconds": 0.0}
        write_json(self.path, self.tree)

    def _read(self) -> dict[str, Any]:
        """What an earlier run recorded."""
        try:
            tree = read_json(self.path)
        except ReadError as error:
            raise IccldError(f"{self.path} {error.message}", "choose another --out") from None
        steps = (int, type(None))
        numbers: dict[str, tuple[type, ...]] = {
            "seconds": (int, float),
            "iterations": steps,
            "iterations_stage2": steps,
            "answered": steps,
            "answer_seconds": (int, float, type(None)),
        }
        whole = isinstance(tree, dict) and isinstance(tree.get("options"), dict) and "seconds" in tree
        whole = whole and all(isinstance(tree.get(name), kinds) for name, kinds in numbers.items())
        targets = tree.get("targets", []) if whole else None
        pairs = tree.get("pairs", []) if whole else None
        answers = tree.get("answers", []) if whole else None
        whole = all(isinstance(roots, list) and all(isinstance(r, str) for r in roots) for roots in (targets, answers))
        whole = whole and isinstance(pairs, list) and all(_is_pairs(one) for one in pairs)
        if not whole:
            raise IccldError(f"{self.path} is damaged", "choose another --out")
        return dict(tree)

    @contextlib.contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """Leave nothing behind where footage that cannot be used was named in a folder that was not there before."""
        try:
            yield
        except IccldError:
            if self.fresh:
                shutil.rmtree(self.path.parent, ignore_errors=True)
            raise

    def note(self, began: float) -> float:
        """Record the seconds of this run so far on top of earlier ones; returns the sum."""
        seconds = float(self.tree["seconds"]) + time.perf_counter() - began
        write_json(self.path, {**self.tree, "seconds": seconds})
        return seconds

    def keep(self, key: str, value: Any) -> None:
        """Keep a fact for the next time."""
        self.tree[key] = value
        write_json(self.path, self.tree)


def _is_pairs(raw: Any) -> bool:
    """Whether this is what `flow.keep_pairs` returned."""
    return isinstance(raw, dict) and raw.keys() in ({"root"}, {"why"}) and all(isinstance(v, str) for v in raw.values())
