"""What all trials with frozen E and D have in common: training on encoded frames, and judging."""

from __future__ import annotations

import abc
import argparse
import copy
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from stage2.frames import BATCH, Draws, Frames, Frozen, training_frames
from stage2.scores import Scored, rules_of, score
from torch import Tensor, nn

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference.device import pick_device
from iccld_cli.labels import IGNORE
from iccld_cli.models.segmenter import resize_logits

Passes = dict[str, tuple[Tensor, dict[str, list[Tensor]]]]
"""Name of an answer -> its logits, and those of further passes that say how unsure it is."""


def copied(module: nn.Module) -> nn.Module:
    """A copy that can be trained."""
    return copy.deepcopy(module).requires_grad_(True)


def cross_entropy(logits: Tensor, frames: Frames) -> Tensor:
    """Over the pixels of the frames that have a label and count."""
    size = (frames.labels.shape[-2], frames.labels.shape[-1])
    loss = F.cross_entropy(resize_logits(logits, size), frames.labels.long(), ignore_index=IGNORE, reduction="none")
    used = frames.weights & (frames.labels != IGNORE)
    return (loss * used).sum() / used.sum().clamp(min=1)


class Trial(abc.ABC):
    """The frozen model, the frames, and what the trials share.

    Attributes:
        frozen: The model.
        frames: What is trained on.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.frozen = Frozen(options.ckpt, self.encoder(options), self.device)
        self.frames = training_frames(
            self.frozen, options.source, options.target, options.frames, options.workers, options.warm_up
        )

    def encoder(self, options: argparse.Namespace) -> str | None:
        """The ImageNet encoder whose features the trial uses."""
        return None

    def autocast(self) -> torch.autocast:
        """bf16, on a CPU too."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def train(self, network: nn.Module, seed: int) -> nn.Module:
        """Train, and return the mean of the weights over the last part of the run."""
        draws, steps = Draws(seed, self.device), self.options.steps
        optimizer = torch.optim.AdamW(network.groups(), weight_decay=0.01)  # type: ignore[operator]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - step / steps) ** 0.9
        )
        mean = copied(network).requires_grad_(False)
        pairs = [*zip(mean.state_dict().values(), network.state_dict().values(), strict=True)]
        olds, news = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        network.train()
        began = time.perf_counter()
        for step in range(steps):
            labelled = self.frames.labelled.of(draws.rows(BATCH, self.frames.labelled))
            target = self.frames.target.of(draws.rows(BATCH // 2, self.frames.target))
            loss = self.loss(network, labelled, target, draws)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            torch._foreach_lerp_(olds, news, 1 - min(0.98, step / (step + 10)))
            if step % 25 == 0:
                said = f"  step {step}  loss {float(loss.detach()):.3f}{self.told()}"
                print(f"{said}  {time.perf_counter() - began:.0f} s", flush=True)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)
        return mean.eval()

    def told(self) -> str:
        """What is printed beside the loss."""
        return ""

    @abc.abstractmethod
    def loss(self, network: nn.Module, labelled: Frames, target: Frames, draws: Draws) -> Tensor:
        """The loss of a step: a scalar."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """What is trained, with random weights, on the host."""

    @abc.abstractmethod
    def more(self, network: nn.Module, encoded: Frames) -> Passes:
        """What the trial says of one frame."""

    @torch.no_grad()
    def judge(self, network: nn.Module, data: PreparedDataset, split: str) -> dict[str, dict[str, float]]:
        """Rule -> scores of the trial's own rules on a split."""

        def rules(pixels: Tensor, size: tuple[int, int]) -> Iterator[Scored]:
            for name, (answer, further) in self.more(network, self.frozen.seen(pixels)).items():
                views = {key: [resize_logits(one, size).softmax(1) for one in of] for key, of in further.items()}
                yield from rules_of(name, resize_logits(answer, size).softmax(1), views)

        return score(rules, self.frozen.header, data, split, self.device, self.options.limit)


@torch.no_grad()
def judge_frozen(
    frozen: Frozen, name: str, data: PreparedDataset, split: str, limit: int | None, views: bool = True
) -> dict[str, dict[str, float]]:
    """Rule -> scores of E and D as they are and, with `views`, of the mirror image and the other scales."""

    def rules(pixels: Tensor, size: tuple[int, int]) -> Iterator[Scored]:
        if not views:
            yield from rules_of(name, frozen.plain(pixels, size), {})
            return
        seen = frozen.views(pixels, size)
        yield from rules_of(name, seen[0], {"flip": [seen[1]], "flip and scales": seen[1:]})
        yield from rules_of(f"{name}, mean of flip and scales", sum(seen) / len(seen), {})

    return score(rules, frozen.header, data, split, frozen.device, limit)
