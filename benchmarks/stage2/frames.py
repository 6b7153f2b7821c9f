"""What the trials share before anything is trained: the frozen model, its frames, and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iccld_cli.adapt.batch import mix, source_crops, to_device
from iccld_cli.adapt.pseudo import ConfidenceGate, pseudo_label
from iccld_cli.checkpoint import load_segmenter
from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches, read_steps
from iccld_cli.models.pretrained import load_backbone
from iccld_cli.models.segmenter import resize_logits
from iccld_cli.train.data import open_data

SIZE = (480, 352)  # (width, height) of a whole frame as the networks see it
BATCH = 4
WARM_UP = 100  # frames that the gates of pseudo-labels see before they count
SCALES = (1.0, 0.75, 1.5)


@dataclass
class Frames:
    """What the networks need of N frames, computed once.

    Attributes:
        z: float16 (N, C_z, h/8, w/8).
        skip: float16 (N, S, h/4, w/4).
        labels: uint8 (N, h, w).
        weights: bool (N, h, w).
        answer: float16 (N, K, h/4, w/4), class probabilities of the frozen model.
        features: float16 (N, F, h/8, w/8) of the ImageNet encoder; of no channels where nothing uses them.
    """

    z: Tensor
    skip: Tensor
    labels: Tensor
    weights: Tensor
    answer: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.z)

    @classmethod
    def joined(cls, parts: Sequence[Frames]) -> Frames:
        """Several as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def of(self, rows: Tensor) -> Frames:
        """Some of them, in single precision."""
        rows = rows.to(self.z.device)
        picked = (getattr(self, field.name)[rows] for field in fields(self))
        return Frames(*(part.float() if part.dtype == torch.float16 else part for part in picked))


class Pyramid(nn.Module):
    """Features of the ImageNet encoder at 1/8, as they are."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.body = load_backbone(encoder).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, F, h/8, w/8)."""
        fine, middle, *coarse = self.body(images)
        size = middle.shape[-2:]
        parts = [F.pixel_unshuffle(fine, 2), middle]
        parts += [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in coarse]
        return torch.cat(parts, dim=1)


class Frozen:
    """E and D of a model file without its UNet, and the ImageNet encoder where one is asked for.

    Attributes:
        model: The model, in evaluation mode.
        header: What its file says.
        pyramid: The ImageNet encoder, or None.
    """

    def __init__(self, ckpt: Path, encoder: str | None, device: torch.device) -> None:
        self.device = device
        self.model, self.header = load_segmenter(ckpt, device)
        self.model.denoiser = None
        self.model.eval().requires_grad_(False)
        self.pyramid = None if encoder is None else Pyramid(encoder).to(device)

    @torch.no_grad()
    def encoded(self, images: Tensor, labels: Tensor, weights: Tensor) -> Frames:
        """Images (B, 3, h, w) with labels and weights (B, h, w) as `Frames`."""
        z, skip, _ = self.model.encoder(images)
        assert skip is not None
        answer = self.model.decoder(z, skip).float().softmax(1)
        features = images.new_zeros(len(images), 0, 1, 1) if self.pyramid is None else self.pyramid(images)
        used, ids = weights > 0.5, labels.to(torch.uint8)
        return Frames(z.half(), skip.half(), ids, used, answer.half(), features.half())

    def seen(self, pixels: Tensor) -> Frames:
        """A frame (1, 3, H, W) of any size without labels, in single precision."""
        image = F.interpolate(pixels, SIZE[::-1], mode="bilinear", align_corners=False)
        blank = torch.zeros(1, *SIZE[::-1], device=self.device)
        return self.encoded(image, blank, blank).of(torch.tensor([0]))

    @torch.no_grad()
    def plain(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (1, K, *size) of a frame (1, 3, H, W)."""
        return self.model.probabilities(pixels, 0, size=size)

    @torch.no_grad()
    def views(self, pixels: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Probabilities (1, K, *size) of a frame (1, 3, H, W): plain, mirrored, and both at the other scales."""
        found = []
        for scale in SCALES:
            for mirrored in (False, True):
                seen = F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False, antialias=True)
                (logits,) = self.model.logits(self.model.fit(seen.flip(-1) if mirrored else seen), 0)
                logits = logits.flip(-1) if mirrored else logits
                found.append(resize_logits(logits, size).softmax(1))
        return found


@dataclass
class Training:
    """The frames that a trial learns from.

    Attributes:
        labelled: Source frames with their own labels, then as many of ClassMix of source and target frames, with
            pseudo-labels.
        target: With pseudo-labels.
    """

    labelled: Frames
    target: Frames

    @property
    def source(self) -> Frames:
        """The source frames, which take no memory of their own."""
        return Frames(*(getattr(self.labelled, f.name)[: len(self.labelled) // 2] for f in fields(Frames)))


def training_frames(
    frozen: Frozen, sources: Sequence[Path], target: Path, count: int, workers: int, warm_up: int = WARM_UP
) -> Training:
    """Encode `count` source, mixed and target frames each."""
    config = load_config(
        "small",
        overrides={
            "data.crop": SIZE, "data.batch_size": BATCH, "data.workers": workers, "data.source_scale": (1.0, 1.0),
            "data.target_scale": (1.0, 1.0), "data.rare_class_pixels": 1000,
        },
    )  # fmt: skip
    data = open_data(list(sources), [target], start=frozen.header)
    batches = TrainingBatches(
        config.data, 0, FramePool.of(data.sources), FramePool.of(data.targets), data.classes, folds=data.folds
    )
    gate = ConfidenceGate(config.pseudo, len(data.space)).to(frozen.device)
    warm, steps = warm_up // BATCH, max(count // BATCH, 1)
    parts: tuple[list[Frames], list[Frames], list[Frames]] = ([], [], [])
    with torch.no_grad():
        for step, (loaded,) in enumerate(read_steps(batches, 0, warm + steps, frozen.device.type == "cuda")):
            batch = to_device(loaded, config, step, frozen.device)
            pseudo = pseudo_label(frozen.model, gate, batch)
            if step < warm:
                continue
            crops = source_crops(batch), mix(batch, pseudo.labels, pseudo.weights)
            for found, part in zip(parts, crops, strict=False):
                found.append(frozen.encoded(part.images, part.labels, part.weights))
            assert batch.target is not None
            parts[2].append(frozen.encoded(batch.target, pseudo.labels, pseudo.weights))
    found = Training(Frames.joined([*parts[0], *parts[1]]), Frames.joined(parts[2]))
    del parts
    if frozen.device.type == "cuda":
        torch.cuda.empty_cache()  # others share the device
    return found


class Draws:
    """Random numbers of a run: few and small ones on the host, fields of noise where they are used."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.host, self.device = torch.Generator().manual_seed(seed), device
        self._noise = torch.Generator(device).manual_seed(seed + 1_000_003)  # another stream, on a CPU too

    def rows(self, count: int, of: Frames) -> Tensor:
        """Numbers of `count` frames, with repetition."""
        return torch.randint(len(of), (count,), generator=self.host)

    def uniform(self, count: int) -> Tensor:
        """(count,) in [0, 1), on the host."""
        return torch.rand(count, generator=self.host)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, on the device."""
        return torch.randn(shape, generator=self._noise, device=self.device)

    def blocks(self, size: tuple[int, int], share: Tensor) -> Tensor:
        """Masks, bool (N, h, w) on the device: blocks of 2 to 4 cells hidden at random, `share` (N,) of them."""
        found = []
        for row in share:
            side = int(torch.randint(2, 5, (), generator=self.host))
            coarse = torch.rand(-(-size[0] // side), -(-size[1] // side), generator=self.host) < row
            found.append(coarse.repeat_interleave(side, 0).repeat_interleave(side, 1)[: size[0], : size[1]])
        return torch.stack(found).to(self.device)
