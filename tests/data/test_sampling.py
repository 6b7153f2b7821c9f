"""Rare-class sampling against its formula, and ClassMix's choice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from iccld_cli.data.prepared import Frame
from iccld_cli.data.sampling import MODEL, SOURCE, TARGET, RareClassSampler, choose_classmix, sample_rng
from iccld_cli.labels import IGNORE


def frame(pixels):
    return Frame("train", "images/a.png", "labels/a.png", 10, 10, pixels)


FRAMES = [frame({0: 900, 5: 90, 255: 10}), frame({0: 800, 7: 10}), frame({0: 500, 5: 5, 9: 300})]


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_probabilities_are_those_of_daformer(temperature):
    sampler = RareClassSampler(FRAMES, (0, 5, 7), temperature)
    pixels = np.array([2200, 95, 10])  # class 9 takes no part, the ignored pixels neither
    weights = np.exp((1 - pixels / pixels.sum()) / temperature)
    assert sampler.classes == (0, 5, 7)
    np.testing.assert_allclose(sampler.probabilities, weights / weights.sum(), rtol=1e-6)


def test_small_temperatures_do_not_overflow():
    sampler = RareClassSampler(FRAMES, (0, 5, 7), 1e-4)
    assert sampler.probabilities.sum() == pytest.approx(1)
    assert sampler.probabilities.argmax() == 2  # the rarest


def test_classes_that_never_occur_are_never_drawn():
    sampler = RareClassSampler(FRAMES, (0, 5, 7, 18), 1.0)
    assert 18 not in sampler.classes


def test_draws_follow_the_probabilities():
    sampler = RareClassSampler(FRAMES, (0, 5, 7), 1.0)
    drawn = [sampler.draw(sample_rng(0, step, 0, SOURCE)) for step in range(1500)]
    for c, probability in zip(sampler.classes, sampler.probabilities, strict=True):
        share = np.mean([d[1] == c for d in drawn])
        assert share == pytest.approx(probability, abs=0.05)
    for index, c in drawn:
        assert FRAMES[index].pixels[c] > 0


def test_a_frame_counts_from_enough_pixels_on():
    sampler = RareClassSampler(FRAMES, (0, 5), 0.01, min_pixels=50)
    assert {sampler.draw(sample_rng(0, s, 0, SOURCE))[0] for s in range(50)} == {0}  # frame 2 has 5 pixels of class 5


def test_where_no_frame_has_enough_the_richest_tenth_counts():
    frames = [frame({0: 1000, 5: n}) for n in range(1, 31)]
    sampler = RareClassSampler(frames, (0, 5), 0.01, min_pixels=500)
    seen = {sampler.draw(sample_rng(0, s, 0, SOURCE)) for s in range(200)}
    assert {index for index, c in seen if c == 5} == {27, 28, 29}


def test_no_temperature_draws_frames_uniformly():
    sampler = RareClassSampler(FRAMES, (0, 5, 7), 0)
    drawn = [sampler.draw(sample_rng(0, s, 0, SOURCE)) for s in range(1500)]
    assert {c for _, c in drawn} == {None}
    np.testing.assert_allclose(np.bincount([i for i, _ in drawn]) / 1500, 1 / 3, atol=0.05)


def test_frames_without_any_class_are_drawn_uniformly():
    sampler = RareClassSampler([frame({255: 100}), frame({})], (0,), 0.01)
    assert {sampler.draw(sample_rng(0, s, 0, SOURCE)) for s in range(40)} == {(0, None), (1, None)}


def test_random_numbers_are_a_function_of_seed_step_sample_and_stream():
    def draw(*key):
        return sample_rng(*key).random(4).tolist()

    keys = [(s, t, n, k) for s in (0, 1) for t in (0, 1) for n in (0, 1) for k in (SOURCE, TARGET, MODEL)]
    assert all(draw(*key) == draw(*key) for key in keys)
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


labels = arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 5, 13, 18, IGNORE]))


@settings(max_examples=80, deadline=None)
@given(labels, st.integers(0, 2**31))
def test_classmix_pastes_half_of_the_classes_rounded_up(label, seed):
    paste = choose_classmix(label, np.random.default_rng(seed))
    present = set(np.unique(label)) - {IGNORE}
    chosen = set(np.unique(label[paste]))
    assert paste.dtype == bool and paste.shape == label.shape
    assert IGNORE not in chosen
    assert len(chosen) == -(-len(present) // 2)
    for c in present:  # whole classes, never parts of one
        assert paste[label == c].all() == (c in chosen) and paste[label == c].any() == (c in chosen)


def test_every_class_is_pasted_alike_often():
    label = np.arange(4, dtype=np.uint8).reshape(2, 2)
    often = np.mean([choose_classmix(label, np.random.default_rng(s)) for s in range(2000)], axis=0)
    np.testing.assert_allclose(often, 0.5, atol=0.05)
