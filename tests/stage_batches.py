"""Random batches for single training steps."""

import numpy as np
import torch

from iccld_cli.adapt.augment import draw_jitter
from iccld_cli.adapt.batch import DeviceBatch
from iccld_cli.data.sampling import choose_classmix
from iccld_cli.labels import IGNORE, LabelSpace
from iccld_cli.sections import AugmentConfig

SPACE = LabelSpace(
    "five",
    ("road", "sky", "car", "person", "pole"),
    ((128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60), (9, 9, 9)),
)
_COLORS = torch.tensor(SPACE.colors) / 255


def paint(labels, shift, generator):
    """Images whose colours tell the class: (B, 3, H, W) in [0, 1]."""
    pixels = _COLORS[labels.clamp(max=4)].permute(0, 3, 1, 2)
    return (pixels + shift + 0.1 * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


def blocks(count, seed):
    """Labels in blocks of 16 pixels: int64 (count, 64, 64)."""
    coarse = torch.randint(0, 5, (count, 4, 4), generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)


def make_batch(seed=0, count=2, augment=None, target=True, annotated=None, groups=()):
    """A batch of `count` source and target crops of 64 x 64 pixels, a function of the seed.

    `annotated` is how many pixels of a target crop, with labels of its own, are labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    rngs = [np.random.default_rng([seed, i]) for i in range(count)]
    label = blocks(count, seed)
    source = paint(label, 0.0, generator)
    label[:, -4:] = IGNORE
    paste = np.stack([choose_classmix(row.numpy().astype(np.uint8), rng) for row, rng in zip(label, rngs, strict=True)])
    jitters = [draw_jitter(augment or AugmentConfig(), rngs) for _ in range(2)]
    more = {}
    if annotated:
        true = blocks(count, seed + 2000)
        kept = torch.rand(count, 64 * 64, generator=generator).argsort(dim=1).argsort(dim=1) < annotated
        more = {
            "annotated": paint(true, 0.15, generator),
            "annotation": torch.where(kept.view(count, 64, 64), true, IGNORE),
            "jitter_annotated": draw_jitter(augment or AugmentConfig(), rngs),
            "groups": groups,
        }
    return DeviceBatch(
        source=source,
        label=label,
        paste=torch.from_numpy(paste),
        target=paint(blocks(count, seed + 1000), 0.15, generator) if target else None,
        pseudo_valid=torch.ones(count, 64, 64, dtype=torch.bool) if target else None,
        surroundings=None,
        places=None,
        jitter_source=jitters[0],
        jitter_mixed=jitters[1],
        rngs=rngs,
        labelled=(label != IGNORE).sum().float(),
        **more,
    )
