"""The whole model: any size, any batch, and noise that is a function of its seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iccld_cli.errors import IccldError
from iccld_cli.models.segmenter import resize_logits


@pytest.fixture(scope="module")
def model(small_segmenter):
    return small_segmenter()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2))
def test_any_size(model, height, width, steps):
    probabilities = model.segment(torch.rand(1, 3, height, width), steps=steps).probabilities
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
    together = model.segment(images, steps=steps, seed=4).probabilities
    alone = torch.cat([model.segment(i[None], steps=steps, seed=4).probabilities for i in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_answers_have_the_size_of_the_image_and_not_of_what_was_fitted(model, images, steps):
    part = images[:1, :, :50, :70]
    assert model.segment(part, steps=steps).probabilities.shape[-2:] == (50, 70)
    by_hand = model.segment(model.fit(part), steps=steps, size=(50, 70)).probabilities
    torch.testing.assert_close(model.segment(part, steps=steps).probabilities, by_hand)


def test_scales_and_mirrored_images_are_averaged(model, images):
    part = images[:1, :, :50, :70]
    larger = torch.nn.functional.interpolate(part, (75, 105), mode="bilinear")
    plain, scaled, mirrored, both = (
        model.segment(part, steps=1).probabilities,
        model.segment(larger, steps=1, size=(50, 70)).probabilities,
        model.segment(part.flip(-1), steps=1).probabilities.flip(-1),
        model.segment(larger.flip(-1), steps=1, size=(50, 70)).probabilities.flip(-1),
    )
    torch.testing.assert_close(model.segment(part, scales=[1, 1.5]).probabilities, (plain + scaled) / 2)
    torch.testing.assert_close(model.segment(part, flip=True).probabilities, (plain + mirrored) / 2)
    everything = model.segment(part, scales=[1, 1.5], flip=True, samples=2)
    assert everything.disagreement is not None and everything.disagreement.shape == (1, 50, 70)
    assert not torch.allclose(everything.probabilities, (plain + scaled + mirrored + both) / 4)  # other seeds too


@pytest.mark.parametrize("scales", [[], [0], [1, 9], [float("nan")]])
def test_scales_that_are_not_possible(model, images, scales):
    with pytest.raises(IccldError, match="scales"):
        model.segment(images, scales=scales)


def test_seeds(model, images):
    first, again, other = (model.segment(images, steps=1, seed=s).probabilities for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_the_global_generator_is_neither_used_nor_moved(model, images):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = model.segment(images, steps=1).probabilities
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(model.segment(images, steps=1).probabilities, first)


def test_a_fresh_denoiser_keeps_the_stage_1_result(small_segmenter, images):
    fresh = small_segmenter(lively=False)
    plain = fresh.segment(images, steps=0).probabilities
    for steps in (1, 2, 5):
        torch.testing.assert_close(fresh.segment(images, steps=steps).probabilities, plain, rtol=1e-4, atol=1e-5)


def test_stage_1_has_no_steps(small_segmenter, images):
    stage1 = small_segmenter(denoiser=False)
    assert stage1.default_steps == 0
    assert torch.equal(stage1.segment(images).probabilities, stage1.segment(images, steps=0).probabilities)
    with pytest.raises(IccldError, match="no denoising UNet"):
        stage1.segment(images, steps=1)


@pytest.mark.parametrize("numbers", [{"steps": -1}, {"samples": 0}, {"steps": 1001}])
def test_numbers_out_of_range(model, images, numbers):
    with pytest.raises(IccldError):
        model.segment(images, **numbers)


def test_default_steps_come_from_the_configuration(small_segmenter, images):
    model = small_segmenter("diffusion.steps=3")
    assert model.default_steps == 3
    assert torch.equal(model.segment(images).probabilities, model.segment(images, steps=3).probabilities)


def test_samples_are_averaged(model, images):
    draws = [
        resize_logits(model.decoder(model.denoise(z_0, 1, 7, draw), skip), (64, 96)).softmax(dim=1)
        for z_0, skip, _ in [model.encoder(images)]
        for draw in range(4)
    ]
    result = model.segment(images, steps=1, seed=7, samples=4)
    mean = torch.stack(draws).mean(dim=0)
    torch.testing.assert_close(result.probabilities, mean.detach(), rtol=1e-4, atol=1e-6)


def test_disagreement_is_mutual_information(model, images):
    result = model.segment(images, steps=1, samples=4)
    assert result.disagreement.shape == (3, 64, 96)
    assert float(result.disagreement.min()) >= 0
    assert float(result.disagreement.max()) <= 1
    assert float(result.disagreement.max()) > 0
    assert model.segment(images, steps=1).disagreement is None
    draws = torch.stack([model.segment(images, steps=1, seed=0, samples=n).probabilities * n for n in range(1, 5)])
    draws = torch.cat([draws[:1], draws[1:] - draws[:-1]]).double().clamp(min=1e-9)

    def entropy(p):
        return -(p * p.log()).sum(dim=-3)

    expected = (entropy(draws.mean(dim=0)) - entropy(draws).mean(dim=0)) / torch.log(torch.tensor(5.0))
    torch.testing.assert_close(result.disagreement.double(), expected, atol=1e-4, rtol=1e-2)


def test_no_noise_no_disagreement(model, images):
    assert (model.segment(images, steps=0, samples=3).disagreement == 0).all()


def test_agreeing_draws_do_not_disagree(small_segmenter, images):
    gap = small_segmenter(lively=False).segment(images, steps=1, samples=3).disagreement
    assert float(gap.max()) < 1e-5


def test_another_size_is_resampled_from_the_logits(model, images):
    result = model.segment(images, steps=0, size=(31, 200)).probabilities
    assert result.shape == (3, 5, 31, 200)
    torch.testing.assert_close(result.sum(dim=1), torch.ones(3, 31, 200))


def test_forward_is_the_stage_1_path(model, images):
    out = model(images)
    assert out["latent"].shape == (3, 8, 8, 12)
    assert out["logits"].shape == (3, 5, 16, 24)
    upsampled = torch.nn.functional.interpolate(out["logits"], size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.segment(images, steps=0).probabilities, upsampled.softmax(dim=1).detach())


def test_segmenting_leaves_no_graph(model, images):
    assert not model.segment(images, steps=1).probabilities.requires_grad
