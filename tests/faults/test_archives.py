"""Archives that lead out, lie about their size, hold what is no file, or are damaged: refused, nothing left behind."""

import bz2
import gc
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import scene

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.archives import open_tree
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree

PICTURE = cv2.imencode(".png", scene(0, 64, 48)[0])[1].tobytes()
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def make(path, members):
    """An archive of (name, content) pairs; a content that is a `TarInfo` or `ZipInfo` is put in as it is."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(content if isinstance(content, zipfile.ZipInfo) else name, PICTURE)
        return path
    mode = TARS[path.name.split(".", 1)[1]]
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(PICTURE)
            archive.addfile(info, io.BytesIO(PICTURE) if info.isreg() else None)
    return path


def refused(path, tmp_path, match):
    with pytest.raises(IccldError, match=match) as error:
        open_tree(path, tmp_path / "cache")
    assert "\n" not in str(error.value) and path.name in str(error.value)
    assert not (tmp_path / "cache").exists() or os.listdir(tmp_path / "cache") == []


OUT = ["../a.png", "x/../../a.png", "/etc/a.png", "..\\a.png", "C:/a.png", "..", "x/../..", "\\\\host\\a.png"]


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_c23_a_member_that_leads_out_is_refused_and_no_copy_is_left(tmp_path, ending, name):
    path = make(tmp_path / f"a.{ending}", [("a/0.png", None), (name, None)])
    refused(path, tmp_path, "leads out of the archive")


@pytest.mark.parametrize("ending", TARS)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_c23_links_and_devices_are_refused_and_no_copy_is_left(tmp_path, ending, kind):
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(make(tmp_path / f"a.{ending}", [("0.png", None), ("a.png", info)]), tmp_path, "link or a device")


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(make(tmp_path / "a.zip", [("a.png", info)]), tmp_path, "it is a link")


@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
def test_a_tar_header_of_absurd_size_is_refused(tmp_path, size):
    info = tarfile.TarInfo("a.png")
    info.size = size
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(IccldError, match=r"a\.tar"):
        open_tree(tmp_path / "a.tar", tmp_path / "cache")


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
def test_c23_what_unpacks_to_far_more_than_itself_is_refused_and_no_copy_is_left(tmp_path, monkeypatch, opener):
    monkeypatch.setattr("iccld_cli.prepare.archives.FREE_BYTES", 1 << 20)
    path = tmp_path / {gzip.open: "a.tar.gz", bz2.open: "a.tar.bz2", lzma.open: "a.tar.xz"}[opener]
    with opener(path, "wb") as file:
        file.write(bytes(8 << 20))
    refused(path, tmp_path, "far more than a data set would")


def test_a_zip_that_unpacks_to_far_more_than_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("iccld_cli.prepare.archives.FREE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(8 << 20))
    refused(tmp_path / "a.zip", tmp_path, "far more than a data set would")


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(make(tmp_path / "a.zip", [("a.png", None)]).read_bytes())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, at + 8, 1)
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", tmp_path, "encrypted")


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_c23_an_archive_that_was_cut_is_refused_and_no_copy_is_left(tmp_path, ending, share):
    path = make(tmp_path / f"a.{ending}", [(f"{n}.png", None) for n in range(4)])
    os.truncate(path, int(path.stat().st_size * share))
    refused(path, tmp_path, "damaged or no archive")


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_gives_an_archive_or_one_line(tmp_path, seed):
    ending = ("zip", "tar", "tar.gz", "tar.xz")[seed % 4]
    path = make(tmp_path / f"a.{ending}", [(f"d/{n}.png", None) for n in range(4)])
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes())
    for at in rng.integers(0, len(data), 3):
        data[at] = int(rng.integers(256))
    path.write_bytes(data)
    try:
        tree = open_tree(path, tmp_path / "cache")
        for name in list(tree.walk()):
            try:
                tree.read(name)
            except IccldError as error:
                assert "\n" not in str(error)
    except IccldError as error:
        assert "\n" not in str(error)


def test_a_damaged_member_is_one_bad_file_and_the_rest_is_taken(tmp_path):
    path = make(tmp_path / "a.zip", [(f"{n}.png", None) for n in range(3)])
    data = bytearray(path.read_bytes())
    data[data.index(PICTURE, data.index(PICTURE) + 1) + 60] ^= 255
    path.write_bytes(data)
    tree = open_tree(path, tmp_path / "cache")
    with pytest.raises(IccldError, match=r"1 of 3 frames .*1\.png cannot be read from the archive"):
        prepare(Images(tree), tmp_path / "d", "a", PrepareOptions(workers=1))


def test_a_pipe_named_like_an_archive_is_not_opened(tmp_path):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/0.png"), scene(0, 64, 48)[0])
    os.mkfifo(tmp_path / "in/a.zip")
    tree = open_tree(tmp_path / "in", tmp_path / "cache")
    assert list(tree.walk()) == ["0.png"]
    with pytest.raises(IccldError):
        open_tree(tmp_path / "in/a.zip", tmp_path / "cache")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gives up rights in a process of its own")
def test_c24_an_unreadable_input_folder_is_named_as_that_and_not_as_the_output():
    """Also where the tests run as root, who may read everything."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("in/open", "in/closed", "d"):
            (root / folder).mkdir(parents=True)
        cv2.imwrite(str(root / "in/open/0.png"), scene(0, 64, 48)[0])
        (root / "d").chmod(0o777)
        (root / "in/closed").chmod(0)
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            gc.freeze()  # a decoder of the parent must not be collected here: its threads are not
            said = "nothing"
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                prepare(Images(FolderTree(root / "in")), root / "d", "mine", PrepareOptions(workers=1))
            except BaseException as error:
                said = str(error)
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(process, 0)
        with os.fdopen(reading) as file:
            said = file.read()
        (root / "in/closed").chmod(0o755)
        assert f"cannot read folder {root}/in/closed (Permission denied)" in said
        assert "cannot write" not in said
