"""What all pieces of a run share: device, folders, data."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from results import Deadline, call


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

    def render(self, deadline: Deadline) -> None:
        """Render the virtual town here, so that it need not travel; an interrupted rendering goes on."""
        count, size = (16, "96x64") if self.toy else (400, "512x384")
        command = [sys.executable, "-m", "iccld_cli", "prepare", "--virtual", str(count), "--look", "camera"]
        command += ["--look", "game", "--size", size, "--seed", "5", "--out", str(self.work / "town")]
        command += ["--workers", str(os.cpu_count() or 1)]
        status, said = call(command, deadline.left(), self.work / "town.log", OMP_NUM_THREADS="1")
        if status != 0:
            why = "time was up; run again to go on" if status is None else said.strip()[-300:]
            raise RuntimeError(f"rendering the town: {why}")

    def town(self, look: str) -> Path:
        """The prepared data set of a look of the town."""
        folder = self.work / f"town/virtual-{look}"
        if not (folder / "dataset.json").exists():
            raise RuntimeError("the town is not rendered; run the piece `town` first")
        return folder

    def data(self) -> tuple[list[Path], Path]:
        """Sources and the target: CARLA and the town to CamVid, or the town in two looks where there is no pack."""
        town = [self.town(look) for look in ("camera", "game")]
        if self.pack and (self.pack / "data/camvid").is_dir():
            return [self.pack / "data/carla", *town], self.pack / "data/camvid"
        return [town[1]], town[0]
