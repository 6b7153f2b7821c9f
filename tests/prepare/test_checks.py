"""Single files: truncation, damage, size in the header, single colours, likeness."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image
from raw_files import photo, png

from iccld_cli.data import checks
from iccld_cli.data.jpeg import damage_reports
from iccld_cli.errors import IccldError
from iccld_cli.prepare import duplicates


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_truncated_images_are_refused(tmp_path, suffix, share):
    data = photo(tmp_path / f"a{suffix}", shape=(60, 80)).read_bytes()
    checks.decode_image(data)
    with pytest.raises(IccldError):
        checks.decode_image(data[: int(len(data) * share)])


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    data = bytearray(photo(tmp_path / "a.png", shape=(60, 80)).read_bytes())
    data[len(data) // 2] ^= 4
    with pytest.raises(IccldError, match="checksum"):
        checks.decode_image(bytes(data))


def test_a_jpeg_with_a_hole_is_refused_though_it_keeps_its_end_marker(tmp_path, capfd):
    data = bytearray(photo(tmp_path / "a.jpg", shape=(240, 320)).read_bytes())
    middle = len(data) // 2
    del data[middle : middle + len(data) // 4]
    with pytest.raises(IccldError, match=r"is damaged \(.*premature end"):
        checks.decode_image(bytes(data))
    assert capfd.readouterr().err == ""


def test_surplus_bytes_in_a_jpeg_are_remarked_on(tmp_path):
    data = photo(tmp_path / "a.jpg", shape=(240, 320)).read_bytes()
    padded = data[:-2] + bytes(50) + data[-2:]
    photograph = checks.decode_image(padded)
    assert "50 extraneous bytes" in photograph.doubt
    assert (photograph.pixels == checks.decode_image(data).pixels).all()


def test_other_words_on_stderr_are_passed_on(capfd):
    with damage_reports() as reports:
        os.write(2, b"something else\nCorrupt JPEG data: bad Huffman code\n")
    assert reports == ["bad Huffman code"]
    assert capfd.readouterr().err == "something else\n"


def test_a_bomb_is_refused_by_its_header():
    data = png(60000, 60000, 8, 2, b"\0" * 5000)
    with pytest.raises(IccldError, match="too large"):
        checks.decode_image(data)


def test_text_is_no_image():
    with pytest.raises(IccldError, match="not an image"):
        checks.decode_image(b"<html>404</html>")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_formats(form):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    photograph = checks.decode_image(file.getvalue())
    assert (photograph.format, photograph.keep, photograph.doubt) == (form, form in ("PNG", "JPEG"), "")
    if form != "JPEG":
        assert (photograph.pixels == pixels).all()


def test_a_rotated_photo_is_set_upright():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    photograph = checks.decode_image(file.getvalue())
    assert photograph.pixels.shape == (16, 8, 3)
    assert not photograph.keep


def test_single_colours():
    mean, std = (v.ravel() for v in cv2.meanStdDev(np.full((4, 4, 3), 9, np.uint8)))
    with pytest.raises(IccldError, match="single colour"):
        checks.check_content(mean, std)


def test_hash_survives_encoding_and_scaling_and_tells_pictures_apart():
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (640, 480)) for _ in range(2)]
    hashes = [checks.perceptual_hash(p) for p in pictures]
    data = cv2.imencode(".jpg", pictures[0], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    small = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (320, 240), interpolation=cv2.INTER_AREA)
    assert (checks.perceptual_hash(small) ^ hashes[0]).bit_count() <= duplicates.MAX_DISTANCE
    assert (hashes[0] ^ hashes[1]).bit_count() > 10


def test_duplicates_are_looked_for_between_splits_only():
    frames = [("train", 0), ("train", 0b111), ("val", 0b1), ("val", 0xFFFF_FFFF), ("train", 2**63)]
    twins, pairs = duplicates.find(frames)
    assert pairs == [(0, 2), (1, 2), (2, 4)]
    assert twins == 4
    assert duplicates.find([("train", 1), ("train", 1)]) == (0, [])
    assert duplicates.find([]) == (0, [])


def test_duplicates_equal_the_plain_search():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2**63, 40)
    values = [int(v) ^ (1 << int(rng.integers(64))) for v in np.concatenate([base, base])]
    frames = [("train" if i % 3 else "test", value) for i, value in enumerate(values)]
    plain = [
        (i, j)
        for i in range(len(frames))
        for j in range(i + 1, len(frames))
        if frames[i][0] != frames[j][0] and (values[i] ^ values[j]).bit_count() <= duplicates.MAX_DISTANCE
    ]
    assert duplicates.find(frames, shown=1000)[1] == plain
