"""Two resolutions: what the views show, and how the answers are put together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iccld_cli.models.detail import cut_windows, draw_windows, fuse, fuse_whole, split_images, split_labels

WINDOWS = torch.tensor([[0, 64], [24, 8]])


def test_windows_lie_inside_on_whole_cells():
    rngs = [np.random.default_rng(i) for i in range(200)]
    windows = draw_windows((64, 128), rngs)
    assert windows.shape == (200, 2)
    assert set(windows[:, 0].tolist()) == set(range(0, 33, 8))
    assert set(windows[:, 1].tolist()) == set(range(0, 65, 8))


def test_views_show_the_whole_at_half_size_and_the_window_as_it_is():
    images = torch.rand(2, 3, 64, 128)
    views = split_images(images, WINDOWS)
    assert views.shape == (4, 3, 32, 64)
    torch.testing.assert_close(views[:2], F.interpolate(images, scale_factor=0.5, mode="area"))
    assert torch.equal(views[2], images[0, :, :32, 64:])
    assert torch.equal(views[3], images[1, :, 24:56, 8:72])


def test_labels_go_with_their_views():
    labels = torch.randint(0, 19, (2, 64, 128))
    views = split_labels(labels, WINDOWS)
    assert views.dtype == torch.int64
    assert torch.equal(views[:2], labels[:, ::2, ::2])
    assert torch.equal(views[3], labels[1, 24:56, 8:72])
    assert torch.equal(cut_windows(labels, WINDOWS), views[2:])


@pytest.mark.parametrize(("logit", "share"), [(-30.0, 0.0), (0.0, 0.5), (30.0, 1.0)])
def test_attention_decides_inside_the_window_and_only_there(logit, share):
    context, detail = torch.full((2, 4, 8, 16), 1.0), torch.full((2, 4, 8, 16), 5.0)
    context[:, -1] = logit
    detail[:, -1] = 99.0  # the detail's own attention means nothing
    fused, alone = fuse(torch.cat([context, detail]), WINDOWS)
    assert fused.shape == (2, 3, 16, 32)
    assert torch.equal(alone, detail[:, :-1])
    expected = torch.ones(2, 3, 16, 32)
    expected[0, :, :8, 16:] = 1 + 4 * share
    expected[1, :, 6:14, 2:18] = 1 + 4 * share
    torch.testing.assert_close(fused, expected)


def test_details_lie_where_the_window_was():
    picture = torch.rand(2, 3, 64, 128)
    answers = F.avg_pool2d(picture, 4)  # a network that answers with what it sees
    context = torch.cat([F.avg_pool2d(answers, 2), torch.full((2, 1, 8, 16), 30.0)], 1)
    detail = torch.cat([F.avg_pool2d(cut_windows(picture, WINDOWS), 4), torch.zeros(2, 1, 8, 16)], 1)
    fused, _ = fuse(torch.cat([context, detail]), WINDOWS)
    torch.testing.assert_close(fused[0, :, :8, 16:], answers[0, :, :8, 16:])
    torch.testing.assert_close(fused[1, :, 6:14, 2:18], answers[1, :, 6:14, 2:18])


def test_gradients_reach_both_views_and_the_attention():
    answers = torch.randn(4, 4, 8, 16, requires_grad=True)
    fuse(answers, WINDOWS)[0].square().sum().backward()
    grad = answers.grad
    assert grad[:2].abs().sum(dim=(2, 3)).gt(0).all()
    assert grad[2:, :-1].abs().sum(dim=(2, 3)).gt(0).all()
    assert not grad[2:, -1].any()


def test_whole_images():
    context, detail = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 8, 8)
    torch.testing.assert_close(fuse_whole(context, detail), torch.full((1, 2, 8, 8), 0.5))


@pytest.mark.parametrize("steps", [0, 2])
def test_a_model_with_two_resolutions_segments_any_size(small_segmenter, steps):
    model = small_segmenter("model.detail=true")
    assert model.multiple == 64
    image = torch.rand(2, 3, 50, 70)
    out = model.probabilities(image, steps=steps)
    assert out.shape == (2, 5, 50, 70)
    torch.testing.assert_close(out.sum(1), torch.ones(2, 50, 70))
    alone = model.probabilities(image[1:], steps=steps)
    torch.testing.assert_close(out[1:], alone, rtol=1e-4, atol=1e-5)


def test_training_pass(small_segmenter):
    model = small_segmenter("model.detail=true", denoiser=False).train()
    crops = torch.rand(2, 3, 64, 128)
    view = model.view(crops, [np.random.default_rng(i) for i in range(2)])
    assert len(view) == 4 and view.images.shape == (4, 3, 32, 64)
    logits, _, features = model(view.images, view.rows(torch.tensor([True, False])))
    assert logits.shape == (4, 6, 8, 16) and features.shape[2:] == (1, 2)  # one output more, the attention
    fused, detail = view.scored(logits, torch.zeros(2, 64, 128, dtype=torch.int64), None)
    assert fused.logits.shape == (2, 5, 16, 32) and fused.labels.shape == (2, 64, 128)
    assert detail.logits.shape == (2, 5, 8, 16) and detail.labels.shape == (2, 32, 64)
    assert (fused.factor, detail.factor) == (0.9, pytest.approx(0.4))  # a detail has a quarter of the pixels
    assert view.probabilities(logits).shape == (4, 5, 8, 16)
