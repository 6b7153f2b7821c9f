"""What a training starts from: a pretrained or random encoder, or any model file."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iccld_cli.checkpoint import check_segmenter, load_segmenter
from iccld_cli.config import Config
from iccld_cli.errors import IccldError
from iccld_cli.header import ModelHeader
from iccld_cli.models.backbones import HuggingFaceBackbone
from iccld_cli.models.build import TINY, build_denoiser, build_segmenter, join
from iccld_cli.models.pretrained import load_backbone
from iccld_cli.models.segmenter import Segmenter


@dataclass(frozen=True)
class Start:
    """The start of a stage.

    Attributes:
        path: The model file, or None for a pretrained or random encoder and random weights elsewhere.
        header: What the file says.
    """

    path: Path | None = None
    header: ModelHeader | None = None

    def resume_key(self) -> dict[str, Any]:
        """What a resumed run must agree on, by a name that a message can show."""
        if self.header is None:
            return {}
        stage1 = self.header.stage != "stage2"
        return {"stage 1 model" if stage1 else "start model": self.header.sha256}

    def datasets(self, role: str) -> list[Path]:
        """Folders of the `source` or `target` data sets that the file was trained on, where it names them."""
        rows = [] if self.header is None else self.header.datasets
        return [Path(row["path"]) for row in rows if row["role"] == role and "path" in row]

    def check(self, config: Config) -> None:
        """Refuse a configuration of other sizes than the file's.

        Raises:
            IccldError: A size differs.
        """
        if self.header is None:
            return
        for key in config.fixed_by(self.header.config, generator=self._has_unet()):
            raise IccldError(
                f"{key} is fixed by {self.path}", "leave it out, or train a model of that size from the start"
            )

    def stage1_student(self, config: Config, classes: int) -> Segmenter:
        """The network that stage 1 trains: E and D, no UNet.

        Args:
            config: The configuration.
            classes: K, classes of the label space.
        """
        if self.path is None:
            return build_segmenter(config, classes, denoiser=False, seed=config.run.seed)
        model = self._load()
        return join(model.encoder, model.decoder, None, config)

    def stage2_student(self, config: Config) -> Segmenter:
        """The network that stage 2 trains: the file's E and D, and its UNet or, where it has none, a fresh one."""
        model = self._load()
        torch.manual_seed(config.run.seed)
        denoiser = None
        if config.adv.generate:
            denoiser = model.denoiser if model.denoiser is not None else build_denoiser(config)
        return join(model.encoder, model.decoder, denoiser, config)

    def pretrained_backbone(self, config: Config, student: Segmenter) -> nn.Module | None:
        """The encoder that feature distance measures from: always the pretrained one, never an adapted one.

        Returns:
            The backbone, or None where nothing is measured from it.

        Raises:
            IccldError: It is not at hand, or of another architecture than the model file's.
        """
        if config.seg.feature_distance_weight == 0 or config.model.encoder == TINY:
            return None
        if self.path is None:
            return copy.deepcopy(student.encoder.backbone)
        hint = "name the pretrained encoder with --encoder, or use --set seg.feature_distance_weight=0"
        try:
            backbone = load_backbone(config.model.encoder)
        except IccldError as error:
            raise IccldError(
                f"feature distance needs the pretrained encoder {config.model.encoder!r}, which {self.path} does not "
                f"hold ({error.message})",
                hint,
            ) from None
        own = student.encoder.backbone
        if not isinstance(own, HuggingFaceBackbone) or backbone.channels != own.channels:
            raise IccldError(f"encoder {config.model.encoder!r} is not of the architecture of {self.path}", hint)
        return backbone

    def _load(self) -> Segmenter:
        assert self.path is not None
        return load_segmenter(self.path)[0]

    def _has_unet(self) -> bool:
        return self.header is not None and self.header.stage == "stage2" and self.header.config.adv.generate


def open_start(path: Path | None) -> Start:
    """Read what a model file says.

    Args:
        path: A model file of any stage; None for no file.

    Raises:
        IccldError: It is missing, damaged, not a model of this program, or describes another model than it holds.
    """
    return Start() if path is None else Start(path, check_segmenter(path))
