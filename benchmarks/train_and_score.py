"""Train with one command and score what comes out, in one process: result.json beside the model.

    python benchmarks/train_and_score.py --out runs/a --score data/camvid:val --score data/camvid:test \\
        --classes NAMES -- adapt-seg --source data/virtual-camera --target data/camvid --iterations 1200

What comes after `--` is a command of iccld without --out. Nothing is done where result.json is there already, and a
training that was stopped goes on. For many of them side by side on one machine: benchmarks/side_by_side.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from iccld_cli.cli.app import main as iccld
from iccld_cli.files import write_json

MODELS = ("stage2.safetensors", "stage1.safetensors")


def main() -> None:
    """Train, score, and write result.json."""
    options = _options()
    out = options.out
    if (out / "result.json").is_file():
        return
    began = time.monotonic()
    resumed = (out / "state").is_dir()
    run(*options.command, "--out", str(out), *(["--resume"] if resumed else []))
    trained = time.monotonic()
    ckpt = next(out / name for name in MODELS if (out / name).is_file())
    found: dict[str, Any] = {
        "command": options.command, "model": ckpt.name, "resumed": resumed, "train_seconds": round(trained - began, 1),
    }  # fmt: skip
    found["scores"] = {where: score(ckpt, where, options, out) for where in options.score}
    found["score_seconds"] = round(time.monotonic() - trained, 1)
    write_json(out / "result.json", found)


def score(ckpt: Path, where: str, options: argparse.Namespace, out: Path) -> Any:
    """What `iccld evaluate --json` says of SET:SPLIT."""
    data, split = where.rsplit(":", 1)
    path = out / f"score-{Path(data).name}-{split}.json"
    argv = ["evaluate", "--ckpt", str(ckpt), "--data", data, "--split", split, "--backend", "torch"]
    argv += ["--json", str(path)]
    argv += ["--classes", options.classes] if options.classes else []
    argv += ["--steps", options.steps] if options.steps and ckpt.name == MODELS[0] else []
    run(*argv)
    return json.loads(path.read_text(encoding="utf-8"))


def run(*argv: str) -> None:
    """A command of iccld in this process; its failure ends it."""
    sys.argv = ["iccld", *argv]
    try:
        iccld()
    except SystemExit as end:
        if end.code:
            raise


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--score", action="append", default=[], metavar="SET:SPLIT")
    parser.add_argument("--classes", help="Score these alone.")
    parser.add_argument("--steps", help="Denoising steps of a model with a UNet, such as 0,1.")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    main()
