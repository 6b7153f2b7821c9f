"""Crops: image and label show the same place."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iccld_cli.data.crops import (
    CropBox,
    anchored_box,
    cut_image,
    cut_label,
    cut_marks,
    random_box,
    surrounding_box,
)
from iccld_cli.labels import IGNORE


def painted(width, height, block, seed=0):
    """A label of flat blocks, and an image whose colour is the label's value times 20."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // block), -(-width // block)
    label = rng.integers(0, 12, (rows, columns)).astype(np.uint8).repeat(block, 0).repeat(block, 1)[:height, :width]
    return np.stack([label * 20] * 3, axis=-1), label


@settings(max_examples=60, deadline=None)
@given(
    st.integers(40, 120),
    st.integers(40, 120),
    st.sampled_from([(32, 32), (64, 32), (32, 64)]),
    st.floats(0.4, 2.5),
    st.integers(0, 2**31),
)
def test_image_and_label_agree(width, height, crop, scale, seed):
    image, label = painted(width, height, block=20, seed=seed)
    box = random_box((width, height), crop, scale, np.random.default_rng(seed))
    pixels, ids = cut_image(image, box, crop), cut_label(label, box, crop)
    assert pixels.shape == (crop[1], crop[0], 3) and ids.shape == (crop[1], crop[0])
    # Resampling blurs the image at the borders of blocks only; inside them the colour is the label's, exactly.
    around = np.ones((2 * round(scale) + 3,) * 2, np.uint8)
    inside = (cv2.erode(ids, around) == cv2.dilate(ids, around)) & (ids != IGNORE)
    inside[[0, -1]] = inside[:, [0, -1]] = False  # blended with what lies outside
    assert (pixels[inside][:, 0] == ids[inside] * 20).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.floats(0.2, 4), st.integers(0, 2**31))
def test_windows_lie_inside_frames_that_are_large_enough(width, height, scale, seed):
    crop = (64, 32)
    box = random_box((width, height), crop, scale, np.random.default_rng(seed))
    assert (box.width, box.height) == (max(round(64 / scale), 1), max(round(32 / scale), 1))
    assert box.left >= 0 and box.top >= 0
    assert box.left + box.width <= max(width, box.width)
    assert box.top + box.height <= max(height, box.height)


def test_beyond_the_border_is_ignored():
    image, label = painted(40, 24, block=8)
    box = CropBox(left=0, top=0, width=64, height=32, flip=False)
    ids = cut_label(label, box, (64, 32))
    assert (ids[:24, :40] == label).all()
    assert (ids[24:] == IGNORE).all() and (ids[:, 40:] == IGNORE).all()
    pixels = cut_image(image, box, (64, 32))
    assert (pixels[:24, :40] == image).all()
    assert (pixels[30, :40] == image[-1]).all() and (pixels[:24, 60] == image[:, -1]).all()  # replicated


def test_flips_mirror_both():
    image, label = painted(64, 32, block=8)
    straight, mirrored = (CropBox(0, 0, 64, 32, flip) for flip in (False, True))
    assert (cut_image(image, mirrored, (64, 32)) == cut_image(image, straight, (64, 32))[:, ::-1]).all()
    assert (cut_label(label, mirrored, (64, 32)) == cut_label(label, straight, (64, 32))[:, ::-1]).all()
    assert cut_image(image, mirrored, (64, 32)).flags.c_contiguous  # torch takes no negative strides
    assert cut_label(label, mirrored, (64, 32)).flags.c_contiguous


def test_scale_1_copies():
    image, label = painted(100, 80, block=7)
    box = CropBox(11, 13, 64, 32, False)
    assert (cut_image(image, box, (64, 32)) == image[13:45, 11:75]).all()
    assert (cut_label(label, box, (64, 32)) == label[13:45, 11:75]).all()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_labels_are_never_blended(scale):
    _, label = painted(128, 64, block=9)
    box = random_box((128, 64), (32, 32), scale, np.random.default_rng(0))
    assert set(np.unique(cut_label(label, box, (32, 32)))) <= set(np.unique(label))


def test_all_of_a_frame_is_reached_and_half_is_flipped():
    boxes = [random_box((10, 6), (8, 4), 1.0, np.random.default_rng(s)) for s in range(400)]
    assert {b.left for b in boxes} == {0, 1, 2}
    assert {b.top for b in boxes} == {0, 1, 2}
    assert np.mean([b.flip for b in boxes]) == pytest.approx(0.5, abs=0.08)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(20, 200),
    st.integers(20, 200),
    st.sampled_from([(32, 32), (64, 32), (96, 128)]),
    st.floats(0.4, 2.5),
    st.integers(0, 2**31),
)
def test_a_crop_lies_in_its_surroundings_where_it_is_said_to(width, height, context, scale, seed):
    crop = (32, 32)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns, rows, columns], axis=-1).astype(np.uint8)  # the colour of a pixel tells its place
    box = random_box((width, height), crop, scale, np.random.default_rng(seed))
    around, (top, left) = surrounding_box(box, (width, height), crop, context)
    assert 0 <= top <= context[1] - crop[1] and 0 <= left <= context[0] - crop[0]
    assert around.flip == box.flip
    assert around.left >= 0 and around.left + around.width <= max(width, around.width)
    assert around.top >= 0 and around.top + around.height <= max(height, around.height)
    alone = cut_image(image, box, crop).astype(int)
    inside = cut_image(image, around, context).astype(int)[top : top + crop[1], left : left + crop[0]]
    if box.width <= width and box.height <= height:
        # Sides and places are rounded to pixels, of the frame and of the result.
        assert np.abs(alone - inside).max() <= 2 + 2 / scale


def test_without_more_room_the_surroundings_are_the_crop():
    box = CropBox(left=3, top=0, width=32, height=20, flip=True)
    assert surrounding_box(box, (40, 20), (64, 40), (64, 40)) == (box, (0, 0))


@settings(max_examples=80, deadline=None)
@given(st.integers(40, 120), st.integers(40, 120), st.floats(0.3, 2.5), st.integers(0, 2**31))
def test_a_single_labelled_pixel_is_in_the_crop_around_it(width, height, scale, seed):
    rng = np.random.default_rng(seed)
    label = np.full((height, width), IGNORE, np.uint8)
    anchor = int(rng.integers(width)), int(rng.integers(height))
    label[anchor[1], anchor[0]] = 7
    box = anchored_box((width, height), (64, 32), scale, anchor, rng)
    assert box.left >= 0 and box.top >= 0
    found = cut_marks(label, box, (64, 32))
    assert found.shape == (32, 64) and set(np.unique(found)) == {7, IGNORE}
    mirrored = cut_marks(label, CropBox(box.left, box.top, box.width, box.height, not box.flip), (64, 32))
    if box.width > 64:
        assert np.array_equal(mirrored, found[:, ::-1])


def test_marks_fill_only_what_has_no_label():
    _, label = painted(100, 80, block=20)
    label[:, 50:] = IGNORE
    label[40, 70] = 3
    box = CropBox(0, 0, 100, 80, False)
    plain, marked = cut_label(label, box, (32, 32)), cut_marks(label, box, (32, 32))
    assert np.array_equal(marked[plain != IGNORE], plain[plain != IGNORE])
    assert marked[40 * 32 // 80, 70 * 32 // 100] == 3
    assert np.array_equal(cut_marks(label, box, (200, 160)), cut_label(label, box, (200, 160)))
