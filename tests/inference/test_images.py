"""Reading images: upright, whole, of a sane size; and the small tensors around the network."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from iccld_cli.errors import IccldError
from iccld_cli.inference.images import read_image


def test_exif_rotation(tmp_path):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (40, 20, 3)
    assert read[5, 10, 0] > 200
    assert read[35, 10, 0] < 50


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 100, (100, 100, 100)), ("RGBA", (10, 20, 30, 0), (10, 20, 30)), ("P", 0, (0, 0, 0)), ("1", 1, (255,) * 3)],
)
def test_other_modes_become_rgb(tmp_path, mode, value, expected):
    Image.new(mode, (8, 6), value).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert tuple(image[0, 0]) == expected


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((6, 8), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    assert tuple(read_image(tmp_path / "a.png")[0, 0]) == (128, 128, 128)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IccldError, match=rf"cannot read image .*a\.{suffix}"):
        read_image(path)


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(IccldError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("content", [b"", b"GIF? no", b"\xff\xd8\xff"])
def test_no_image_is_one_error(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(IccldError, match=r"x\.jpg"):
        read_image(tmp_path / "x.jpg")
