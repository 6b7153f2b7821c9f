"""The virtual town: determinism, labels, geometry and drives."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from iccld_cli.errors import IccldError
from iccld_cli.town import LOOKS, render_drive, render_frame

SIZE = (96, 48)
TRAIN = 16


def digest(look: str = "camera", seed: int = 5, index: int = 2) -> str:
    image, label = render_frame(seed, index, look, SIZE)
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


def test_same_arguments_give_the_same_frame_in_another_process_and_order() -> None:
    code = (
        "import hashlib, cv2; cv2.setNumThreads(1); from iccld_cli.town import render_frame;"
        "render_frame(5, 9, 'game', (64, 32));"
        f"i, l = render_frame(5, 2, 'camera', {SIZE});"
        "print(hashlib.sha256(i.tobytes() + l.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digest() == other == digest()


def test_the_number_of_opencv_threads_changes_nothing() -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = digest()
        cv2.setNumThreads(4)
        assert digest() == one
    finally:
        cv2.setNumThreads(before)


def test_seed_index_and_look_each_change_the_picture() -> None:
    frames = {digest(), digest(seed=6), digest(index=3), digest(look="game"), digest(look="night")}
    assert len(frames) == 5


def test_importing_the_town_does_not_import_torch() -> None:
    code = "import sys, iccld_cli.town; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize("look", LOOKS)
def test_frames_have_the_promised_form(look: str) -> None:
    image, label = render_frame(1, 0, look, SIZE)
    assert image.shape == (48, 96, 3)
    assert image.dtype == np.uint8
    assert label.shape == (48, 96)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) <= set(range(19)) - {TRAIN} | {255}
    assert image.std() > 5


def test_every_class_but_train_occurs_and_the_layout_is_that_of_a_drive() -> None:
    count = np.zeros(256)
    for index in range(18):
        count += np.bincount(render_frame(2, index, "game", (128, 64))[1].ravel(), minlength=256)
    share = count / count.sum()
    assert [k for k in range(19) if count[k] == 0] == [TRAIN]
    assert 0.2 < share[0] < 0.5, "road"
    assert 0.1 < share[2] < 0.4, "building"
    assert share[10] > 0.04, "sky"
    assert share[255] < 0.05


@pytest.mark.parametrize("size", [(67, 35), (32, 80), (16, 16)])
def test_odd_sizes_work(size: tuple[int, int]) -> None:
    image, label = render_frame(0, 0, "camera", size)
    assert image.shape == (size[1], size[0], 3)
    assert label.shape == (size[1], size[0])


def test_user_errors_say_what_to_do() -> None:
    with pytest.raises(IccldError, match="did you mean 'game'"):
        render_frame(0, 0, "gmae", SIZE)
    with pytest.raises(IccldError, match="too small"):
        render_frame(0, 0, "game", (8, 48))
    with pytest.raises(IccldError, match="frames per second"):
        next(render_drive(0, 1, "game", SIZE, fps=0))
    with pytest.raises(IccldError, match="negative"):
        render_frame(-1, 0, "game", SIZE)


def test_the_camera_look_differs_from_the_game_in_tone() -> None:
    def mean_saturation(look: str) -> float:
        images = [render_frame(3, k, look, (64, 32))[0].astype(int) for k in range(4)]
        return float(np.mean([i.max(-1) - i.min(-1) for i in images]))

    assert mean_saturation("game") > 1.5 * mean_saturation("camera")


def test_a_drive_is_smooth_and_repeatable() -> None:
    frames = [image.astype(float) for image, _ in render_drive(4, 9, "game", SIZE)]
    assert len(frames) == 9
    step = np.mean([np.abs(a - b).mean() for a, b in pairwise(frames)])
    far = np.abs(frames[0] - frames[8]).mean()
    assert 0 < step < 0.6 * far
    first, label = next(render_drive(4, 1, "game", SIZE))
    assert np.array_equal(first, frames[0])
    assert label.shape == (48, 96)


def test_a_drive_keeps_only_the_chunks_it_sees() -> None:
    from iccld_cli.town import render

    town = render.make_town((8,), "game")
    sizes = []
    for k in range(4):
        town.near(town.start + 60.0 * k)
        sizes.append(len(town.chunks))
    assert sizes == [render.AHEAD + 1] * 4
