"""`diffusion.sampler.seeded_noise` without torch: the same numbers, for backends that need not import it."""

from __future__ import annotations

import numpy as np


def seeded_noise(shape: tuple[int, ...], seed: int, index: int = 0) -> np.ndarray:
    """Standard normal noise, equal to that of `diffusion.sampler.seeded_noise` within 1e-5.

    torch draws 32 bits of MT19937 a number, makes uniform numbers of the lowest 24, and turns blocks of 16 into normal
    ones after Box and Muller (aten/src/ATen/native/cpu/DistributionTemplates.h, `normal_fill`); the last block is drawn
    again where the size is no multiple of 16.

    Args:
        shape: Shape of the noise, of 16 numbers or more.
        seed: Seed of the run.
        index: Which of several draws of this seed.

    Returns:
        float32 array of `shape`.
    """
    count = int(np.prod(shape))
    twister = np.random.RandomState((seed * 1_000_003 + index) % 2**63 & 0xFFFFFFFF)  # torch seeds with 32 bits too
    whole, rest = count // 16 * 16, 16 if count % 16 else 0
    raw = twister.randint(0, 2**32, count + rest, dtype=np.uint32)
    uniform = (raw & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)
    normal = np.empty(count, np.float32)
    normal[:whole] = _box_muller(uniform[:whole])
    if rest:
        normal[-16:] = _box_muller(uniform[count:])
    return normal.reshape(shape)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    first, second = uniform.reshape(-1, 2, 8).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log(1 - first))
    theta = np.float32(2 * np.pi) * second
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).reshape(-1)
