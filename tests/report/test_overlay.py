"""Pictures of predictions."""

import numpy as np
from factories import scene

from iccld_cli.labels import CITYSCAPES
from iccld_cli.report.overlay import colorize, draw_overlay


def test_colours_are_those_of_the_label_space():
    colors = colorize(np.array([[0, 13, 255]], np.uint8), CITYSCAPES)
    assert colors.tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0]]]


def test_blend_golden():
    image = np.full((40, 40, 3), 100, np.uint8)
    out = draw_overlay(image, np.zeros((40, 40), np.uint8), CITYSCAPES, alpha=0.5)
    assert out[20, 20].tolist() == [114, 82, 114]  # halfway between (100, 100, 100) and road


def test_ignored_pixels_show_the_image_and_alpha_0_changes_nothing():
    image, label = scene(0, 64, 48)
    out = draw_overlay(image, label, CITYSCAPES)
    assert (out[-3:] == image[-3:]).all()
    assert (draw_overlay(image, label, CITYSCAPES, alpha=0) == image).all()


def test_inputs_are_left_alone():
    image, label = scene(0, 200, 160)
    before = image.copy()
    draw_overlay(image, label, CITYSCAPES, legend=(0, 2))
    assert (image == before).all()


def test_legend_is_at_the_foot_and_left_out_where_it_would_hide_the_picture():
    for width, height, drawn in ((320, 240, True), (64, 48, False)):
        image, label = scene(0, width, height)
        plain = draw_overlay(image, label, CITYSCAPES)
        named = draw_overlay(image, label, CITYSCAPES, legend=(0, 2, 10, 13))
        assert (plain != named).any() == drawn
        assert (plain[: height // 2] == named[: height // 2]).all()
