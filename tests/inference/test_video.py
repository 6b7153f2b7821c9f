"""Videos: what comes in complete, cut off, turned, odd; what goes out plays anywhere."""

from fractions import Fraction

import av
import numpy as np
import pytest
from factories import make_video, scene

from iccld_cli.errors import IccldError
from iccld_cli.inference.video import VideoReader, VideoWriter, check_encoder


def read(path):
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        return frames, reader


def faststart(path, frames=30, size=(96, 64)):
    with_index_first = path.with_name("fast.mp4")
    writer = VideoWriter(with_index_first, size, Fraction(25))
    for i in range(frames):
        writer.write(scene(i, *size)[0], Fraction(i, 25))
    writer.close()
    return with_index_first


def rotate_in_header(path, matrix):
    """Write a display matrix (9 words, 16.16 fixed point) into an MP4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    for i, word in enumerate(matrix):
        data[at + 4 * i : at + 4 * i + 4] = (word & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)


def test_reading_gives_every_frame_in_time(tmp_path):
    frames, reader = read(make_video(tmp_path / "v.mp4", frames=12, fps=Fraction(30000, 1001)))
    assert [f.index for f in frames] == list(range(12))
    assert reader.fps == Fraction(30000, 1001)
    assert reader.announced == 12
    assert reader.missing() == 0
    assert float(frames[-1].time) == pytest.approx(11 * 1001 / 30000, abs=1e-3)
    assert np.abs(frames[5].image.astype(int) - scene(5, 96, 64)[0]).mean() < 14  # lossy, noisy scene


def test_written_video_plays_in_a_browser_and_keeps_rate_and_duration(tmp_path):
    path = faststart(tmp_path, frames=30)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.frames == 30
        assert stream.average_rate == 25
        assert float(stream.duration * stream.time_base) == pytest.approx(30 / 25, abs=1e-3)


def test_colours_survive_writing_and_reading(tmp_path):
    writer = VideoWriter(tmp_path / "c.mp4", (64, 64), Fraction(10), crf=5)
    color = np.array([220, 40, 90], np.uint8)
    writer.write(np.full((64, 64, 3), color), Fraction(0))
    writer.close()
    frames, _ = read(tmp_path / "c.mp4")
    np.testing.assert_allclose(frames[0].image.mean((0, 1)), color, atol=4)


def test_uneven_times_are_kept(tmp_path):
    times = [Fraction(0), Fraction(1, 25), Fraction(1, 2), Fraction(13, 25), Fraction(2)]
    writer = VideoWriter(tmp_path / "u.mp4", (64, 48), Fraction(25))
    for i, time in enumerate(times):
        writer.write(scene(i, 64, 48)[0], time)
    writer.close()
    frames, _ = read(tmp_path / "u.mp4")
    assert [float(f.time) for f in frames] == pytest.approx([float(t) for t in times], abs=1e-3)


@pytest.mark.parametrize("size", [(97, 64), (96, 65), (33, 31)])
def test_odd_sizes_are_extended_by_a_pixel(tmp_path, size):
    writer = VideoWriter(tmp_path / "o.mp4", size, Fraction(25))
    writer.write(scene(0, *size)[0], Fraction(0))
    writer.close()
    frames, _ = read(tmp_path / "o.mp4")
    height, width = frames[0].image.shape[:2]
    assert (width, height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)


def test_odd_input_sizes_are_read(tmp_path):
    frames, _ = read(make_video(tmp_path / "odd.mp4", frames=3, size=(95, 63)))
    assert frames[0].image.shape == (63, 95, 3)


def test_rotation_is_honoured(tmp_path):
    path = make_video(tmp_path / "r.mp4", frames=2)
    one = 1 << 16
    rotate_in_header(path, (0, one, 0, -one, 0, 0, 0, 0, 1 << 30))  # a phone held upright: 90 degrees clockwise
    frames, reader = read(path)
    assert reader.turned
    assert frames[0].image.shape == (96, 64, 3)
    expected = np.rot90(scene(0, 96, 64)[0], -1)
    assert np.abs(frames[0].image.astype(int) - expected).mean() < 14


def test_video_cut_off_is_noticed(tmp_path):
    whole = faststart(tmp_path, frames=30)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames, reader = read(cut)
    assert 0 < len(frames) < 30
    assert reader.announced == 30
    assert reader.missing() == 30 - len(frames)


def test_video_without_its_index_is_one_error(tmp_path):
    path = make_video(tmp_path / "v.mp4")  # the index is at the end here
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(IccldError, match=r"v\.mp4 is not a video that can be read"):
        VideoReader(path)


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50])
def test_no_video_is_one_error(tmp_path, content):
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(IccldError, match=r"x\.mp4"):
        VideoReader(tmp_path / "x.mp4")
    with pytest.raises(IccldError, match="no video at"):
        VideoReader(tmp_path / "gone.mp4")


def test_matroska_without_a_frame_count(tmp_path):
    frames, reader = read(make_video(tmp_path / "v.mkv", frames=10))
    assert len(frames) == 10
    assert reader.missing() == 0


def test_encoder_check():
    assert check_encoder() is None


def test_the_same_frames_give_the_same_video(tmp_path):
    """x264's AVX2 code gave one in ten of these videos other bits."""
    frames = [scene(number, 96, 64)[0] for number in range(8)]
    found = set()
    for _ in range(40):
        writer = VideoWriter(tmp_path / "v.mp4", (96, 64), Fraction(25))
        for number, frame in enumerate(frames):
            writer.write(frame, Fraction(number, 25))
        writer.close()
        found.add((tmp_path / "v.mp4").read_bytes())
    assert len(found) == 1


def test_pictures_that_are_views_or_read_only_are_written_as_their_copies(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 128, 3), np.uint8) for _ in range(3)]
    written = []
    for name in ("views", "copies"):
        writer = VideoWriter(tmp_path / f"{name}.mp4", (64, 48), Fraction(10))
        for number, picture in enumerate(pictures):
            half = picture[:, ::2]
            if name == "copies":
                half = half.copy()
                half.flags.writeable = number > 0
            writer.write(half, Fraction(number, 10))
        writer.close()
        written.append((tmp_path / f"{name}.mp4").read_bytes())
    assert written[0] == written[1]
