"""Full-size results from small logits, against torch's interpolation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iccld_cli.diffusion.sampler import seeded_noise
from iccld_cli.inference import noise
from iccld_cli.inference.fullsize import Logits, largest, segment_frame
from iccld_cli.inference.torch_model import normalised_entropy

SIZES = ((48, 64), (47, 61), (12, 16), (96, 300), (5, 7), (1, 1))


def smooth(seed, classes=6, size=(12, 16)):
    """Logits float32 (K, *size) with regions as a network's have."""
    rough = torch.randn((1, classes, 4, 5), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(rough, size, mode="bicubic")[0].numpy() * 4


def by_torch(values, size, mirrored=False):
    found = F.interpolate(torch.from_numpy(values)[None], size, mode="bilinear", align_corners=False).softmax(1)
    return found.flip(-1) if mirrored else found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [1, 2, 19, 200])
def test_labels_are_those_of_the_interpolated_logits(size, classes):
    for values in (smooth(0, classes), np.random.default_rng(1).standard_normal((classes, 12, 16), np.float32)):
        wanted = by_torch(values, size)[0]
        found = torch.from_numpy(largest(values, size)).long()
        assert found.shape == size
        # Where two classes are equal but for rounding, either is right.
        loss = wanted.max(0).values - wanted.gather(0, found[None])[0]
        assert float(loss.max()) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_labels_do_not_depend_on_the_strips_they_are_made_in(size, monkeypatch):
    for values in (smooth(0), np.random.default_rng(1).standard_normal((6, 12, 16), np.float32)):
        whole = largest(values, size)
        for cells in (1, 2, 5, 11):  # rows of cells a strip
            monkeypatch.setattr("iccld_cli.inference.fullsize.STRIP_BYTES", 4 * 6 * size[1] * (cells + 1))
            assert (largest(values, size) == whole).all()


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_the_interpolated_logits(size, monkeypatch):
    monkeypatch.setattr("iccld_cli.inference.fullsize.STRIP_BYTES", 4 * 6 * size[1] * 5)  # five rows a strip
    views = [Logits(smooth(0)), Logits(smooth(1), mirrored=True), Logits(smooth(2, size=(8, 10)))]
    for some, average in ((views[:1], False), (views, True), (views, False), (views[:2], False), (views[:1], True)):
        each = torch.stack([by_torch(view.values, size, view.mirrored) for view in some])  # (V, 1, K, H, W)
        wanted = each.mean(0) if average else each[0]
        found = segment_frame(some, size, ("confidence", "uncertainty", "probabilities"), average)
        np.testing.assert_allclose(found.probabilities, wanted, atol=2e-5)
        np.testing.assert_allclose(found.confidence, wanted.max(1).values, atol=2e-5)
        if len(some) == 1:
            unsure = normalised_entropy(wanted)
        else:
            others = each[1:] if len(some) == 3 and not average else each
            unsure = 1 - others.mean(0).gather(1, torch.from_numpy(found.labels)[:, None].long())[:, 0]
        np.testing.assert_allclose(found.uncertainty, unsure, atol=5e-5)
        assert (found.labels == found.probabilities.argmax(1)).all()


def test_labels_alone_make_no_other_map():
    found = segment_frame([Logits(smooth(0))], (48, 64), ())
    assert found.confidence is found.uncertainty is found.probabilities is None
    both = segment_frame([Logits(smooth(0)), Logits(smooth(0)[..., ::-1].copy(), True)], (48, 64), (), average=True)
    assert (both.labels == found.labels).mean() > 0.999


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 3), (2**40 + 1, 0), (2**62, 9)])
@pytest.mark.parametrize("shape", [(1, 8, 6, 8), (1, 3, 5, 7), (16,), (1, 48, 44, 80)])
def test_noise_without_torch_is_torch_s(shape, seed, index):
    found = noise.seeded_noise(shape, seed, index)
    assert (found.dtype, found.shape) == (np.float32, shape)
    np.testing.assert_allclose(found, seeded_noise(shape, seed, index), atol=1e-5)
