"""Encoder, decoder, denoiser and discriminator, one by one."""

import pytest
import torch

from iccld_cli.models.build import build_denoiser, build_discriminator, build_segmenter
from iccld_cli.models.denoiser import Denoiser


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_encoder_shapes(small_segmenter, images):
    z_0, skip, _ = small_segmenter(denoiser=False).encoder(images)
    assert z_0.shape == (2, 8, 8, 12)
    assert skip.shape == (2, 4, 16, 24)


def test_every_cell_of_the_latent_has_unit_variance(small_segmenter, images):
    z_0, *_ = small_segmenter("model.latent_channels=16", denoiser=False).encoder(images)
    torch.testing.assert_close(z_0.mean(dim=1), torch.zeros(2, 8, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_0.var(dim=1, unbiased=False), torch.ones(2, 8, 12), atol=1e-2, rtol=0)


def test_prediction_far_from_a_change_stays(small_segmenter):
    # What stands at one end of a wide frame must not decide how the other end is read.
    model = small_segmenter(denoiser=False).eval()
    images = torch.rand(1, 3, 64, 768, generator=torch.Generator().manual_seed(0))
    other = images.clone()
    other[..., 704:] = 1 - other[..., 704:]
    here, there = model(images)[0], model(other)[0]
    assert torch.equal(here[..., :16], there[..., :16])
    assert not torch.allclose(here[..., -16:], there[..., -16:])


def test_no_skip_channels_cut_the_connection(small_segmenter, images):
    model = small_segmenter("model.skip_channels=0")
    z_0, skip, _ = model.encoder(images)
    assert skip is None
    assert model.decoder(z_0, None).shape == (2, 5, 16, 24)
    keep = torch.tensor([True, False])
    assert torch.equal(model(images, keep)[0], model(images)[0])
    assert model.probabilities(images, steps=1).shape == (2, 5, 64, 96)


def test_dropping_the_skip_is_per_image_and_complete(small_segmenter, images):
    model = small_segmenter(denoiser=False)
    z_0, skip, _ = model.encoder(images)
    kept = model.decoder(z_0, skip)
    mixed = model.decoder(z_0, skip, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], kept[0])
    torch.testing.assert_close(mixed[1], model.decoder(z_0, torch.zeros_like(skip))[1])
    assert not torch.allclose(mixed[1], kept[1])
    # nothing of the dropped features is left: other features, same logits
    torch.testing.assert_close(model.decoder(z_0, 3 * skip, torch.tensor([True, False]))[1], mixed[1])


def test_a_fresh_denoiser_changes_nothing(small_config):
    torch.manual_seed(0)
    denoiser = build_denoiser(small_config())
    z_0, z_t = torch.randn(2, 8, 4, 6), torch.randn(2, 8, 4, 6)
    assert torch.equal(denoiser(z_t, torch.tensor([999, 3]), z_0), z_0)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("channels", [(16,), (16, 24), (16, 16, 24)])
def test_denoiser_with_any_number_of_levels(channels, attention):
    denoiser = Denoiser(4, channels, 1, attention)
    assert denoiser.multiple == 2 ** (len(channels) - 1)
    side = denoiser.multiple
    out = denoiser(torch.randn(2, 4, side, 2 * side), torch.tensor([999, 0]), torch.randn(2, 4, side, 2 * side))
    assert out.shape == (2, 4, side, 2 * side)


def test_denoiser_sees_noise_time_and_condition(small_segmenter):
    denoiser = small_segmenter().denoiser
    z_0, z_t, t = torch.randn(1, 8, 4, 6), torch.randn(1, 8, 4, 6), torch.tensor([999])
    with torch.no_grad():
        out = denoiser(z_t, t, z_0) - z_0
        assert not torch.allclose(denoiser(z_t + 1, t, z_0) - z_0, out)
        assert not torch.allclose(denoiser(z_t, t - 500, z_0) - z_0, out)
        assert not torch.allclose(denoiser(z_t, t, z_0 + 1) - z_0 - 1, out)


def test_every_part_of_the_denoiser_learns(small_segmenter):
    denoiser = small_segmenter().denoiser.train()
    denoiser(torch.randn(2, 8, 4, 6), torch.tensor([999, 5]), torch.randn(2, 8, 4, 6)).square().sum().backward()
    assert [n for n, p in denoiser.named_parameters() if p.grad is None] == []


def test_every_part_of_encoder_and_decoder_learns(small_segmenter, images):
    model = small_segmenter(denoiser=False).train()
    model(images)[0].square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_discriminator_scores_patches_with_a_bounded_gradient(small_config):
    torch.manual_seed(0)
    critic = build_discriminator(small_config(), classes=19)
    for _ in range(20):  # lets the power iteration of the spectral norm settle
        critic(torch.randn(1, 8, 8, 8))
    critic.eval()
    a = torch.randn(2, 8, 16, 32)
    b = a + 0.01 * torch.randn_like(a)
    with torch.no_grad():
        assert critic(a).shape == (2, 1, 4, 8)
        change = torch.linalg.vector_norm(critic(a) - critic(b)) / torch.linalg.vector_norm(a - b)
    # Spectral norm bounds the kernel as a matrix; as a convolution its norm is at most k / stride times that.
    assert change < 3 * 2 * 2 * 3


def test_building_is_a_function_of_the_seed(small_config):
    config = small_config()
    one, two, other = (build_segmenter(config, 5, denoiser=True, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_the_tiny_preset_is_tiny():
    from iccld_cli.config import load_config

    model = build_segmenter(load_config("tiny"), 19, denoiser=True)
    assert sum(p.numel() for p in model.parameters()) < 2_500_000
