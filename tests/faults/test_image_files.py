"""Images that are damaged, cut off, of another kind than their name says, or made to harm: refused, or whole."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from iccld_cli.data.checks import PNG_MAGIC, decode_image
from iccld_cli.errors import IccldError
from iccld_cli.inference.images import read_image

FORMATS = {"png": {}, "jpg": {"quality": 95}, "bmp": {}, "webp": {"lossless": True}, "tif": {}, "ppm": {}}


def scene(width=64, height=48):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 3, y * 4, (x + y) * 2], -1)
    return (pixels + np.random.default_rng(0).integers(0, 40, pixels.shape)).astype(np.uint8)


def encoded(suffix, pixels=None):
    data = io.BytesIO()
    name = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(scene() if pixels is None else pixels).save(data, name, **FORMATS[suffix])
    return data.getvalue()


def chunk(kind, content, length=None, checksum=None):
    """A PNG chunk, with another length or checksum than is true where one is given."""
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", crc)


def png(*chunks, size=(64, 48), depth=8, color=2):
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    return PNG_MAGIC + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def rows(pixels):
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def both(tmp_path, data, suffix):
    """What `predict` and `prepare` make of a file: pixels, or None where they refuse it in one line."""
    path, found = tmp_path / f"x.{suffix}", []
    path.write_bytes(data)
    for read in (lambda: read_image(path), lambda: decode_image(data).pixels):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found.append(read())
        except IccldError as error:
            assert "\n" not in str(error)
            found.append(None)
    return found


def assert_refused_or_whole(tmp_path, data, suffix, whole):
    for pixels in both(tmp_path, data, suffix):
        assert pixels is None or np.array_equal(pixels, whole)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_whole_is_read(tmp_path, suffix):
    predicted, prepared = both(tmp_path, encoded(suffix), suffix)
    assert np.abs(predicted.astype(int) - prepared).mean() < 1
    assert np.abs(predicted.astype(int) - scene()).mean() < 12


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_cut_image_is_refused(tmp_path, suffix, share):
    data = encoded(suffix)
    predicted, prepared = both(tmp_path, data[: int(len(data) * share)], suffix)
    assert predicted is None
    if suffix in ("png", "jpg", "webp"):  # the others are converted, and decoded with less care
        assert prepared is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_that_lost_only_its_last_byte_is_refused_or_whole(tmp_path, suffix):
    whole = both(tmp_path, encoded(suffix), suffix)
    for pixels, expected in zip(both(tmp_path, encoded(suffix)[:-1], suffix), whole, strict=True):
        assert pixels is None or np.abs(pixels.astype(int) - expected).max() <= 2 or suffix in ("bmp", "ppm", "tif")


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_a_changed_byte_of_a_png_is_refused(tmp_path, share):
    data = bytearray(encoded("png"))
    data[int(len(data) * share)] ^= 0x10
    assert both(tmp_path, bytes(data), "png") == [None, None]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"teXt", b"note", length=10**6),
        chunk(b"teXt", b"note", length=2**32 - 1),
        chunk(b"teXt", b"note", checksum=1),
        chunk(b"IDAT", b"more", length=2**31),
    ],
)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_chunk_that_claims_more_than_there_is_is_refused(tmp_path, extra, place):
    """Pillow reads past what is damaged behind the pixels."""
    pixels = chunk(b"IDAT", rows(scene()))
    data = png(*((extra, pixels) if place == "before" else (pixels, extra)))
    assert both(tmp_path, data, "png") == [None, None]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 48), (9, 8)])
def test_every_kind_of_png_is_whole(tmp_path, mode, size):
    pixels = Image.fromarray(scene(*size))
    grey = np.asarray(pixels.convert("L"), np.uint16) * 256
    (Image.fromarray(grey) if mode == "I;16" else pixels.convert(mode)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").shape == (size[1], size[0], 3)


def test_interlaced_rows_are_counted(tmp_path):
    """Of the seven passes, an image of 3x3 pixels has five: rows of 1, 1, 2, twice 1 and 3 pixels."""
    packed = [b"\0" + bytes([v] * 3 * n) for v, n in ((9, 1), (9, 1), (9, 2), (9, 1), (9, 1), (9, 3))]
    header = struct.pack(">IIBBBBB", 3, 3, 8, 2, 0, 0, 1)
    for rows_given, whole in ((packed, True), (packed[:-1], False)):
        body = chunk(b"IDAT", zlib.compress(b"".join(rows_given)))
        data = PNG_MAGIC + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
        (tmp_path / "x.png").write_bytes(data)
        if whole:
            assert (read_image(tmp_path / "x.png") == 9).all()
        else:
            with pytest.raises(IccldError, match="fewer pixels"):
                read_image(tmp_path / "x.png")


def test_a_png_with_chunks_that_nobody_knows_is_read(tmp_path):
    data = png(chunk(b"teXt", b"note"), chunk(b"IDAT", rows(scene())), chunk(b"zzZz", b"x" * 1000))
    assert all(np.array_equal(pixels, scene()) for pixels in both(tmp_path, data, "png"))


@pytest.mark.parametrize(
    "data",
    [
        png(chunk(b"IDAT", rows(scene()[:20]))),  # fewer rows than announced
        png(chunk(b"IDAT", b"")),
        png(),
        png(chunk(b"IDAT", rows(scene())), size=(0, 48)),
        png(chunk(b"IDAT", rows(scene())), size=(2**31 - 1, 2**31 - 1)),
        png(chunk(b"IDAT", rows(scene())), size=(30_000, 30_000)),
        png(chunk(b"IDAT", rows(scene())), depth=3),
        png(chunk(b"IDAT", rows(scene())), color=5),
        png(chunk(b"IDAT", rows(scene()[..., 0])), color=3),  # a palette image without its palette
        PNG_MAGIC,
        PNG_MAGIC + b"\0" * 100,
    ],
)
def test_a_png_that_does_not_add_up_is_refused(tmp_path, data):
    assert both(tmp_path, data, "png") == [None, None]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        b"\xff" * 4096,
        b"GIF89a" + b"\xff" * 100,
        b"\xff\xd8\xff\xe0" + b"\0" * 30 + b"\xff\xd9",
        b"II*\0\x08\0\0\0" + b"\xff" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(touched) (w) file\n",
        b"PK\x03\x04" + b"\0" * 60,
        b"#EXTM3U\n/etc/passwd\n",
    ],
)
def test_what_is_no_image_is_one_line_whatever_its_name(tmp_path, suffix, data):
    assert both(tmp_path, data, suffix) == [None, None]
    assert sorted(os.listdir(tmp_path)) == [f"x.{suffix}"]


@pytest.mark.parametrize("actual", ["png", "jpg", "webp"])
def test_the_content_counts_and_not_the_name(tmp_path, actual):
    whole = both(tmp_path, encoded(actual), actual)
    for pixels, expected in zip(both(tmp_path, encoded(actual), "bmp"), whole, strict=True):
        assert np.array_equal(pixels, expected)


def test_tiles_of_a_tiff_outside_the_file_are_refused(tmp_path):
    data = bytearray(encoded("tif"))
    entries = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, entries)[0]):
        at = entries + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] == 273:  # where the pixels are
            struct.pack_into("<I", data, at + 8, 2**31)
    assert both(tmp_path, bytes(data), "tif")[0] is None


@pytest.mark.parametrize("mode", ["F", "float tiff"])
def test_floating_point_pixels_are_refused_and_not_turned_black(tmp_path, mode):
    """Behaviour 26: a float TIFF turned black."""
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(tmp_path / "x.tif")
    with pytest.raises(IccldError, match="floating-point"):
        read_image(tmp_path / "x.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device", "gone"])
def test_what_is_no_file_is_one_line_and_nothing_waits(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(IccldError):
        read_image(path)
