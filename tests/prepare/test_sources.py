"""Archives, own images with masks and templates, and videos as sources."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from raw_files import all_ids, grey, palette, photo

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.prepare import archives
from iccld_cli.prepare.adapters.base import FileProblem
from iccld_cli.prepare.adapters.gta5 import Gta5
from iccld_cli.prepare.adapters.video import Video
from iccld_cli.prepare.archives import open_tree, plain_copies
from iccld_cli.prepare.labelmap import parse_label_map
from iccld_cli.prepare.own import own_images
from iccld_cli.prepare.prepare import BadFilesError, PrepareOptions, prepare
from iccld_cli.town.drive import write_drive


def run(source, out: Path, **options) -> PreparedDataset:
    """Prepare in this process."""
    return prepare(source, out, "set", PrepareOptions(**{"workers": 1, **options}))[0]


def zip_of(path: Path, folder: Path) -> Path:
    """Pack a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def gta(root: Path) -> Path:
    """Two GTA5 frames."""
    for number in (1, 2):
        photo(root / f"images/{number:05d}.png", number)
        palette(root / f"labels/{number:05d}.png", all_ids([7, 26]))
    return root


def test_numbered_zips_are_read_as_they_are(tmp_path):
    raw, root = gta(tmp_path / "raw"), tmp_path / "zips"
    root.mkdir()
    for kind in ("images", "labels"):
        zip_of(root / f"01_{kind}.zip", tmp_path / "raw").rename(root / f"x{kind}")
        (tmp_path / kind).mkdir()
        (raw / kind).rename(tmp_path / kind / kind)
        (root / f"x{kind}").unlink()
        zip_of(root / f"01_{kind}.zip", tmp_path / kind)
    data = run(Gta5(open_tree(root, tmp_path)), tmp_path / "out", workers=2)
    assert data.info.splits == {"train": 2}
    assert data.read_label(data.frames("train")[0])[0, :2].tolist() == [0, 13]
    assert not list(root.glob("images"))


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_tar_files(tmp_path, ending, mode):
    path = tmp_path / f"gta.{ending}"
    with tarfile.open(path, mode) as archive:
        archive.add(gta(tmp_path / "raw"), "gta")
    cache = tmp_path / "out"
    tree = open_tree(path, cache)
    data = run(Gta5(tree), cache, workers=2)
    assert data.info.splits == {"train": 2}
    assert data.info.source["path"] == str(path)
    copies = plain_copies(tree)
    assert len(copies) == (ending != "tar")
    assert all(copy.is_file() and copy.parent == cache for copy in copies)


def test_what_is_unpacked_already_comes_first(tmp_path):
    root = gta(tmp_path / "raw")
    zip_of(tmp_path / "all.zip", root)
    (tmp_path / "all.zip").rename(root / "all.zip")
    palette(root / "labels/00001.png", all_ids([11]))
    data = run(Gta5(open_tree(root, tmp_path)), tmp_path / "out")
    rows = [data.read_label(frame)[0, 0] for frame in data.frames("train")]
    assert rows == [2, 0]


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "C:/evil.png"])
def test_members_that_lead_out_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(IccldError, match=r"not safe.*leads out"):
        open_tree(tmp_path / "a.zip", tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(IccldError, match=r"not safe.*leads out"):
        open_tree(tmp_path / "a.tar", tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("images/a.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(IccldError, match="link or a device"):
        open_tree(tmp_path / "a.tar", tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("images/a.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(IccldError, match="link"):
        open_tree(tmp_path / "a.zip", tmp_path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", b"\0" * (8 << 20))
    with pytest.raises(IccldError, match="unpacks to far more"):
        open_tree(tmp_path / "a.zip", tmp_path)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("images/a.png")
        info.size = 8 << 20
        tar.addfile(info, io.BytesIO(b"\0" * info.size))
    with pytest.raises(IccldError, match="unpacks to far more"):
        open_tree(tmp_path / "a.tar.gz", tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_damaged_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4 this was cut off" * 40)
    with pytest.raises(IccldError, match="damaged or no archive"):
        open_tree(tmp_path / name, tmp_path)


def test_other_files_and_nothing(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"x")
    with pytest.raises(IccldError, match="zip or tar"):
        open_tree(tmp_path / "a.rar", tmp_path)
    with pytest.raises(IccldError, match="does not exist"):
        open_tree(tmp_path / "none", tmp_path)


def test_a_damaged_member_is_a_bad_file(tmp_path):
    path = zip_of(tmp_path / "gta.zip", gta(tmp_path / "raw"))
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") + 30
    data[at] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadFilesError, match="cannot be read from the archive"):
        run(Gta5(open_tree(path, tmp_path)), tmp_path / "out")


def test_own_images_without_labels(tmp_path):
    photo(tmp_path / "trip/day1/a.jpg")
    photo(tmp_path / "trip/day2/a.bmp", 1)
    name, source = own_images(str(tmp_path / "trip"), None, None, tmp_path)
    data = run(source, tmp_path / "out")
    assert name == "trip"
    assert data.info.classes_known is None
    assert [f.image for f in data.frames("train")] == ["images/train/day1/a.jpg", "images/train/day2/a.png"]
    assert all(frame.label is None and frame.pixels is None for frame in data.iter_frames())


def test_a_glob_takes_what_matches(tmp_path):
    for seed, name in enumerate(("day1/a.jpg", "day1/b.png", "day2/c.jpg")):
        photo(tmp_path / "trip" / name, seed)
    name, source = own_images(str(tmp_path / "trip/*/*.jpg"), None, None, tmp_path)
    data = run(source, tmp_path / "out")
    assert (name, data.info.splits) == ("trip", {"train": 2})


def test_an_archive_of_images(tmp_path):
    photo(tmp_path / "raw/a.jpg")
    name, source = own_images(str(zip_of(tmp_path / "trip.zip", tmp_path / "raw")), None, None, tmp_path)
    assert (name, run(source, tmp_path / "out").info.splits) == ("trip", {"train": 1})


def test_masks_in_a_parallel_folder_hold_train_ids(tmp_path):
    photo(tmp_path / "rgb/x/a.jpg")
    grey(tmp_path / "seg/x/a.png", all_ids([0, 18, 255]))
    _, source = own_images(str(tmp_path / "rgb"), str(tmp_path / "seg"), None, tmp_path)
    data = run(source, tmp_path / "out")
    assert data.read_label(data.frames("train")[0])[0, :3].tolist() == [0, 18, 255]


def test_templates_with_splits_and_several_cameras(tmp_path):
    table = parse_label_map({"ids": {"1": "road", "2": "car", "0": "ignore"}})
    for seed, (split, camera) in enumerate((s, c) for s in ("training", "validation") for c in ("front", "left")):
        photo(tmp_path / f"rec/{split}/{camera}/rgb/000_{camera}.png", seed)
        grey(tmp_path / f"rec/{split}/{camera}/seg/000_id.png", all_ids([0, 1, 2]))
    photo(tmp_path / "rec/training/front/depth/000_front.png", 9)
    images = str(tmp_path / "rec/{split}/{camera}/rgb/{frame}_{camera}.png")
    masks = str(tmp_path / "rec/{split}/{camera}/seg/{frame}_id.png")
    name, source = own_images(images, masks, table, tmp_path)
    data = run(source, tmp_path / "out")
    assert name == "rec"
    assert data.info.classes_known == ("road", "car")
    assert [f.image for f in data.iter_frames()] == [
        f"images/{split}/{camera}/000.png" for split in ("train", "val") for camera in ("front", "left")
    ]
    assert data.read_label(data.frames("val")[0])[0, :3].tolist() == [255, 0, 13]


def test_template_errors(tmp_path):
    images = str(tmp_path / "{frame}.png")
    with pytest.raises(IccldError, match="both be templates"):
        own_images(images, str(tmp_path), None, tmp_path)
    with pytest.raises(IccldError, match=r"\{camera\}"):
        own_images(images, str(tmp_path / "{camera}/{frame}.png"), None, tmp_path)
    with pytest.raises(IccldError, match="glob"):
        own_images(str(tmp_path / "*.png"), str(tmp_path), None, tmp_path)


def movie(path: Path, frames: int = 25, fps: int = 25) -> Path:
    """A short H.264 video whose brightness is the frame's number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "5"}
        noise = np.random.default_rng(0).integers(0, 40, (48, 64, 3))
        for number in range(frames):
            pixels = (noise + 5 * number).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_of_a_video(tmp_path):
    data = run(Video(movie(tmp_path / "drive.mp4"), 5), tmp_path / "out")
    frames = data.frames("train")
    assert [f.image[-10:-4] for f in frames] == ["000000", "000005", "000010", "000015", "000020"]
    means = [data.read_image(frame).mean() - 19.5 for frame in frames]
    assert means == pytest.approx([0, 25, 50, 75, 100], abs=6)
    assert run(Video(tmp_path / "drive.mp4", 99), tmp_path / "all").info.splits == {"train": 25}


def test_one_frame_of_a_video(tmp_path):
    video = Video(movie(tmp_path / "drive.mp4"), 5)
    frames = list(video.scan())
    every = {frame.image: picture for frame, picture in video.stream(iter(frames))}
    for frame in (frames[3], frames[1]):
        picture, label = video.load(frame)
        assert label is None
        np.testing.assert_array_equal(picture, every[frame.image])
    (tmp_path / "drive.mp4").unlink()
    movie(tmp_path / "drive.mp4", 3)
    with pytest.raises(FileProblem, match="cannot be decoded"):
        video.load(frames[3])


def test_a_video_with_workers_and_again(tmp_path):
    movie(tmp_path / "drive.mp4", 40)
    data = run(Video(tmp_path / "drive.mp4", 25), tmp_path / "out", workers=2)
    assert data.info.splits == {"train": 40}
    assert prepare(Video(tmp_path / "drive.mp4", 25), tmp_path / "out", "set", PrepareOptions(workers=2))[1] is False


def test_a_video_that_ends_early(tmp_path):
    path = movie(tmp_path / "drive.mp4", 50)
    moved = tmp_path / "fast.mp4"
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    moved.write_bytes(moved.read_bytes()[: int(moved.stat().st_size * 0.6)])
    with pytest.raises(BadFilesError, match=r"frames of set cannot be used .*frame \d+"):
        run(Video(moved, 25), tmp_path / "out")
    data = run(Video(moved, 25), tmp_path / "out", skip_bad=True)
    assert 0 < data.info.splits["train"] < 50
    assert data.info.splits["train"] + len(data.info.skipped) == 50


def test_a_rotated_video_is_set_upright(tmp_path):
    path = movie(tmp_path / "phone.mp4", 5)
    upright = run(Video(path, 1), tmp_path / "plain")
    upright_image = upright.read_image(upright.frames("train")[0])
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a quarter clockwise
    data = path.read_bytes()
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(plain) :])
    rotated = run(Video(path, 1), tmp_path / "turned")
    image = rotated.read_image(rotated.frames("train")[0])
    assert np.abs(image.astype(int) - np.rot90(upright_image, -1)).mean() < 6


def test_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 50)
    with pytest.raises(IccldError, match="cannot be opened as a video"):
        run(Video(tmp_path / "a.mp4", 5), tmp_path / "out")
    with pytest.raises(IccldError, match="no video at"):
        Video(tmp_path / "none.mp4", 5)
    assert not (tmp_path / "out").exists()


def test_a_drive_plays(tmp_path):
    frames = write_drive(tmp_path / "drive.mp4", 0.12, "game", (64, 32), 0)
    with av.open(str(tmp_path / "drive.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert len(list(container.decode(stream))) == frames == 3
    with pytest.raises(IccldError, match="even"):
        write_drive(tmp_path / "odd.mp4", 0.1, "game", (63, 32), 0)
