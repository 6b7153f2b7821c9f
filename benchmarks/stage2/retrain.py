"""E and D trained again: on repaired answers, on their own, or on none, which is stage 1 continued.

The answers are those to the target's training frames; no label of the target is read. Of each class the surest share of
the pixels is kept, and `iccld adapt-seg` learns them as it learns a few labels of the target (`--labelled`), beside
source frames and self-training, from the same start, with the settings of `iccld adapt`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pseudo_set import write_pseudo_set
from safetensors.torch import load_file
from stage2.frames import SIZE, Frozen
from stage2.repair import VARIANTS, condition_of, new_repairer
from stage2.trial import judge_frozen

from iccld_cli import adapt_seg
from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.footage.training import QUANTILE
from iccld_cli.inference.device import pick_device
from iccld_cli.inference.threads import prefetch
from iccld_cli.models.segmenter import resize_logits

ANSWERS = ("none", "start", "averaged", "repaired")


@torch.no_grad()
def answers_of(
    kind: str, frozen: Frozen, target: PreparedDataset, network: Path | None, limit: int | None = None
) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
    """The training frames, and of each the labels uint8 (H, W) and the confidence float32 (H, W) of an answer.

    Args:
        kind: `start`, the plain pass; `averaged`, the mean over the mirror image and two scales; `repaired`.
        frozen: The model; with the ImageNet encoder for `repaired`.
        target: The data set; its labels are not read.
        network: Weights of the variant `full` of the repair.
        limit: Only the first frames.
    """
    repairer = None
    if kind == "repaired":
        assert network is not None
        repairer = new_repairer(VARIANTS["full"], frozen)
        repairer.load_state_dict(load_file(network))
        repairer.eval().to(frozen.device)
    known = torch.zeros(len(frozen.header.label_space), device=frozen.device)
    known[list(frozen.header.classes)] = 1  # the others were never trained, and are no answer
    frames = target.frames("train")[:limit]
    for frame, image in prefetch((frame, target.read_image(frame)) for frame in frames):
        size = (frame.height, frame.width)
        pixels = torch.tensor(image).to(frozen.device).permute(2, 0, 1)[None].float() / 255
        if repairer is not None:
            seen = frozen.seen(pixels)
            none = torch.zeros(1, device=frozen.device)
            noise = torch.zeros(1, repairer.EMBEDDING, *seen.z.shape[-2:], device=frozen.device)
            logits = repairer(seen.answer, condition_of(VARIANTS["full"], seen), none, noise)
            probabilities = resize_logits(logits, size).softmax(1)
        else:
            views = frozen.views(pixels, size) if kind == "averaged" else [frozen.plain(pixels, size)]
            probabilities = sum(views) / len(views)
        confidence, labels = (probabilities[0] * known.view(-1, 1, 1)).max(0)
        yield frame, labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()


def retrain(options: argparse.Namespace, write: Callable[[list[dict[str, Any]]], None]) -> None:
    """Make the set, train, judge, and write the rows so far after each split."""
    device, target = pick_device(options.device), PreparedDataset(options.target)
    encoder = options.encoder if options.answers == "repaired" else None
    frozen = Frozen(options.ckpt, encoder, device)
    labelled: list[Path] = []
    began = time.perf_counter()
    if options.answers != "none":
        labelled = [options.out / "pseudo"]
        shutil.rmtree(labelled[0], ignore_errors=True)
        given = answers_of(options.answers, frozen, target, options.network, options.train_limit)
        write_pseudo_set(target, labelled[0], given, options.keep)
    answered = time.perf_counter() - began
    settings = {
        "seg.burn_in": 0.0, "pseudo.quantile": QUANTILE, "seg.feature_distance_weight": 0.0,
        "optim.lr": options.rate * frozen.header.config.optim.lr, "data.workers": options.workers,
        "run.validate_every": 0, "run.validate_frames": 1, "run.overlay_every": 0, "run.save_every": 0,
        "run.log_every": 25, "seg.mixed_weight": options.mixed_weight,
    }  # fmt: skip
    if options.whole_frames:
        settings |= {"data.source_scale": (1.0, 1.0), "data.target_scale": (1.0, 1.0)}
    found = []
    for seed in options.seeds:
        run = options.out / f"run-{seed}"
        shutil.rmtree(run, ignore_errors=True)
        began = time.perf_counter()
        trained = adapt_seg(
            options.source, run, target=[target], ckpt=options.ckpt, labelled=labelled, iterations=options.steps,
            batch_size=options.batch_size, crop=SIZE if options.whole_frames else None, seed=seed,
            device=options.device, settings=settings, on_log=_say,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        model = Frozen(trained, None, device)
        for split in options.splits:
            scores = judge_frozen(model, "trained", target, split, options.limit, views=False)
            found.append(
                {"seed": seed, "steps": options.steps, "split": split, "seconds": round(seconds, 1),
                 "answer_seconds": round(answered, 1), "scores": scores}
            )  # fmt: skip
            write(found)


def _say(row: dict[str, Any]) -> None:
    print(f"  step {row['step']}  loss {row['loss']:.3f}", flush=True)
