"""What does not move over a clip is found; what merely looks alike for a while is not."""

import cv2
import numpy as np
import pytest

from iccld_cli.data.fixed import find_region, fitted_region, read_region
from iccld_cli.errors import IccldError

HEIGHT, WIDTH = 180, 320


def drive(frames=40, parts=("bonnet", "bars", "stamp"), seed=0):
    """Frames of a drive: houses and trees that pass between a clear sky and an even road, and what the camera adds.

    Returns:
        uint8 (N, H, W, 3), and bool (H, W) of what the camera adds.
    """
    rng = np.random.default_rng(seed)
    panorama = cv2.resize(rng.integers(30, 220, (14, 400, 3), np.uint8), (6000, 90), interpolation=cv2.INTER_LINEAR)
    tops = cv2.resize(rng.integers(5, 60, (1, 200), np.uint8), (6000, 1), interpolation=cv2.INTER_LINEAR)[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bonnet = (y > 150 + ((x - 160) / 40) ** 2) & ("bonnet" in parts)
    bars = ((y < 12) | (y >= HEIGHT - 8)) & ("bars" in parts)
    added, found = np.zeros((HEIGHT, WIDTH), bool), []
    for number in range(frames):
        left = number * 37
        image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        image[:], image[110:] = (150, 190, 235), (105, 105, 110)
        houses = panorama[:, left : left + WIDTH]
        mask = np.arange(90)[:, None] > tops[left : left + WIDTH]
        image[25:115][mask] = houses[mask]
        image[118:122, (np.arange(WIDTH) + left) % 60 < 25] = 230  # lane markings
        image = np.roll(image, round(4 * np.sin(number * 1.7)), axis=0)  # the car pitches
        image[bonnet] = (35, 30, 40)
        image[bars] = 0
        if "stamp" in parts:
            text = f"2026-03-01 12:00:{number:02d}"
            cv2.putText(image, text, (170, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1)
        noise = rng.normal(0, 2, image.shape)
        found.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    added |= bonnet | bars
    return np.stack(found), added


def test_bonnet_and_bars_are_found_and_sky_and_road_are_not():
    frames, added = drive(parts=("bonnet", "bars"))
    found = find_region(list(frames))
    assert found[added].mean() > 0.97
    assert (found & ~added).sum() < 0.15 * added.sum()  # a border of a few pixels
    assert not found[40:100].any()


def test_a_time_stamp_is_found():
    frames, _ = drive(parts=("stamp",))
    found = find_region(list(frames))
    assert found[16:27, 172:280].mean() > 0.8  # its letters and most of what lies between them
    assert found.mean() < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_where_the_camera_adds_nothing(seed):
    assert find_region(list(drive(parts=(), seed=seed)[0])).mean() < 0.002


def test_a_parked_camera_and_a_few_frames_are_refused():
    frames, _ = drive()
    with pytest.raises(IccldError, match="hardly anything moves"):
        find_region([frames[0]] * 20)
    with pytest.raises(IccldError, match="7 frames are too few"):
        find_region(list(frames[:7]))


def test_a_region_is_given_as_a_picture_and_fits_the_frames_of_its_camera(tmp_path):
    picture = np.zeros((90, 160), np.uint8)
    picture[70:] = 255
    cv2.imwrite(str(tmp_path / "r.png"), picture)
    region = read_region(tmp_path / "r.png")
    assert (region == (picture > 0)).all()
    assert (fitted_region(region, (180, 320)) == np.kron(picture, np.ones((2, 2))).astype(bool)).all()
    with pytest.raises(IccldError, match="160x90, which is not the shape of a frame of 100x100"):
        fitted_region(region, (100, 100))
    for content, words in ((0, "leaves nothing out"), (255, "leaves everything out")):
        cv2.imwrite(str(tmp_path / "r.png"), np.full((9, 16), content, np.uint8))
        with pytest.raises(IccldError, match=words):
            read_region(tmp_path / "r.png")
    with pytest.raises(IccldError, match="is missing"):
        read_region(tmp_path / "gone.png")
