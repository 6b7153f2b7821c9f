"""Strong augmentation: nothing at strength 0, the promised statistics at strength 1, and never a look at the batch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from iccld_cli.adapt.augment import Jitter, draw_jitter, jitter_images, mask_blocks, rotate_hue, style_align
from iccld_cli.sections import AugmentConfig

OFF = AugmentConfig(jitter_probability=0, blur_probability=0, style_probability=0)
FULL = AugmentConfig(jitter_probability=1, jitter_strength=0.5, blur_probability=1, style_probability=1)


def rngs(count, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(count)]


def still(count, **changes):
    """A jitter that changes nothing but what is named."""
    values = dict(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, sigma=0.0, style=0.0) | changes
    tensors = {name: torch.full((count,), value) for name, value in values.items()}
    return Jitter(**tensors, blurs=values["sigma"] > 0, styles=values["style"] > 0)


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def test_no_strength_no_change(images):
    torch.testing.assert_close(jitter_images(images, draw_jitter(OFF, rngs(3))), images, atol=1e-6, rtol=0)
    assert torch.equal(style_align(images, images.flip(0), draw_jitter(OFF, rngs(3))), images)


def test_draws_stay_within_their_ranges():
    config = AugmentConfig(
        jitter_probability=1, jitter_strength=0.2, blur_probability=1, style_probability=1, style_strength=(0.3, 0.8)
    )
    jitter = draw_jitter(config, rngs(500))
    for factor in (jitter.brightness, jitter.contrast, jitter.saturation):
        assert 0.8 <= float(factor.min()) < 0.83 and 1.17 < float(factor.max()) <= 1.2
    assert float(jitter.hue.abs().max()) <= 0.2 * math.pi / 4
    assert float(jitter.sigma.min()) >= 0.15 and float(jitter.sigma.max()) <= 1.15
    assert float(jitter.style.min()) >= 0.3 and float(jitter.style.max()) <= 0.8
    assert jitter.blurs and jitter.styles


def test_probabilities():
    config = AugmentConfig(jitter_probability=0.8, blur_probability=0.5, style_probability=0.7)
    jitter = draw_jitter(config, rngs(2000))
    assert float((jitter.brightness != 1).float().mean()) == pytest.approx(0.8, abs=0.04)
    assert float((jitter.sigma > 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    assert float((jitter.style > 0).float().mean()) == pytest.approx(0.7, abs=0.04)


def test_a_sample_does_not_depend_on_its_batch(images):
    styles = images.flip(0).contiguous()
    whole = draw_jitter(FULL, rngs(3))
    together = jitter_images(style_align(images, styles, whole), whole)
    for i in range(3):
        alone = draw_jitter(FULL, [np.random.default_rng([0, i])])
        assert all(
            float(getattr(alone, f)[0]) == float(getattr(whole, f)[i])
            for f in ("brightness", "contrast", "saturation", "hue", "sigma", "style")
        )
        single = jitter_images(style_align(images[i : i + 1], styles[i : i + 1], alone), alone)
        torch.testing.assert_close(single[0], together[i], atol=1e-5, rtol=1e-5)


def test_results_stay_in_range(images):
    out = jitter_images(
        style_align(images, 0.2 * images.flip(0), draw_jitter(FULL, rngs(3))), draw_jitter(FULL, rngs(3))
    )
    assert float(out.min()) >= 0 and float(out.max()) <= 1


def test_moving_keeps_the_numbers():
    jitter = draw_jitter(FULL, rngs(3))
    moved = jitter.to(torch.device("cpu"))
    for field in dataclasses.fields(Jitter):
        a, b = getattr(jitter, field.name), getattr(moved, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def log_opponent(images):
    """Ruderman et al. 1998, equation 4, written out."""
    r, g, b = (images.double() + 1 / 64).log().unbind(dim=1)
    return torch.stack([(r + g + b) / 3**0.5, (r + g - 2 * b) / 6**0.5, (r - g) / 2**0.5], dim=1)


def test_style_at_full_strength_has_the_other_images_statistics():
    generator = torch.Generator().manual_seed(1)
    # Mild colours, so that nothing is clipped on the way back.
    source = 0.35 + 0.1 * torch.rand(2, 3, 32, 32, generator=generator)
    style = 0.45 + 0.15 * torch.rand(2, 3, 20, 40, generator=generator)
    style[:, 2] *= 0.8
    out = log_opponent(style_align(source, style, still(2, style=1.0)))
    wanted = log_opponent(style)
    torch.testing.assert_close(out.mean((2, 3)), wanted.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(out.std((2, 3)), wanted.std((2, 3)), atol=2e-3, rtol=0.01)


def test_style_of_itself_changes_nothing(images):
    torch.testing.assert_close(style_align(images, images, still(3, style=1.0)), images, atol=1e-4, rtol=1e-3)


def test_style_blends_between_both(images):
    styles = images.flip(0) * 0.5
    none, half, full = (style_align(images, styles, still(3, style=s)) for s in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + full) / 2)


def test_style_of_flat_and_black_images_is_finite(images):
    for source, style in ((torch.zeros_like(images), images), (images, torch.zeros_like(images))):
        out = style_align(source, style, still(3, style=1.0))
        assert torch.isfinite(out).all() and float(out.min()) >= 0 and float(out.max()) <= 1


def test_brightness_contrast_and_saturation(images):
    torch.testing.assert_close(jitter_images(images, still(3, brightness=0.5)), images * 0.5)
    flat = jitter_images(images, still(3, contrast=0.0))
    assert float(flat.std((1, 2, 3)).max()) < 1e-6
    gray = jitter_images(images, still(3, saturation=0.0))
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)
    for channel in range(3):
        torch.testing.assert_close(gray[:, channel], luma, atol=1e-5, rtol=1e-4)


def test_hue_turns_about_the_grey_axis():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    third = torch.tensor([2 * math.pi / 3])
    turned = [red]
    for _ in range(3):
        turned.append(rotate_hue(turned[-1], third))
    others = {tuple(t.flatten().round().int().tolist()) for t in turned[1:3]}
    assert others == {(0, 1, 0), (0, 0, 1)}
    torch.testing.assert_close(turned[3], red, atol=1e-5, rtol=0)
    gray = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(rotate_hue(gray, torch.tensor([1.0])), gray)
    mild = 0.4 + 0.1 * torch.rand(1, 3, 4, 4)
    out = rotate_hue(mild, torch.tensor([0.7]))
    torch.testing.assert_close(out.mean(dim=1), mild.mean(dim=1))
    torch.testing.assert_close(rotate_hue(out, torch.tensor([-0.7])), mild)


def test_blur_is_a_gaussian_and_leaves_others_sharp():
    dot = torch.zeros(2, 3, 15, 15)
    dot[:, :, 7, 7] = 1
    jitter = still(2, sigma=1.0)
    jitter = dataclasses.replace(jitter, sigma=torch.tensor([1.0, 0.0]))
    out = jitter_images(dot, jitter)
    torch.testing.assert_close(out[1], dot[1])
    line = torch.exp(-torch.arange(-3.0, 4.0).square() / 2)
    line /= line.sum()
    torch.testing.assert_close(out[0, 0, 4:11, 4:11], torch.outer(line, line), atol=1e-5, rtol=1e-4)


def test_mask_blanks_whole_blocks(images):
    ones = torch.ones(2, 3, 40, 56)
    masked = mask_blocks(ones, rngs(2), 16, 0.7)
    assert masked.shape == ones.shape
    for y in range(0, 40, 16):
        for x in range(0, 56, 16):
            for image in masked:
                block = image[:, y : y + 16, x : x + 16]
                assert float(block.min()) == float(block.max()) and float(block.max()) in (0.0, 1.0)
    assert not torch.equal(masked[0], masked[1])
    again = mask_blocks(ones[1:], rngs(2)[1:], 16, 0.7)
    assert torch.equal(again[0], masked[1])


def test_mask_ratio():
    masked = mask_blocks(torch.ones(4, 1, 256, 256), rngs(4), 4, 0.7)
    assert float((masked == 0).float().mean()) == pytest.approx(0.7, abs=0.02)
    assert (mask_blocks(torch.ones(1, 3, 32, 32), rngs(1), 8, 0.0) == 1).all()
