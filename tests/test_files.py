"""A file under its final name is always whole."""

import errno
import json
import os

import pytest

from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, explain_os_error, write_json, write_text


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "clip.mp4"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"12")
        assert temporary.suffix == ".mp4"  # writers choose their format by it
        assert not path.exists()
    assert path.read_bytes() == b"12"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(IccldError, match="a file of that name exists"):
        write_text(tmp_path / "runs" / "config.toml", "")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs folders that refuse their owner")
def test_a_folder_that_refuses_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(IccldError, match="choose a folder you may write to"):
            write_text(tmp_path / "a.txt", "")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "cannot write"),
        (errno.ENOTDIR, "of that name exists"),
    ],
)
def test_disk_errors_become_sentences(number, words):
    explained = explain_os_error(OSError(number, os.strerror(number)), "runs/a")
    assert isinstance(explained, IccldError)
    assert words in str(explained)
    assert "runs/a" in str(explained)


def test_other_errors_stay_what_they_are():
    error = OSError(errno.EIO, "input/output error")
    assert explain_os_error(error, "a") is error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(IccldError, match="no space left"), atomic_path(tmp_path / "a") as temporary:
        os.symlink("/dev/full", temporary)
        with open(temporary, "w") as file:
            file.write("x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_json_keeps_order_and_letters(tmp_path):
    write_json(tmp_path / "a.json", {"z": "Straße", "a": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Straße" in text and text.endswith("\n")
    assert list(json.loads(text)) == ["z", "a"]
