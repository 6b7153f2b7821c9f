"""Full disks, few file handles and absurd sizes are one line each, and nothing that was whole is lost."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import typer
from commands import call, names, tree
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_model, make_video, scene

from iccld_cli.cli.options import parse_size
from iccld_cli.errors import IccldError
from iccld_cli.explain import explain
from iccld_cli.files import atomic_path
from iccld_cli.prepare.journal import Journal

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
limited = pytest.mark.skipif(os.name != "posix", reason="sets limits of a process")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture
def photo(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene(0, 64, 48)[0])
    return tmp_path / "a.png"


def limit(what, value):
    """A child's limit, set after the fork; writing past the size limit then fails as on a full disk."""

    def apply():
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(getattr(resource, what), (value, value))

    return apply


def limited_run(words, what, value):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "iccld_cli", *map(str, words)]
    return subprocess.run(
        words, preexec_fn=limit(what, value), env=environment, capture_output=True, text=True, check=False
    )


@full
def test_a_model_file_on_a_full_disk(tmp_path):
    """The library writes through Rust, whose errors carry the system's number in their text."""
    with (
        pytest.raises(IccldError, match="no space left on the disk while writing"),
        atomic_path(tmp_path / "m") as path,
    ):
        try:
            save_file({"a": torch.zeros(4)}, "/dev/full")
        except Exception as error:
            assert not isinstance(error, OSError)
            raise
        path.write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("database or disk is full", sqlite3.OperationalError, "no space left"),
        ("attempt to write a readonly database", sqlite3.OperationalError, "cannot write"),
        ("disk I/O error", sqlite3.OperationalError, "cannot keep a journal"),
        ("unable to open database file", sqlite3.OperationalError, "cannot keep a journal"),
        ("database disk image is malformed", sqlite3.DatabaseError, "is damaged"),
        ("file is not a database", sqlite3.DatabaseError, "is damaged"),
    ],
)
def test_errors_of_the_journal_are_sentences(text, kind, words):
    explained = explain(kind(text))
    assert isinstance(explained, IccldError)
    assert words in str(explained)


def test_a_journal_that_is_full_for_real(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal._db.execute("PRAGMA max_page_count=1")
    with pytest.raises(sqlite3.OperationalError) as raised:
        for number in range(1000):
            journal._db.execute(
                "REPLACE INTO frame VALUES (?, ?, '', '', '', '', 1, 0, ?)", ("train", str(number), "x" * 1000)
            )
    assert "no space left" in str(explain(raised.value))
    journal.close()


def test_a_damaged_journal_of_prepare_is_one_line(tmp_path, photo, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    photo.rename(folder / "a.png")
    (folder / "b.png").write_bytes(b"none")
    command = ["prepare", "--images", folder, "--out", tmp_path / "data", "--name", "own", "--workers", 1]
    assert call(command) == 1  # and keeps its work
    journal = tmp_path / "data/.own.partial/journal.sqlite"
    for extra in ("journal.sqlite-wal", "journal.sqlite-shm"):
        journal.with_name(extra).unlink(missing_ok=True)
    journal.write_bytes(b"no database " * 1000)
    capsys.readouterr()
    assert call([*command, "--skip-bad"]) == 1
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EFBIG, "too large for this file system"),
        (errno.ENAMETOOLONG, "longer than this file system allows"),
        (errno.ELOOP, "leads back to itself"),
        (errno.EMFILE, "may open no more files"),
        (errno.ENFILE, "may open no more files"),
        (errno.EIO, "check the path and the disk"),
        (errno.ESTALE, "check the path and the disk"),
    ],
)
def test_errors_of_the_system_are_sentences(number, words):
    explained = explain(OSError(number, os.strerror(number), "runs/a"))
    assert isinstance(explained, IccldError)
    assert words in str(explained)


def test_errors_of_the_program_stay_what_they_are():
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("x"),
        sqlite3.ProgrammingError("x"),
    ):
        assert explain(error) is error


def test_memory_that_runs_out_is_told_as_that():
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(cv2.error) as opencv_error:
        cv2.resize(scene(0, 64, 48)[0], (2_000_000_000, 1_000_000_000))
    for error in (torch_error.value, MemoryError()):
        assert "memory" in str(explain(error))
    assert isinstance(explain(opencv_error.value), IccldError) or "memory" not in str(opencv_error.value).lower()


@limited
def test_predict_on_a_disk_that_fills_up_keeps_what_is_whole_and_goes_on(model, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), scene(number, 64, 48)[0])
    make_video(folder / "v.mp4", 40, size=(256, 192))
    command = ["predict", folder, "--ckpt", model, "--out", out, "--save", "labels,overlay"]
    ended = limited_run(command, "RLIMIT_FSIZE", 24_000)
    assert ended.returncode == 1
    assert "too large for this file system" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert names(out) == ["labels/0.png", "labels/1.png", "overlay/0.png", "overlay/1.png"]
    assert call(command) == 0
    assert call([*command, "--out", tmp_path / "fresh"]) == 0
    assert tree(out) == tree(tmp_path / "fresh")


@limited
@pytest.mark.parametrize("handles", [24, 12])
def test_few_file_handles_are_one_line_or_enough(model, photo, tmp_path, handles):
    words = ["predict", photo, "--ckpt", model, "--out", tmp_path / "out"]
    ended = limited_run(words, "RLIMIT_NOFILE", handles)
    assert ended.returncode in (0, 1)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") <= 1


@pytest.mark.parametrize(
    "text", ["100000x100000", "99968x99968", "16385x1", "1x20000", "16384x16384", "9" * 5000 + "x1"]
)
def test_absurd_sizes_are_wrong_usage(text):
    with pytest.raises(typer.BadParameter, match="too large"):
        parse_size(text)
    assert parse_size("4096x2160") == (4096, 2160)


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "--virtual", "1", "--size", "100000x100000"],
        ["prepare", "--virtual", "99999999999"],
        ["prepare", "--virtual", "1", "--workers", "1000000"],
        ["predict", "PHOTO", "--height", "1000000"],
        ["predict", "PHOTO", "--samples", "1000000000"],
        ["evaluate", "--ckpt", "x", "--data", "y", "--samples", "1000000000"],
        ["adapt-seg", "--source", "x", "--target", "y", "--out", "z", "--crop", "99968x99968"],
        ["export", "--ckpt", "x", "--format", "onnx", "--out", "y.onnx", "--size", "99968x99968"],
        ["predict", "PHOTO", "--out", ""],
        ["predict", "PHOTO", "--out="],
        ["predict", ""],
        ["evaluate", "--ckpt", "x", "--data", "y", "--json", ""],
        ["prepare", "--virtual", "1", "--out", ""],
    ],
)
def test_absurd_requests_and_empty_values_are_wrong_usage(words, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    assert call([str(photo) if word == "PHOTO" else word for word in words]) == 2
    assert names(tmp_path) == before
    assert "Traceback" not in capsys.readouterr().err


def test_a_height_that_makes_an_input_too_wide_is_one_line(model, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "wide.png"), scene(0, 6400, 32)[0])
    status = call(["predict", tmp_path / "wide.png", "--ckpt", model, "--out", tmp_path / "out", "--height", 4096])
    assert status == 1
    assert "give a smaller one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_line(model, photo, tmp_path, capsys):
    for out in ("/proc/iccld", "/dev/null/x", str(photo), f"{photo}/x"):
        assert call(["predict", photo, "--ckpt", model, "--out", out]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "internal error" not in said
