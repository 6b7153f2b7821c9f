"""Two other ways to use a diffusion after stage 1, tried with E and D frozen: evidence masks, and noise on the answer.

    python benchmarks/stage2_trials.py masked --source data/carla --source data/virtual-camera \\
        --source data/virtual-game --target data/camvid --encoder MOBILENET_V2_FOLDER --seeds 0 1 --json masked.json
    python benchmarks/stage2_trials.py repair ...                     # the same options

`masked`, evidence-masked diffusion. The noise is which blocks of cells of z_0 and of the inter-coder features are
hidden; the time step is the hidden share. The UNet fills in, and learns cross-entropy on source and mixed frames and
the unmasked answer on target frames. The answer is that of the unmasked pass. Four complementary masks hide every cell
once; 1 - mean p of the answer over them says how unsure it is, and is compared with the same score over mirrored and
rescaled views.

`repair`, noise on the model's own answer (after DDPS, Lai et al. 2023, arXiv 2306.01721). The class probabilities are
embedded and noised; a wider UNet, conditioned on features of the ImageNet encoder that never saw a label, predicts a
better answer. The answers that it learns from are made worse on purpose, for on its own training frames the model is
too often right: hidden blocks, and no inter-coder features in half of the frames.

Networks see whole frames. What E gives is computed once for a fixed number of source, mixed and target frames, so that
a step costs no pass of E. RESULTS.md holds what came out.
"""

from __future__ import annotations

import abc
import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from iccld_cli.adapt.batch import mix, source_crops, to_device
from iccld_cli.adapt.pseudo import ConfidenceGate, pseudo_label
from iccld_cli.checkpoint import load_segmenter
from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.evaluate import folded_predictions, labelled_frames, scored_classes
from iccld_cli.labels import IGNORE
from iccld_cli.metrics.calibration import ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix
from iccld_cli.models.denoiser import Denoiser
from iccld_cli.models.pretrained import load_backbone
from iccld_cli.models.segmenter import Segmenter, resize_logits
from iccld_cli.train.data import open_data

SIZE = (480, 352)  # (width, height) of a whole frame as the networks see it
BATCH = 4
WARM_UP = 100  # frames that the gates of pseudo-labels see before they count


@dataclass
class Frames:
    """What the networks need of N frames, computed once.

    Attributes:
        z: float16 (N, C_z, h/8, w/8).
        skip: float16 (N, S, h/4, w/4).
        labels: uint8 (N, h, w).
        weights: bool (N, h, w).
        answer: float16 (N, K, h/4, w/4), class probabilities of the frozen model.
        features: float16 (N, F, h/8, w/8) of the ImageNet encoder; of no channels for `masked`.
    """

    z: Tensor
    skip: Tensor
    labels: Tensor
    weights: Tensor
    answer: Tensor
    features: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Frames]) -> Frames:
        """Several as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def of(self, rows: Tensor) -> Frames:
        """Some of them, in single precision."""
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


class Masked(nn.Module):
    """The UNet that fills in hidden cells, and a decoder that learns with it."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        adv = model.config.model
        self.unet = Denoiser(adv.latent_channels, tuple(adv.unet_channels), adv.unet_layers, adv.unet_attention)
        self.decoder = _copy(model.decoder)
        self.hidden_z = nn.Parameter(torch.zeros(1, adv.latent_channels, 1, 1))
        self.hidden_skip = nn.Parameter(torch.zeros(1, adv.skip_channels, 1, 1))

    def forward(self, z: Tensor, skip: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, K, h/4, w/4) of latents of which `hidden`, bool (B, h/8, w/8), is not shown."""
        mask = hidden[:, None].to(z.dtype)
        fine = F.interpolate(mask, scale_factor=2, mode="nearest")
        z = z * (1 - mask) + self.hidden_z * mask
        skip = skip * (1 - fine) + self.hidden_skip * fine
        timesteps = (999 * hidden.float().mean((1, 2))).long()
        return self.decoder(self.unet(mask.expand_as(z), timesteps, z), skip).float()

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their rates."""
        slow = [*self.decoder.parameters()]
        fast = [*self.unet.parameters(), self.hidden_z, self.hidden_skip]
        return [{"params": fast, "lr": 1e-3}, {"params": slow, "lr": 3e-4}]


class Repairer(nn.Module):
    """(noised answer, t; ImageNet features) -> a better answer, as a change of the old one's logarithms."""

    WIDTHS, EMBEDDING, CONDITION = (96, 160, 224), 64, 128

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4 * classes, self.EMBEDDING, 1)
        self.condition = nn.Sequential(nn.BatchNorm2d(features), nn.Conv2d(features, self.CONDITION, 1))
        self.unet = UNet2DModel(
            in_channels=2 * self.EMBEDDING + self.CONDITION,
            out_channels=4 * classes,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            block_out_channels=self.WIDTHS,
            layers_per_block=2,
            norm_num_groups=8,
            add_attention=False,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, answer: Tensor, features: Tensor, share: Tensor, noise: Tensor) -> Tensor:
        """Logits (B, K, h/4, w/4).

        Args:
            answer: Probabilities of the model (B, K, h/4, w/4).
            features: (B, F, h/8, w/8).
            share: (B,) of noise, in [0, 1].
            noise: Standard normal (B, EMBEDDING, h/8, w/8).
        """
        old = self.embed(F.pixel_unshuffle(answer, 2))
        of_noise = share.view(-1, 1, 1, 1)
        noised = (1 - of_noise).sqrt() * old + of_noise.sqrt() * noise
        given = torch.cat([noised, old, self.condition(features)], dim=1)
        change = F.pixel_shuffle(self.unet(given, (999 * share).long()).sample.float(), 2)
        return answer.float().clamp(min=1e-4).log() + change

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their rates."""
        return [{"params": [*self.parameters()], "lr": 1e-3}]


def blocks(count: int, size: tuple[int, int], share: Tensor, rng: torch.Generator) -> Tensor:
    """Masks, bool (count, h, w): blocks of 2 to 4 cells hidden at random, `share` (count,) of them."""
    found = []
    for row in range(count):
        side = int(torch.randint(2, 5, (), generator=rng))
        coarse = torch.rand(-(-size[0] // side), -(-size[1] // side), generator=rng) < share[row]
        found.append(coarse.repeat_interleave(side, 0).repeat_interleave(side, 1)[: size[0], : size[1]])
    return torch.stack(found)


def complementary(size: tuple[int, int], side: int = 3) -> list[Tensor]:
    """Four masks, bool (1, h, w), that hide every cell once."""
    rows, columns = torch.arange(size[0])[:, None] // side, torch.arange(size[1])[None] // side
    of = (rows % 2) * 2 + columns % 2
    return [(of == number)[None] for number in range(4)]


def _copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(True)


class Trial(abc.ABC):
    """The frozen model, the frames, and what both trials share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model, self.header = load_segmenter(options.ckpt)
        self.model.denoiser = None
        self.model.eval().requires_grad_(False)
        self.config = load_config(
            "small",
            overrides={
                "data.crop": SIZE, "data.batch_size": BATCH, "data.workers": 0, "data.source_scale": (1.0, 1.0),
                "data.target_scale": (1.0, 1.0), "data.rare_class_pixels": 1000,
            },
        )  # fmt: skip
        self.pyramid = Pyramid(options.encoder) if options.trial == "repair" else None
        self.labelled, self.target = self._frames()
        self._of_start: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}  # by frame, once for all seeds

    @torch.no_grad()
    def _frames(self) -> tuple[Frames, Frames]:
        data = open_data(self.options.source, [self.options.target], start=self.header)
        batches = TrainingBatches(
            self.config.data, 0, FramePool.of(data.sources), FramePool.of(data.targets), data.classes, folds=data.folds
        )
        gate = ConfidenceGate(self.config.pseudo, len(data.space))
        warm, count = WARM_UP // BATCH, self.options.frames // BATCH
        labelled, target = [], []
        for step in range(warm + count):
            batch = to_device(batches[step], self.config, step, torch.device("cpu"))
            pseudo = pseudo_label(self.model, gate, batch)
            if step < warm:
                continue
            for crops in (source_crops(batch), mix(batch, pseudo.labels, pseudo.weights)):
                labelled.append(self._encoded(crops.images, crops.labels, crops.weights))
            assert batch.target is not None
            target.append(self._encoded(batch.target, pseudo.labels, pseudo.weights))
        return Frames.joined(labelled), Frames.joined(target)

    def _encoded(self, images: Tensor, labels: Tensor, weights: Tensor) -> Frames:
        z, skip, _ = self.model.encoder(images)
        assert skip is not None
        answer = self.model.decoder(z, skip).float().softmax(1)
        features = images.new_zeros(len(images), 0, 1, 1) if self.pyramid is None else self.pyramid(images)
        used, ids = weights > 0.5, labels.to(torch.uint8)
        return Frames(z.half(), skip.half(), ids, used, answer.half(), features.half())

    def train(self, network: nn.Module, seed: int) -> nn.Module:
        """Train, and return the mean of the weights over the last part of the run."""
        rng = torch.Generator().manual_seed(seed)
        steps = self.options.steps
        optimizer = torch.optim.AdamW(network.groups(), weight_decay=0.01)  # type: ignore[operator]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - step / steps) ** 0.9
        )
        mean = _copy(network).requires_grad_(False)
        network.train()
        began = time.perf_counter()
        for step in range(steps):
            labelled = self.labelled.of(torch.randint(len(self.labelled.z), (BATCH,), generator=rng))
            target = self.target.of(torch.randint(len(self.target.z), (BATCH // 2,), generator=rng))
            loss = self.loss(network, labelled, target, rng)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            decay = min(0.98, step / (step + 10))
            with torch.no_grad():
                for old, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
                    old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)
            if step % 25 == 0:
                print(
                    f"  step {step}  loss {float(loss.detach()):.3f}  {time.perf_counter() - began:.0f} s", flush=True
                )
        return mean.eval()

    @abc.abstractmethod
    def loss(self, network: nn.Module, labelled: Frames, target: Frames, rng: torch.Generator) -> Tensor:
        """The loss of a step: a scalar."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """What is trained, with random weights."""

    @abc.abstractmethod
    def more(self, network: nn.Module, encoded: Frames) -> dict[str, Any]:
        """Of one frame: name -> (logits that answer, key -> logits of further passes) of the trial's own rules."""

    @torch.no_grad()
    def judge(self, network: nn.Module, data: PreparedDataset, split: str) -> dict[str, dict[str, float]]:
        """Rule -> mIoU and AUROC in percent of the labelled frames of a split."""
        classes = scored_classes(self.header.classes, data)
        fold, scored = np.arange(256, dtype=np.uint8), np.zeros(256, bool)
        for fine, coarse in folded_predictions(self.header.classes, data).items():
            fold[fine] = coarse
        scored[list(classes)] = True
        found: dict[str, tuple[ErrorDetection, ConfusionMatrix]] = {}
        for frame in labelled_frames(data, split, self.options.limit):
            label = data.read_label(frame)
            pixels = torch.from_numpy(data.read_image(frame)).permute(2, 0, 1)[None].float() / 255
            rules = self._rules(network, pixels, label.shape, frame.image)
            for name, answer, score in rules:
                detection, matrix = found.setdefault(
                    name, (ErrorDetection(), ConfusionMatrix(len(self.header.label_space)))
                )
                labels, valid = fold[answer], scored[label]
                matrix.update(labels, label)
                detection.update(score[valid], (labels == label)[valid])
        return {
            name: {"miou": 100 * matrix.scores(classes).miou, "auroc": 100 * detection.value()}
            for name, (detection, matrix) in found.items()
        }

    def _rules(
        self, network: nn.Module, pixels: Tensor, size: tuple[int, int], frame: str
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        if frame not in self._of_start:
            self._of_start[frame] = [*self._start_rules(pixels, size)]
        yield from self._of_start[frame]
        image = F.interpolate(pixels, SIZE[::-1], mode="bilinear", align_corners=False)
        blank = torch.zeros(1, *SIZE[::-1])
        encoded = self._encoded(image, blank, blank).of(torch.tensor([0]))
        for name, (answer, further) in self.more(network, encoded).items():
            views = {key: [resize_logits(one, size).softmax(1) for one in of] for key, of in further.items()}
            yield from _scored(name, resize_logits(answer, size).softmax(1), views)

    def _start_rules(self, pixels: Tensor, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        views = []
        for scale in (1.0, 0.75, 1.5):
            for mirrored in (False, True):
                seen = F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False, antialias=True)
                seen = seen.flip(-1) if mirrored else seen
                (logits,) = self.model.logits(self.model.fit(seen), 0)
                logits = logits.flip(-1) if mirrored else logits
                views.append(resize_logits(logits, size).softmax(1))
        for name, labels, score in _scored("start", views[0], {"flip": [views[1]], "flip and scales": views[1:]}):
            yield name, labels, score.astype(np.float16)


def _scored(
    name: str, answer: Tensor, further: dict[str, list[Tensor]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    labels = answer.argmax(1, keepdim=True)
    entropy = -(answer * answer.clamp(min=1e-30).log()).sum(1) / np.log(answer.shape[1])
    flat = labels[0, 0].numpy().astype(np.uint8)
    yield f"{name}; entropy", flat, entropy[0].numpy().clip(0, 1)
    yield f"{name}; 1 - p", flat, 1 - answer.gather(1, labels)[0, 0].numpy()
    for key, views in further.items():
        for title, of in ((key, views), (f"{key}, and the plain pass", [answer, *views])):
            mean = torch.stack([view.gather(1, labels)[0, 0] for view in of]).mean(0)
            yield f"{name}; 1 - mean p of {title}", flat, (1 - mean).numpy().clip(0, 1)


def _cross_entropy(logits: Tensor, frames: Frames) -> Tensor:
    loss = F.cross_entropy(
        resize_logits(logits, (frames.labels.shape[-2], frames.labels.shape[-1])),
        frames.labels.long(), ignore_index=IGNORE, reduction="none",
    )  # fmt: skip
    used = frames.weights & (frames.labels != IGNORE)
    return (loss * used).sum() / used.sum().clamp(min=1)


class MaskedTrial(Trial):
    """Evidence masks."""

    def network(self) -> nn.Module:
        return Masked(self.model)

    def loss(self, network: nn.Module, labelled: Frames, target: Frames, rng: torch.Generator) -> Tensor:
        count = len(labelled.z) + len(target.z)
        share = torch.rand(count, generator=rng) * 0.75
        share[torch.rand(count, generator=rng) < 0.25] = 0  # the unmasked pass, which answers
        hidden = blocks(count, (SIZE[1] // 8, SIZE[0] // 8), share, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.cat([labelled.z, target.z]), torch.cat([labelled.skip, target.skip]), hidden)
        known, unknown = logits[: len(labelled.z)], logits[len(labelled.z) :]
        agreed = F.cross_entropy(unknown, target.answer)
        return _cross_entropy(known, labelled) + agreed

    def more(self, network: nn.Module, encoded: Frames) -> dict[str, Any]:
        size = (SIZE[1] // 8, SIZE[0] // 8)
        nothing = torch.zeros(1, *size, dtype=torch.bool)
        hidden = [network(encoded.z, encoded.skip, mask) for mask in complementary(size)]
        return {"masked": (network(encoded.z, encoded.skip, nothing), {"four masks": hidden})}


class RepairTrial(Trial):
    """Noise on the model's own answer."""

    def network(self) -> nn.Module:
        return Repairer(self.labelled.answer.shape[1], self.labelled.features.shape[1])

    @torch.no_grad()
    def _worse(self, frames: Frames, rng: torch.Generator) -> Tensor:
        """The frozen model's answer to evidence with holes."""
        share = torch.rand(len(frames.z), generator=rng) * 0.5
        mask = blocks(len(frames.z), (frames.z.shape[-2], frames.z.shape[-1]), share, rng)[:, None].float()
        keep = (torch.rand(len(frames.z), generator=rng) < 0.5).float().view(-1, 1, 1, 1)
        return self.model.decoder(frames.z * (1 - mask), frames.skip * keep).float().softmax(1)

    def loss(self, network: nn.Module, labelled: Frames, target: Frames, rng: torch.Generator) -> Tensor:
        both = Frames.joined([labelled, target])
        answer, count = self._worse(both, rng), len(both.z)
        share = torch.rand(count, generator=rng)
        noise = torch.randn(count, Repairer.EMBEDDING, *both.z.shape[-2:], generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(answer, both.features, share, noise)
        return _cross_entropy(logits, both)

    def more(self, network: nn.Module, encoded: Frames) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for share in (0.0, 0.5):
            rng = torch.Generator().manual_seed(0)
            noises = [torch.randn(1, Repairer.EMBEDDING, *encoded.z.shape[-2:], generator=rng) for _ in range(4)]
            of = torch.full((1,), share)
            first, *others = (network(encoded.answer, encoded.features, of, noise) for noise in noises)
            found[f"repaired, {share:.0%} noise"] = (first, {"four noises": others} if share else {})
        return found


def main() -> None:
    """Train a trial for each seed, judge it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=("masked", "repair"))
    parser.add_argument("--ckpt", type=Path, default=Path(__file__).parents[1] / "assets" / "iccld-small.safetensors")
    parser.add_argument("--source", type=Path, action="append", required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--encoder", default="google/mobilenet_v2_1.0_224", help="Its features are the condition.")
    parser.add_argument("--splits", nargs="+", default=["val"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--frames", type=int, default=400, help="Source, mixed and target frames, of each.")
    parser.add_argument("--limit", type=int, help="Judged frames, evenly spread.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trial = (MaskedTrial if options.trial == "masked" else RepairTrial)(options)
    data, found = PreparedDataset(options.target), []
    for seed in options.seeds:
        torch.manual_seed(seed)
        network = trial.network()
        print(f"{options.trial}, seed {seed}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")
        for steps in (0, options.steps) if seed == options.seeds[0] else (options.steps,):
            began = time.process_time()
            judged = trial.train(network, seed) if steps else network.eval()
            seconds = time.process_time() - began
            for split in options.splits:
                scores = trial.judge(judged, data, split)
                found.append({"seed": seed, "steps": steps, "split": split, "cpu_seconds": seconds, "scores": scores})
                print(f"| seed {seed}, {steps} steps, {split} | mIoU | AUROC |\n|---|---|---|")
                for name, row in scores.items():
                    print(f"| {name} | {row['miou']:.2f} | {row['auroc']:.2f} |", flush=True)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            network.train()


if __name__ == "__main__":
    main()
