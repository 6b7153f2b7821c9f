"""Folders with pipes, devices and our own output in them; label maps and settings that are damaged or made to harm."""

import json
import os
import socket
import sys
import tarfile

import cv2
import numpy as np
import pytest

from iccld_cli import reading
from iccld_cli.cli.app import main
from iccld_cli.config import load_config
from iccld_cli.errors import IccldError
from iccld_cli.inference.inputs import collect
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.archives import open_tree
from iccld_cli.prepare.labelmap import read_label_map
from iccld_cli.prepare.own import own_images
from iccld_cli.prepare.polygons import draw
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree, GlobTree


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    return path


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A folder with three photographs, a pipe, a socket, a link to a device, and loops of links."""
    root = tmp_path / "trip"
    for number in range(3):
        photo(root / f"{number}.png", number)
    os.mkfifo(root / "pipe.png")
    (root / "self.png").symlink_to("self.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "up").symlink_to(root, target_is_directory=True)
    monkeypatch.chdir(root)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.png")
    monkeypatch.chdir(tmp_path)
    yield root
    server.close()


ODD = {
    "pipe.png": "is a named pipe", "self.png": "is a loop of links", "socket.png": "is a socket",
    "zero.png": "is a device",
}  # fmt: skip


# A11: what must not be opened


def test_a11_prepare_names_pipes_sockets_devices_and_loops_and_leaves_them_out(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["iccld", "prepare", "--images", str(odd), "--out", str(tmp_path / "d")])
    main_status(0)
    assert "pipe.png is a named pipe, self.png is a loop of links" in capsys.readouterr().out.replace("\n", " ")
    info = json.loads((tmp_path / "d" / "trip" / "dataset.json").read_text())
    assert {entry["file"]: entry["reason"] for entry in info["skipped"]} == ODD
    assert info["count"] == 3


def test_a11_a_glob_leaves_them_out_too(odd):
    tree = GlobTree(f"{odd}/*.png")
    assert sorted(tree.walk()) == ["0.png", "1.png", "2.png"]
    assert tree.left_out == ODD


@pytest.mark.parametrize("given", ["folder", "glob"])
def test_a11_predict_names_them_and_takes_the_rest(odd, tmp_path, given):
    left_out = {}
    items = collect([odd if given == "folder" else f"{odd}/*.png"], tmp_path / "out", left_out)
    assert [item.path.name for item in items] == ["0.png", "1.png", "2.png"]
    assert {path.name: reason for path, reason in left_out.items()} == ODD


@pytest.mark.parametrize("name", ODD)
def test_a11_predict_refuses_them_as_inputs_by_what_they_are(odd, tmp_path, name):
    with pytest.raises(IccldError, match=f"{name} {ODD[name]}"):
        collect([odd / name], tmp_path / "out")


def test_a11_a_mask_that_is_a_pipe_is_a_bad_file_and_not_waited_for(tmp_path):
    for number in range(2):
        photo(tmp_path / "rgb" / f"{number}.png", number)
    (tmp_path / "seg").mkdir()
    cv2.imwrite(str(tmp_path / "seg" / "0.png"), np.zeros((24, 32), np.uint8))
    os.mkfifo(tmp_path / "seg" / "1.png")
    source = Images(FolderTree(tmp_path), "rgb", "seg")
    with pytest.raises(IccldError, match=r"seg/1\.png is a named pipe"):
        prepare(source, tmp_path / "d", "mine", PrepareOptions(workers=1))
    data, _ = prepare(source, tmp_path / "d", "mine", PrepareOptions(workers=1, skip_bad=True))
    assert data.info.splits == {"train": 1}


def test_a_link_to_nothing_is_still_a_missing_file(tmp_path):
    photo(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.png").symlink_to("nowhere.png")
    with pytest.raises(IccldError, match=r"1\.png is missing"):
        prepare(Images(FolderTree(tmp_path / "a")), tmp_path / "d", "a", PrepareOptions(workers=1))


# A10: our own output


@pytest.mark.parametrize("below", ["", "out"])
@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/{frame}.png"])
def test_a10_prepare_never_takes_its_own_output(tmp_path, below, pattern):
    for number in range(3):
        photo(tmp_path / "trip" / f"{number}.png", number)
    out = tmp_path / "trip" / below
    for force in (False, True):
        _, source = own_images(f"{tmp_path / 'trip'}{pattern}", None, None, out)
        data, fresh = prepare(source, out, "trip", PrepareOptions(workers=1, force=force))
        assert data.info.splits == {"train": 3} and fresh is not force
    photo(tmp_path / "trip" / "3.png", 3)
    assert prepare(source, out, "trip", PrepareOptions(workers=1, force=True))[0].info.splits == {"train": 4}


def test_a10_predict_says_why_a_folder_that_is_its_own_output_holds_nothing(tmp_path):
    photo(tmp_path / "x" / "a" / "0.png")
    for given in (tmp_path / "x", tmp_path / "x" / "a"):
        with pytest.raises(IccldError, match=r"is taken for results, because --out is .*choose another --out"):
            collect([given], tmp_path / "x")


# C23, C24


def test_c23_a_refused_archive_leaves_no_copy(tmp_path):
    photo(tmp_path / "0.png")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "0.png", "../0.png")
    with pytest.raises(IccldError, match="leads out of the archive"):
        open_tree(tmp_path / "a.tar.gz", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_c24_a_folder_that_may_not_be_read_is_named_as_that(tmp_path):
    photo(tmp_path / "a" / "b" / "0.png")
    (tmp_path / "a" / "b").chmod(0)
    try:
        with pytest.raises(IccldError, match=r"cannot read folder .*a/b \(Permission denied\)"):
            list(FolderTree(tmp_path / "a").walk())
    finally:
        (tmp_path / "a" / "b").chmod(0o755)


# B18: label maps


def main_status(status):
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0) == status


SPACE = '[ids]\n0 = "a"\n[label_space]\nname = "s"\nclasses = [{ name = "a", color = [0, 0, 0] }, %s]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ids = 5", "ids = 5 is no table"), ("ids = [1]", "ids = .1. is no table"), ("colors = 'x'", "is no table"),
        ("covers = 5\n[ids]\n0 = 'road'", "covers = 5 is no table"), ("label_space = 3\n[ids]\n0 = 'road'", "no table"),
        ("[ids]\n0 = 5", "5 is no class"), ("[ids]\n0 = ['road']", "is no class"), ("[ids]\n300 = 'road'", "is no id"),
        ("[ids]\n-1 = 'road'", "is no id"), ("[ids]\n'٣' = 'road'", "is no id"), ("[ids]\n0 = 'raod'", "did you mean"),
        ("[colors]\n'300,0,0' = 'road'", "no colour"), ("[colors]\n'#12' = 'road'", "no colour"),
        ("[colors]\n'1,2' = 'road'", "no colour"), ("channel = 7\n[ids]\n0 = 'road'", "channel = 7"),
        ("channel = true\n[ids]\n0 = 'road'", "channel = True"), ("channel = [1]\n[ids]\n0 = 'road'", "channel"),
        ("unknown = 3\n[ids]\n0 = 'road'", "unknown = 3"), ("unknown = ['error']\n[ids]\n0 = 'road'", "unknown"),
        ("[ids]\n0 = 'road'\n[covers]\ntruck = 5", "is no class"), ("more = 1\n[ids]\n0 = 'road'", "unknown key"),
        (SPACE % "{ name = 'b', color = [0, 0, 256] }", "colour of 'b'"),
        (SPACE % "{ name = 'b', color = [0, 0, -1] }", "colour of 'b'"),
        (SPACE % "{ name = 'b', color = [0, 0, inf] }", "colour of 'b'"),
        (SPACE % "{ name = 'b', color = [0, 0, 1.5] }", "colour of 'b'"),
        (SPACE % "{ name = 'b', color = [0, 0] }", "unreadable label space"),
        (SPACE % "{ name = 'b', color = 5 }", "unreadable label space"),
        (SPACE % "{ name = 5, color = [0, 0, 1] }", "must be texts"), (SPACE % "7", "unreadable label space"),
        (SPACE % "{ name = 'a', color = [0, 0, 1] }", "one unique name"),
        ("x = " + "[" * 50_000, "nested too deeply"), ("x = " + "[" * 90 + "]" * 90, "nested too deeply"),
        ("[ids", "is not TOML"), ("[" + ".".join("a" * 2000) + "]", "nested too deeply"),
    ],
)  # fmt: skip
def test_b18_a_label_map_with_a_mistake_is_one_clear_line(tmp_path, text, says):
    path = tmp_path / "map.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(IccldError, match=says) as error:
        read_label_map(path)
    assert "\n" not in str(error.value) and "map.toml" in str(error.value) and error.value.hint


def test_b18_a_label_map_that_is_no_text_or_endless_is_one_clear_line(tmp_path):
    path = tmp_path / "map.toml"
    path.write_bytes(b"\xff\xfe[ids]")
    with pytest.raises(IccldError, match="is not UTF-8 text"):
        read_label_map(path)
    os.truncate(path, 5 << 20)
    with pytest.raises(IccldError, match="is larger than 4 MiB"):
        read_label_map(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(IccldError, match="is a device"):
        read_label_map(path)


# B17: settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"x = " + b"[" * 50_000, "nested too deeply"), (b"\xff", "is not UTF-8 text"), (b"optim = 5", "optim"),
        (b"[optim]\nlr = inf", "optim.lr"), (b"[optim]\nlr = nan", "optim.lr"), (b"[optim]\nlr = 'x'", "optim.lr"),
        (b"[optim", "is not TOML"), (b"optim = [1]", "optim"), (b"[run]\nseed = 1" + b"0" * 5000, "is not TOML|seed"),
        (b"[data]\ncrop = [64, [64]]", "data.crop"), (b"[data.crop.a.b]\nc = 1", "data.crop"),
    ],
)  # fmt: skip
def test_b17_a_settings_file_with_a_mistake_is_one_clear_line(tmp_path, text, says):
    (tmp_path / "c.toml").write_bytes(text)
    with pytest.raises(IccldError, match=says) as error:
        load_config("tiny", file=tmp_path / "c.toml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "assignment",
    ["optim.lr=" + "[" * 50_000, "optim.lr=1e999", "optim.lr=nan", "optim.lr=" + "9" * 6000,
     ".".join("a" * 3000) + "=1",
     "data.crop." + ".".join("a" * 3000) + "=1", "optim.lr.x=1", "=1", "optim=1"],
)  # fmt: skip
def test_b17_an_assignment_made_to_harm_is_one_clear_line(assignment):
    with pytest.raises(IccldError) as error:
        load_config("tiny", assignments=[assignment])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing"])
def test_a11_settings_are_read_from_regular_files_alone(tmp_path, kind):
    path = tmp_path / "c.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(IccldError, match={"missing": "no configuration file"}.get(kind, f"is a .*{kind}")):
        load_config("tiny", file=path)


# The reader itself


@pytest.mark.parametrize("text", ["[" * 64 + "]" * 64, "[" * 64 + "7" + "]" * 64, '{"a": [1, 2.5, null]}', "7", '"x"'])
def test_json_within_bounds_is_read_as_the_standard_library_does(text):
    assert reading.parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "[1, -Infinity]", '{"a": [[1e999]]}', "[" * 65 + "7" + "]" * 65, "[" * 65 + "]" * 65]
)
def test_json_out_of_bounds_is_refused(text):
    with pytest.raises(reading.ReadError):
        reading.parse_json(text)


@pytest.mark.parametrize(
    "data",
    [b"[" * 50_000, b'{"imgWidth": 1e999, "imgHeight": 4, "objects": []}', b"\xff", b"null", b"[]",
     b'{"imgWidth": 4, "imgHeight": 4, "objects": [{"label": "road", "polygon": [[1e999, 2]]}]}',
     b'{"imgWidth": 4, "imgHeight": 4, "objects": 5}'],
)  # fmt: skip
def test_b17_polygons_that_are_damaged_are_told(data):
    from iccld_cli.labels import CITYSCAPES

    with pytest.raises(IccldError):
        draw(data, {"road": "road"}, CITYSCAPES)


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert reading.read_bytes(path, 5) == b"12345"
    with pytest.raises(reading.ReadError, match="is larger than 4 bytes"):
        reading.read_bytes(path, 4)
    assert reading.kind_problem(path) is None and reading.kind_problem(tmp_path / "none") is None
    with pytest.raises(reading.ReadError, match="no file can have"):
        reading.read_bytes(str(tmp_path) + "/a\0b")
