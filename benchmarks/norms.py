"""Batch norms with statistics of some frames: a model given to a road without training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from iccld_cli.data.prepared import Frame, PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.model import Sampling, network_size
from iccld_cli.inference.torch_model import TorchModel

_NORM_BATCH, _NORM_PIXELS = 8, 4_000_000


def with_norms_of(
    model: TorchModel, frames: Sequence[tuple[PreparedDataset, Frame]], moved: float
) -> TorchModel | None:
    """A copy whose batch norms have taken a share of their statistics from some frames.

    Args:
        model: Stays as it is.
        frames: The frames; those that cannot be read or seen are left out.
        moved: The frames' share, in [0, 1].

    Returns:
        The copy; None where the model has no such norms, or no frame could be seen.
    """
    found = copy.deepcopy(model.segmenter).eval()
    norms = [m for m in found.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return None
    before = [(copy.deepcopy(norm.running_mean), copy.deepcopy(norm.running_var)) for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain mean over what follows
        norm.reset_running_stats()
        norm.train()
    copied = TorchModel(found, model.header)
    sampling = model.settle(Sampling(steps=0))  # norms are E's and D's, and the UNet costs more than both
    seen = 0
    for batch in _batches(frames, sampling.height):
        try:
            copied.segment(batch if len(batch) > 1 else np.concatenate([batch, batch[:, :, ::-1]]), sampling=sampling)
        except IccldError:
            continue
        seen += len(batch)
    if not seen:
        return None
    for norm, (mean, variance) in zip(norms, before, strict=True):
        norm.eval()
        if norm.num_batches_tracked == 0:  # of a part that was not passed
            norm.running_mean, norm.running_var = mean, variance
            continue
        norm.running_mean.lerp_(mean, 1 - moved)  # type: ignore[operator, union-attr]
        norm.running_var.lerp_(variance, 1 - moved)  # type: ignore[operator, union-attr]
    return copied


def _batches(frames: Iterable[tuple[PreparedDataset, Frame]], height: int | None) -> Iterator[np.ndarray]:
    """Frames of equal sizes, uint8 (B, H, W, 3)."""
    held: list[np.ndarray] = []
    for target, frame in frames:
        try:
            image = target.read_image(frame)
            rows, columns = network_size(image.shape[:2], height)
        except IccldError:
            continue
        most = max(1, min(_NORM_BATCH, _NORM_PIXELS // max(rows * columns, image.shape[0] * image.shape[1])))
        if held and (held[0].shape != image.shape or len(held) >= most):
            yield np.stack(held)
            held = []
        held.append(image)
    if held:
        yield np.stack(held)
