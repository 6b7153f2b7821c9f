"""evaluate: scores and files never depend on whether they can be printed, and nothing that was read is written over."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call, forked, forks, hidden

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model

from iccld_cli.checkpoint import load_segmenter
from iccld_cli.files import atomic_path, remove_leftovers

posix = pytest.mark.skipif(os.name != "posix", reason="uses POSIX devices and descriptors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage1.safetensors", "stage1")


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "data/camvid", counts=(("val", 2),))


@pytest.fixture
def command(model, data, tmp_path):
    return ["evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / "e.json", "--report", tmp_path / "e.html"]


def scored(tmp_path):
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    return raw["images"] == 2 and (tmp_path / "e.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


class Broken(io.StringIO):
    """A stream that fails as a closed pipe or a full disk does."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return len(text)


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device"), ValueError("closed file")]
)
def test_output_that_cannot_be_printed_costs_no_scores(command, tmp_path, monkeypatch, error, after):
    monkeypatch.setattr(sys, "stdout", Broken(error, after))
    assert call(command) == 0
    assert scored(tmp_path)


def test_an_error_stream_that_cannot_be_written_costs_no_scores(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken(BrokenPipeError(32, "Broken pipe")))
    assert call(command) == 0
    assert scored(tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16", "latin-1"])
def test_a_stream_of_few_letters_costs_no_scores(command, tmp_path, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert call(command) == 0
    said = raw.getvalue().decode(encoding)
    assert scored(tmp_path)
    assert "mIoU" in said
    assert encoding == "utf-16" or "\\u2588" not in said


@posix
def test_a_closed_pipe_and_a_full_device_as_a_shell_gives_them(command, tmp_path):
    """One run of the installed program each: what the interpreter does at its end belongs to it."""
    words = [sys.executable, "-m", "iccld_cli", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, env=environment, check=False)
    assert (ended.returncode, ended.stderr, scored(tmp_path)) == (0, b"", True)
    (tmp_path / "e.json").unlink()
    with open("/dev/full", "w") as full:
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert (ended.returncode, ended.stderr.count(b"\n"), scored(tmp_path)) == (0, 1, True)


def test_scores_are_told_when_a_file_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "in-the-way").write_text("")
    assert call([*command, "--json", tmp_path / "in-the-way/e.json"]) == 1
    said = capsys.readouterr()
    assert "mIoU" in said.out
    assert "a file of that name exists" in said.err


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--json", "MODEL"),
        ("--report", "MODEL"),
        ("--json", "DATA/dataset.json"),
        ("--json", "DATA/index.jsonl"),
        ("--report", "DATA/images/val/x.png"),
        ("--json", "DATA"),
        ("--json", "LINK"),
    ],
)
def test_what_is_read_is_never_written_over(model, data, tmp_path, option, name):
    (tmp_path / "link.json").symlink_to(model)
    path = name.replace("MODEL", str(model)).replace("DATA", str(data)).replace("LINK", str(tmp_path / "link.json"))
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    assert call(["evaluate", "--ckpt", model, "--data", data, option, path]) == 1
    load_segmenter(model)
    assert {file: file.read_bytes() for file in data.rglob("*") if file.is_file()} == before


def test_two_results_never_share_a_file(model, data, tmp_path, capsys):
    both = tmp_path / "both"
    assert call(["evaluate", "--ckpt", model, "--data", data, "--json", both, "--report", both]) == 1
    assert "name the same file" in capsys.readouterr().err


def test_a_model_is_never_exported_over_itself(model, tmp_path, capsys):
    assert call(["export", "--ckpt", model, "--format", "half", "--out", model, "--overwrite"]) == 1
    assert "would write over its input" in capsys.readouterr().err


@forks
def test_a_killed_run_leaves_no_half_file_and_the_next_one_removes_its_leftovers(command, tmp_path):
    out = tmp_path / "e.json"
    for moment in range(1, 6):
        forked(command, kill_at=moment, folder=tmp_path / ".e")
        for path in (out, tmp_path / "e.html"):
            assert not path.exists() or path.read_bytes().endswith((b"}\n", b"</html>"))
    assert call(command) == 0
    assert scored(tmp_path)
    assert hidden(tmp_path) == []


@forks
def test_leftovers_of_the_living_and_of_other_machines_stay(tmp_path):
    path, dead = tmp_path / "e.json", f"{2**22 + 5:x}"  # Linux gives no process a number above 2 ** 22
    with atomic_path(path) as living:
        gone = living.with_name(living.name.replace(f"-{os.getpid():x}-", f"-{dead}-"))
        kept = [living, tmp_path / f".e.zzzz-{dead}-00000000.part.json", tmp_path / ".e.json", tmp_path / "e.part.json"]
        for file in (gone, *kept):
            file.write_text("")
        remove_leftovers(path)
        assert set(tmp_path.iterdir()) == set(kept)


@pytest.mark.parametrize("columns", ["0", "1", "-5", "abc", ""])
def test_odd_widths_of_a_terminal_still_show_the_scores(command, tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert call(command) == 0
    assert "mIoU" in capsys.readouterr().out
