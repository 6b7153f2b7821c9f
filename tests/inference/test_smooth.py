"""Steadied video: flicker is calmed, motion followed, a cut is a cut, and no frame knows where a run began."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from factories import make_video

from iccld_cli.inference import smooth, video
from iccld_cli.inference.fullsize import Logits
from iccld_cli.inference.smooth import Smoother, first_needed
from iccld_cli.inference.video import VideoReader, frames_before

HEIGHT, WIDTH, CLASSES = 96, 128, 5


def world(seed):
    """A picture wider than the frame, and the class of each of its pixels."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (12, 40, 3), np.uint8)
    picture = cv2.resize(rough, (400, HEIGHT), interpolation=cv2.INTER_CUBIC)
    classes = cv2.resize(rng.integers(0, CLASSES, (3, 12), np.uint8), (400, HEIGHT), interpolation=cv2.INTER_NEAREST)
    return picture, classes


def drive(frames, step=2, noise=1.5, seed=0):
    """(image, logits at a quarter, classes at a quarter) of a camera that moves to the right."""
    rng = np.random.default_rng(seed + 100)
    picture, classes = world(seed)
    for number in range(frames):
        left = number * step % 250
        image = np.ascontiguousarray(picture[:, left : left + WIDTH])
        its = classes[2::4, left + 2 : left + WIDTH : 4]
        logits = 2 * np.eye(CLASSES, dtype=np.float32)[its].transpose(2, 0, 1)
        logits += noise * rng.standard_normal(logits.shape, np.float32)
        yield image, np.ascontiguousarray(logits), its


def run(frames, first=0):
    smoother = Smoother(("road", "pole", "building", "sky", "car"))
    return [
        smoother.smooth(number, image, [Logits(logits)])[0].values
        for number, (image, logits, _) in enumerate(frames, first)
    ]


def test_noise_is_calmed_and_motion_followed():
    frames = list(drive(40))
    wrong = np.mean([logits.argmax(0) != its for _, logits, its in frames[10:]])
    found = run(frames)
    calmed = np.mean([values.argmax(0) != its for values, (*_, its) in zip(found[10:], frames[10:], strict=True)])
    assert wrong > 0.2
    assert calmed < 0.6 * wrong
    # Without the flow, a mean over five frames would smear each border by ten pixels, two and a half cells.
    still = run([(frames[0][0], logits, its) for _, logits, its in frames])
    smeared = np.mean([values.argmax(0) != its for values, (*_, its) in zip(still[10:], frames[10:], strict=True)])
    assert calmed < 0.8 * smeared


def test_the_first_frame_and_the_frame_after_a_cut_are_as_they_were():
    frames = [*drive(12), *drive(6, seed=1), *drive(6, seed=2)]
    found = run(frames)
    for number, (values, (_, logits, _)) in enumerate(zip(found, frames, strict=True)):
        assert (values is logits) == (number in (0, 12, 18)), number


def test_what_is_thin_and_found_now_and_then_is_kept_where_it_is_found():
    """A column of cells that every third frame finds, before a background that is found in all."""
    kept = {}
    for thin in ("pole", "wall"):
        smoother, found = Smoother(("road", thin, "building", "sky", "car")), []
        for number, (image, _, its) in enumerate(drive(24, step=0)):
            logits = 3 * np.eye(CLASSES, dtype=np.float32)[np.full_like(its, 2)].transpose(2, 0, 1)
            seen = number % 3 == 2
            if seen:
                logits[1, :, 10] = 4
            steady = smoother.smooth(number, image, [Logits(logits)])[0].values.argmax(0)
            if seen:
                found.append((steady[:, 10] == 1).mean())
            assert (np.delete(steady, 10, axis=1) == 2).all()
        kept[thin] = np.mean(found)
    assert kept["pole"] == 1
    assert kept["wall"] < 0.5


def test_a_change_of_light_is_no_cut():
    frames = [
        (np.clip(image * (1.0 if number % 2 else 0.85) + 5, 0, 255).astype(np.uint8), logits, its)
        for number, (image, logits, its) in enumerate(drive(8))
    ]
    assert all(values is not logits for values, (_, logits, _) in zip(run(frames)[1:], frames[1:], strict=True))


@pytest.mark.parametrize("number", [1, 15, 16, 47, 48, 63, 64, 100, 143])
def test_a_frame_does_not_depend_on_where_a_run_began(number):
    frames = list(drive(145, step=1))
    whole, first = run(frames), first_needed(number)
    assert 0 <= number - first < smooth.GRID + smooth.WARM_UP
    part = run(frames[first:], first)
    for ours, wanted in zip(part[number - first :], whole[number:], strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_further_views_and_other_sizes_are_left_alone():
    smoother = Smoother()
    (image, logits, _), (later, noisy, _) = drive(2)
    smoother.smooth(0, image, [Logits(logits)])
    other = Logits(noisy, mirrored=True)
    found = smoother.smooth(1, later, [Logits(noisy), other])
    assert found[1] is other
    assert found[0].values is not noisy
    assert smoother.smooth(2, later[:64], [other])[0] is other  # a stream that changes its size


def test_frames_before_a_time_are_counted_without_decoding(tmp_path):
    path = make_video(tmp_path / "v.mp4", frames=30)
    with VideoReader(path) as reader:
        times = [frame.time for frame in reader.frames()]
    for seconds in (Fraction(0), Fraction("0.2"), Fraction("0.21"), Fraction(9)):
        assert frames_before(path, seconds) == sum(time < seconds for time in times)
    path.write_bytes(path.read_bytes()[:200])
    assert frames_before(path, Fraction(1)) is None


def test_what_lies_behind_a_time_is_not_read(tmp_path, monkeypatch):
    path, seen = make_video(tmp_path / "v.mp4", frames=200), []
    with VideoReader(path) as reader:
        times = [frame.time for frame in reader.frames()]
    monkeypatch.setattr(video, "hidden", lambda packet, stream: bool(seen.append(packet.pts)))
    assert frames_before(path, Fraction(1)) == sum(time < 1 for time in times) == 25
    assert 25 < len(seen) < 100
