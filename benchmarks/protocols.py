"""What a training adapts to and what it is then scored on: the judges that settings are chosen with.

    python benchmarks/protocols.py unseen-drive --camvid CAMVID --out runs/unseen-drive/data
    iccld compare benchmarks/carla-camvid.toml --out runs/unseen-drive ...    # with the --data options that this prints

CamVid's `val` (one bright drive, 0016E5) has its sister frames among the 367 training images, so it cannot tell how a
model does on a drive that it was not adapted to. The protocols here split CamVid by drive. They read the SegNet
layout, prepare what they need once under OUT with the program's own command, and find it there the next time.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SPLITS = {"train": "trainannot", "val": "valannot", "test": "testannot"}
DRIVES = {"train": ("0001TP", "0006R0", "0016E5"), "val": ("0016E5",), "test": ("0001TP", "Seq05VD")}
"""The recordings of each split of the SegNet layout."""


@dataclass(frozen=True)
class Protocol:
    """A way to judge a setting.

    Attributes:
        title: What it does, for the table.
        adapt: Drives whose frames of `train` are adapted to.
        judges: Further evaluations beside `val` and `test`: name -> drives of `train` that are scored with their
            labels. No training reads these labels but the oracle's.
    """

    title: str
    adapt: tuple[str, ...]
    judges: dict[str, tuple[str, ...]]


BRIGHT, DARKER = ("0016E5",), ("0001TP", "0006R0")
PROTOCOLS = {
    "usual": Protocol("adapted to all training frames", DRIVES["train"], {}),
    "unseen-drive": Protocol("adapted to 0001TP and 0006R0, `val` is an unseen drive", DARKER, {"adapted": DARKER}),
    "unseen-dusk": Protocol("adapted to 0016E5; 0001TP and 0006R0 are unseen drives", BRIGHT, {"unseen": DARKER}),
}


@dataclass(frozen=True)
class Prepared:
    """The prepared data sets of a protocol.

    Attributes:
        scored: Adapted to without labels; its `val` and `test` are scored.
        judges: Evaluation name -> data set whose `train` split is scored too.
    """

    scored: Path
    judges: dict[str, Path]


def prepare(name: str, camvid: Path, out: Path) -> Prepared:
    """Prepare the data sets of a protocol, or find them.

    Args:
        name: A key of `PROTOCOLS`.
        camvid: CamVid in the SegNet layout.
        out: Folder for what is prepared.

    Raises:
        SystemExit: CamVid is not what the protocol needs; one line says what.
        subprocess.CalledProcessError: `iccld prepare` failed.
    """
    protocol = PROTOCOLS[name]
    scored = _prepare(camvid, protocol.adapt, out)
    return Prepared(scored, {judge: _prepare(camvid, drives, out) for judge, drives in protocol.judges.items()})


def selection(camvid: Path, drives: tuple[str, ...]) -> list[tuple[str, Path, Path]]:
    """Frames (split, image, label): of `train` those of some drives, of `val` and `test` all."""
    held_back = [(split, *pair) for split in ("val", "test") for pair in _pairs(camvid, split)]
    return _train(camvid, drives) + held_back


def drive_of(image: Path) -> str:
    """The recording that a frame is of: what stands before the first underscore (`0016E5_08107.png`)."""
    return image.stem.partition("_")[0]


def _train(camvid: Path, drives: tuple[str, ...]) -> list[tuple[str, Path, Path]]:
    chosen = [("train", *pair) for pair in _pairs(camvid, "train") if drive_of(pair[0]) in drives]
    if missing := set(drives) - {drive_of(image) for _, image, _ in chosen}:
        sys.exit(f"{camvid}: train/ has no frame of {', '.join(sorted(missing))}")
    return chosen


def _pairs(camvid: Path, split: str) -> list[tuple[Path, Path]]:
    images = sorted((camvid / split).glob("*.*"))
    if not images:
        sys.exit(f"{camvid}: no images in {split}/; --camvid takes the SegNet layout (train/ trainannot/ val/ ...)")
    return [(image, camvid / SPLITS[split] / f"{image.stem}.png") for image in images]


def _prepare(camvid: Path, drives: tuple[str, ...], out: Path) -> Path:
    """Lay out CamVid with some drives in `train` and prepare it; nothing is done again."""
    name = "camvid-" + "-".join(drives)
    if (out / name / "dataset.json").exists():
        return out / name
    raw = out / "raw" / name
    shutil.rmtree(raw, ignore_errors=True)
    frames = selection(camvid, drives)
    for split, image, label in frames:
        for folder, file in ((split, image), (SPLITS[split], label)):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, raw / folder / file.name)
    command = [sys.executable, "-m", "iccld_cli", "prepare", "--camvid", str(raw), "--name", name, "--out", str(out)]
    print(f"preparing {name}: {len(frames)} frames", file=sys.stderr, flush=True)  # options alone go to stdout
    with open(out / f"{name}.log", "a", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return out / name


def options(found: Prepared, evaluations: tuple[str, ...] = ("val", "test")) -> list[str]:
    """The options of `iccld compare` that stand for a protocol: its sets, and the evaluations that it has."""
    judge = next(iter(found.judges.values()), None)
    given = ["--data", f"camvid={found.scored}", *(["--data", f"judge={judge}"] if judge else [])]
    return [*given, "--evaluations", ",".join([*evaluations, *(["judge"] if judge else [])])]


def main() -> None:
    """Prepare a protocol's sets and print the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid in the SegNet layout.")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(shlex.join(options(prepare(given.protocol, given.camvid, given.out))))


if __name__ == "__main__":
    main()
