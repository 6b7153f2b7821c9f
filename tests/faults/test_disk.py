"""Full disks, few file handles and absurd sizes are one line each, and nothing that was whole is lost."""

import errno
import gc
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from commands import call, forks, names, tree

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.cli.options import parse_size
from iccld_cli.errors import IccldError
from iccld_cli.explain import explain

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


def limited_call(words, what, value, said):
    """The command in a forked process with a limit: its exit status and what it says to the error stream."""
    process = os.fork()
    if not process:
        gc.freeze()  # a decoder of the parent must not be collected here: its threads are not
        limit(what, value)()
        with open(said, "w") as sys.stderr:
            status = call(words)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said.read_text()


@forks
def test_a_model_file_on_a_disk_that_is_too_small(model, tmp_path):
    """The library writes through Rust, whose errors are no `OSError` and carry the system's number in their text."""
    words = ["export", "--ckpt", model, "--format", "half", "--out", tmp_path / "m.safetensors"]
    status, said = limited_call(words, "RLIMIT_FSIZE", 1000, tmp_path / "said")
    assert status == 1
    assert "m.safetensors became too large for this file system" in said
    assert said.count("\n") == 1
    assert names(tmp_path) == ["said"]


def test_a_full_disk_in_the_words_of_rust():
    explained = explain(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert "no space left on the disk" in str(explained)


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


@forks
@pytest.mark.parametrize(
    ("room", "words"), [(1 << 20, "too large for this file system"), (1 << 14, "cannot keep a journal")]
)
def test_prepare_on_a_disk_that_is_too_small_leaves_no_data_set_and_goes_on(tmp_path, room, words):
    """The images are larger than the first limit, the journal's files are larger than the second."""
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in/a.png"), pixels)  # noise: 1.4 MB
    command = ["prepare", "--images", tmp_path / "in", "--out", tmp_path / "data", "--name", "own", "--workers", 1]
    status, said = limited_call(command, "RLIMIT_FSIZE", room, tmp_path / "said")
    assert (status, said.count("\n")) == (1, 1), said
    assert words in said
    assert not (tmp_path / "data/own").exists()
    assert call(command) == 0
    assert (tmp_path / "data/own/dataset.json").is_file()


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


@forks
def test_predict_on_a_disk_that_fills_up_keeps_what_is_whole_and_goes_on(model, tmp_path):
    folder, out, fresh = tmp_path / "in", tmp_path / "out", tmp_path / "fresh"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.jpg"), scene(number, 64, 48)[0])
    make_video(folder / "v.mp4", 30, size=(128, 96))
    command = ["predict", folder, "--ckpt", model, "--save", "labels,overlay", "--out"]
    assert call([*command, fresh]) == 0
    room = (fresh / "overlay/v.mp4").stat().st_size // 2
    assert room > (fresh / "overlay/0.jpg").stat().st_size
    status, said = limited_call([*command, out], "RLIMIT_FSIZE", room, tmp_path / "said")
    assert (status, said.count("\n")) == (1, 1)
    assert "too large for this file system" in said
    assert names(out) == ["labels/0.png", "labels/1.png", "overlay/0.jpg", "overlay/1.jpg"]
    assert call([*command, out]) == 0
    assert tree(out) == tree(fresh)


@limited
def test_few_file_handles_are_one_line_or_enough(model, photo, tmp_path):
    words = [sys.executable, "-m", "iccld_cli", "predict", photo, "--ckpt", model, "--out", tmp_path / "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        words, preexec_fn=limit("RLIMIT_NOFILE", 24), env=environment, capture_output=True, text=True, check=False
    )
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_pipe_or_device_is_never_replaced_by_a_result(model, tmp_path, capsys, option):
    """A rename would have put a file in place of a device."""
    data = make_dataset(tmp_path / "data", counts=(("val", 1),))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name, words in (("pipe", "is a named pipe"), ("link", "is a device")):
        assert call(["evaluate", "--ckpt", model, "--data", data, option, tmp_path / name]) == 1
        assert words in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
