"""Edges of what is pasted: distances from scipy, weights, and classes drawn together."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from stage_batches import SPACE, make_batch

from iccld_cli.adapt.boundaries import MARGIN, edge_factor, edge_nearness, without_edges
from iccld_cli.labels import IGNORE
from iccld_cli.losses.segmentation import prototype_distance


def pastes():
    rng = np.random.default_rng(0)
    found = np.zeros((3, 24, 40), bool)
    found[0, 4:15, 10:31] = True
    found[1] = ndimage.gaussian_filter(rng.standard_normal((24, 40)), 3) > 0
    found[2, :, :1] = True
    return torch.from_numpy(found)


def test_nearness_falls_with_the_distance_to_the_other_side():
    paste = pastes()
    found = edge_nearness(paste).numpy()
    for image, near in zip(paste.numpy(), found, strict=True):
        for side in (image, ~image):
            distance = ndimage.distance_transform_edt(side)[side] - 1
            expected = 1 - distance / distance.max() if distance.max() else np.ones_like(distance)
            np.testing.assert_allclose(near[side], expected, atol=1e-5)


@pytest.mark.parametrize("all_of_it", [False, True])
def test_an_image_without_an_edge_has_no_near_pixels(all_of_it):
    assert not edge_nearness(torch.full((1, 8, 8), all_of_it)).any()


def test_factors_keep_the_mean_weight_of_an_image():
    factor = edge_factor(edge_nearness(pastes()), 4.0)
    torch.testing.assert_close(factor.mean(dim=(1, 2)), torch.ones(3))
    raw = 1 + 4 * edge_nearness(pastes())
    torch.testing.assert_close(factor[0] / factor[0, 0, 0], raw[0] / raw[0, 0, 0])


def test_pixels_near_an_edge_belong_to_no_class():
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[0, :, 10:] = 2
    found = without_edges(labels)[0]
    assert (found[:, : 10 - MARGIN] == 0).all()
    assert (found[:, 10 + MARGIN :] == 2).all()
    assert (found[:, 10 - MARGIN : 10 + MARGIN] == IGNORE).all()
    paste = torch.zeros(1, 20, 20, dtype=torch.bool)
    paste[0, :5] = True
    assert (without_edges(0 * labels, paste)[0, 5 - MARGIN : 5 + MARGIN] == IGNORE).all()


def test_the_distance_is_between_unit_means_of_classes_that_both_show():
    source, target = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    source[0, :, 0], source[0, :, 1] = torch.tensor([3.0, 0.0]).view(2, 1), torch.tensor([0.0, 9.0]).view(2, 1)
    target[0, :, 0] = torch.tensor([0.0, 0.5]).view(2, 1)
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[0, 8:] = 1
    other = labels.clone()
    other[0, 8:] = IGNORE
    found = prototype_distance(source, labels, target, other, classes=3)
    assert float(found.count) == 1  # class 1 is in the source alone
    assert float(found.mean()) == pytest.approx(2)  # orthogonal
    assert float(prototype_distance(source, labels, 7 * source, labels, classes=3).mean()) == pytest.approx(0, abs=1e-6)


def test_stage_1_weighs_edges_and_draws_classes_together(small_config):
    from accelerate import Accelerator

    from iccld_cli.adapt.stage1 import Stage1
    from iccld_cli.models.build import build_segmenter

    def stats(*assignments):
        config = small_config("seg.burn_in=0", "seg.iterations=4", *assignments)
        student = build_segmenter(config, len(SPACE), denoiser=False, seed=0)
        return Stage1(config, SPACE, student, Accelerator(cpu=True)).step(0, make_batch())

    plain = stats()
    near = stats("seg.boundary_weight=4")
    assert float(near["loss_mixed"]) != float(plain["loss_mixed"])
    drawn = stats("seg.prototype_weight=0.5", "pseudo.limits=[0,0.01]")
    assert float(drawn["loss_prototype"]) > 0
    expected = drawn["loss_source"] + drawn["loss_mixed"] + 0.5 * drawn["loss_prototype"]
    torch.testing.assert_close(drawn["loss"], expected)
    # Where a whole image has one weight, its unsure pixels still belong to no class.
    gate = ("seg.prototype_weight=0.5", "pseudo.gate=threshold")
    assert float(stats(*gate, "pseudo.threshold=0.01")["loss_prototype"]) > 0
    assert float(stats(*gate, "pseudo.threshold=1")["loss_prototype"]) == 0
