"""What all pieces of a run share: device, folders, data."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """Where and on what to measure.

    Attributes:
        root: The repository.
        work: Folder for trainings, logs and rendered data; kept between runs.
        pack: Folder of `gpu_pack.py`, or None.
        device: `cuda` or `cpu`.
        toy: Toy sizes.
        seeds: Seeds of the accuracy rows.
        iterations: Steps of stage 1, or None for what the time allows.
    """

    root: Path
    work: Path
    pack: Path | None
    device: str
    toy: bool
    seeds: tuple[int, ...]
    iterations: int | None

    @classmethod
    def of(cls, options: argparse.Namespace, root: Path) -> Setting:
        """From the command line."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        options.work.mkdir(parents=True, exist_ok=True)
        pack = options.pack.resolve() if options.pack else None
        return cls(root, options.work.resolve(), pack, device, options.toy, tuple(options.seeds), options.iterations)

    @property
    def encoder(self) -> str | None:
        """Folder with MobileNetV2's weights, where the pack has it."""
        folder = self.pack / "weights/mobilenet_v2" if self.pack else None
        return str(folder) if folder and folder.is_dir() else None

    def town(self, look: str, count: int, size: str) -> Path:
        """A prepared data set of the virtual town, rendered here once: it need not travel."""
        out = self.work / "town" / f"virtual-{look}"
        if not (out / "dataset.json").exists():
            command = ["prepare", "--virtual", str(count), "--look", look, "--size", size, "--seed", "5"]
            self.iccld(*command, "--out", str(out.parent))
        return out

    def iccld(self, *arguments: str) -> None:
        """Run a command of the program."""
        done = subprocess.run([sys.executable, "-m", "iccld_cli", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"iccld {' '.join(arguments)}: {done.stderr.strip()[-300:]}")

    def data(self) -> tuple[list[Path], Path]:
        """Sources and the target: CARLA and the town to CamVid, or the town in two looks where there is no pack."""
        count, size = (16, "96x64") if self.toy else (400, "512x384")
        town = [self.town(look, count, size) for look in ("camera", "game")]
        if self.pack and (self.pack / "data/camvid").is_dir():
            return [self.pack / "data/carla", *town], self.pack / "data/camvid"
        return [town[1]], town[0]
