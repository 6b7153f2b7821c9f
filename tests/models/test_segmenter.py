"""The whole model: any size, any batch, and noise that is a function of its seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iccld_cli.errors import IccldError


@pytest.fixture(scope="module")
def model(small_segmenter):
    return small_segmenter()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2))
def test_any_size(model, height, width, steps):
    probabilities = model.probabilities(torch.rand(1, 3, height, width), steps=steps)
    assert probabilities.shape == (1, 5, height, width)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, height, width))


def test_images_are_fitted_to_what_the_parts_need(small_segmenter):
    deep = small_segmenter("model.unet_channels=[16, 16, 16, 16]")
    assert deep.multiple == 64  # the UNet halves the latent at 1/8 three times
    for size, fitted in (((3, 4), (64, 64)), ((95, 97), (64, 128)), ((64, 230), (64, 256))):
        assert deep.fit(torch.rand(1, 3, *size)).shape[-2:] == fitted
    ramp = torch.arange(100.0).expand(1, 3, 60, 100)
    torch.testing.assert_close(deep.fit(ramp).mean(), ramp.mean(), rtol=1e-2, atol=0)  # no border is added
    assert float(deep.fit(ramp)[..., -1].mean()) > 98
    whole = torch.rand(1, 3, 64, 128)
    assert deep.fit(whole) is whole


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_batches_do_not_matter(model, images, steps):
    together = model.probabilities(images, steps=steps, seed=4)
    alone = torch.cat([model.probabilities(i[None], steps=steps, seed=4) for i in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_answers_have_the_size_of_the_image_and_not_of_what_was_fitted(model, images, steps):
    part = images[:1, :, :50, :70]
    assert model.probabilities(part, steps=steps).shape[-2:] == (50, 70)
    by_hand = model.probabilities(model.fit(part), steps=steps, size=(50, 70))
    torch.testing.assert_close(model.probabilities(part, steps=steps), by_hand)


def test_seeds(model, images):
    first, again, other = (model.probabilities(images, steps=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_the_global_generator_is_neither_used_nor_moved(model, images):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = model.probabilities(images, steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(model.probabilities(images, steps=1), first)


def test_a_fresh_denoiser_keeps_the_stage_1_result(small_segmenter, images):
    fresh = small_segmenter(lively=False)
    plain = fresh.probabilities(images, steps=0)
    for steps in (1, 2, 5):
        torch.testing.assert_close(fresh.probabilities(images, steps=steps), plain, rtol=1e-4, atol=1e-5)


def test_stage_1_has_no_steps(small_segmenter, images):
    stage1 = small_segmenter(denoiser=False)
    assert stage1.default_steps == 0
    assert torch.equal(stage1.probabilities(images), stage1.probabilities(images, steps=0))
    with pytest.raises(IccldError, match="no denoising UNet"):
        stage1.probabilities(images, steps=1)


@pytest.mark.parametrize("steps", [-1, 1001])
def test_steps_out_of_range(model, images, steps):
    with pytest.raises(IccldError, match="choose 0 to 1000"):
        model.probabilities(images, steps)


def test_default_steps_come_from_the_configuration(small_segmenter, images):
    model = small_segmenter("diffusion.steps=3")
    assert model.default_steps == 3
    assert torch.equal(model.probabilities(images), model.probabilities(images, steps=3))


def test_draws_share_the_encoder_and_differ_in_their_noise(model, images):
    z_0, skip, _ = model.encoder(images)
    draws = list(model.logits(images, 1, seed=7, draws=3))
    assert len(draws) == 3
    for number, logits in enumerate(draws):
        expected = model.decoder(model.denoise(z_0, 1, 7, number), skip)
        torch.testing.assert_close(logits, expected.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(draws[0], draws[1], atol=1e-4)


def test_another_size_is_resampled_from_the_logits(model, images):
    result = model.probabilities(images, steps=0, size=(31, 200))
    assert result.shape == (3, 5, 31, 200)
    torch.testing.assert_close(result.sum(dim=1), torch.ones(3, 31, 200))


def test_forward_is_the_stage_1_path(model, images):
    logits, latent, deepest = model(images)
    assert logits.shape == (3, 5, 16, 24)
    torch.testing.assert_close(latent, model.encoder(images)[0])
    assert deepest.shape == (3, 16, 2, 3)
    upsampled = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.probabilities(images, steps=0), upsampled.softmax(dim=1).detach())


def test_segmenting_leaves_no_graph(model, images):
    assert not model.probabilities(images, steps=1).requires_grad
