"""Names are text: of files, classes and data sets, on the terminal, in pages, pictures and JSON, and of any length."""

import json
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import call, names, tree

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.cli.terminal import progress_bar
from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_json
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.names import json_safe, shown
from iccld_cli.report.overlay import draw_overlay
from iccld_cli.report.page import Bar, Bars, Numbers, Pictures, Section, Table, Text, write_page

NASTY = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "[/bold]x",
    "[red]x[/red]",
    "[link=http://x]y[/link]",
    ":smiley:",
    "a\nb",
    "a\rb",
    "a\tb",
    "\x9b2J",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "$\\frac{1}{",
    "100 %s %d {0}",
    "\u2028x",
]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


def renamed_set(root, first, name):
    """A data set whose first class and whose own name are nasty, and a model file of that label space."""
    make_dataset(root, counts=(("val", 2),))
    info = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    info["label_space"]["classes"][0]["name"] = first
    info["classes_known"][0] = first
    info["name"] = name
    (root / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    return root


def test_shown_escapes_what_acts_and_keeps_what_is_written():
    assert shown("\x1b[31m\x9b\x7f\u202e\n") == "\\x1b[31m\\x9b\\x7f\\u202e\\n"
    assert shown(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    for kept in ("Straße 東京 ไทย עברית", "a\\b", "[bold]x", "👩‍👩‍👧"):
        assert shown(kept) == kept


@pytest.mark.parametrize("name", NASTY)
def test_json_holds_the_true_name_and_no_control_character(tmp_path, name):
    for value in (name, name + os.fsdecode(b"\xff")):
        write_json(tmp_path / "a.json", {value: [value]})
        text = (tmp_path / "a.json").read_text(encoding="utf-8")
        assert not RAW.search(text)
        assert json.loads(text) == {value: [value]}
    assert json.loads(json_safe(json.dumps("Straße\x9b", ensure_ascii=False))) == "Straße\x9b"


@pytest.mark.parametrize("name", NASTY)
def test_errors_show_names_as_text(name, capsys):
    assert call(["predict", f"gone/{name}.png"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not RAW.search(said)
    assert "internal error" not in said
    assert not RAW.search(str(IccldError(name, name)))


@pytest.mark.parametrize("name", NASTY)
def test_pages_show_names_as_text(tmp_path, name):
    blocks = [
        Text(name),
        Numbers([(name, name)]),
        Table([name, name], [[name, name]]),
        Bars([Bar(name, 0.5, name, note=name)]),
        Pictures([np.zeros((4, 4, 3), np.uint8)], name, [name]),
    ]
    write_page(tmp_path / "p.html", name, [Section(name, blocks)], name)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert not RAW.search(page)
    assert "<script" not in page
    assert page.count("<h2>") == 1


@pytest.mark.parametrize("name", NASTY)
def test_pictures_take_any_class_name(name):
    space = LabelSpace("own", (name, "b" * 300), ((1, 2, 3), (4, 5, 6)))
    drawn = draw_overlay(np.zeros((240, 320, 3), np.uint8), np.zeros((240, 320), np.uint8), space, legend=[0, 1])
    assert drawn.shape == (240, 320, 3)


@pytest.mark.parametrize("name", ["[/bold]x", "\x1b[2J", "{task.completed} [red]"])
def test_bars_take_any_name(name, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(name, "images") as progress:
        progress(1, 2)
    assert "\x1b[2J" not in capsys.readouterr().err.replace("\\x1b", "")


@pytest.mark.parametrize("first", ["[/bold]road", "\x1b[31mroad", "<b>road", "$road$"])
def test_evaluate_and_inspect_take_any_class_and_set_name(tmp_path, capsys, monkeypatch, first):
    from iccld_cli import labels

    root = renamed_set(tmp_path / "set", first, f"camvid {first}")
    space = LabelSpace(CITYSCAPES.name, (first, *CITYSCAPES.names[1:]), CITYSCAPES.colors)
    monkeypatch.setattr(sys.modules["factories"], "CITYSCAPES", space)
    own = make_model(tmp_path / "own.safetensors")
    assert labels.CITYSCAPES is CITYSCAPES
    assert call(["inspect", root, "--json", tmp_path / "i.json"]) == 0
    report = ["--json", tmp_path / "e.json", "--report", tmp_path / "e.html"]
    assert call(["evaluate", "--ckpt", own, "--data", root, *report]) == 0
    said = capsys.readouterr()
    assert not RAW.search(said.out + said.err)
    assert shown(first) in said.out
    raw = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert first in raw["subset"]
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert not RAW.search(page)
    assert "<b>road" not in page


def test_prepare_takes_any_class_name(tmp_path, capsys):
    for number in range(2):
        image, label = scene(number, 64, 48)
        for folder, pixels in (("images", image), ("masks", label % 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels)
    (tmp_path / "map.toml").write_text('[ids]\n0 = "[/bold]x"\n1 = "\\u001b[31mred"\n', encoding="utf-8")
    given = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "--label-map", tmp_path / "map.toml"]
    status = call(["prepare", *given, "--out", tmp_path / "data", "--name", "own", "--workers", 1])
    said = capsys.readouterr()
    assert not RAW.search(said.out + said.err)
    assert "Markup" not in said.err
    assert status == 0 or "internal error" not in said.err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any byte")
def test_predict_takes_names_that_are_not_utf8(model, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    cv2.imwrite(str(tmp_path / "a.png"), scene(0, 64, 48)[0])
    os.rename(tmp_path / "a.png", folder + b"/caf\xe9.png")
    os.rename(make_video(tmp_path / "v.mp4", 3), folder + b"/v\xff.mp4")
    assert call(["predict", tmp_path / "in", "--ckpt", model, "--out", tmp_path / "out", "--save", "labels"]) == 0
    found = [os.fsencode(name) for name in names(tmp_path / "out")]
    assert found == [b"labels/caf\xe9.png", *(b"labels/v\xff/%06d.png" % i for i in range(3))]
    os.rename(folder + b"/caf\xe9.png", folder + b"/bad\xe9.png")
    (tmp_path / "in").joinpath(os.fsdecode(b"bad\xe9.png")).write_bytes(b"none")
    assert call(["predict", tmp_path / "in", "--ckpt", model, "--out", tmp_path / "out", "--skip-existing"]) == 1
    assert "bad\\xe9.png is not an image" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any byte")
def test_prepare_skips_the_one_file_whose_name_is_not_utf8(tmp_path, capsys):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"in/{number}.png"), scene(number, 64, 48)[0])
    os.rename(folder + b"/1.png", folder + b"/caf\xe9.png")
    command = ["prepare", "--images", tmp_path / "in", "--out", tmp_path / "data", "--name", "own", "--workers", 1]
    assert call(command) == 1
    said = capsys.readouterr().err
    assert "caf\\xe9.png has a name that is not UTF-8" in said
    assert call([*command, "--skip-bad"]) == 0
    index = [json.loads(line) for line in (tmp_path / "data/own/index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Path(frame["image"]).stem for frame in index] == ["0", "2"]
    info = json.loads((tmp_path / "data/own/dataset.json").read_text(encoding="utf-8"))
    assert [entry["file"] for entry in info["skipped"]] == ["caf\\xe9.png"]


@pytest.mark.parametrize("length", [120, 200, 240, 251])
def test_predict_takes_names_as_long_as_the_file_system_does(model, tmp_path, length):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / ("a" * length + ".png")), scene(0, 64, 48)[0])
    cv2.imwrite(str(tmp_path / "in" / ("a" * length + ".jpg")), scene(1, 64, 48)[0])
    make_video(tmp_path / "v.mp4", 2).rename(tmp_path / "in" / ("é" * (length // 2) + ".mp4"))
    command = ["predict", tmp_path / "in", "--ckpt", model, "--out", tmp_path / "out", "--save", "labels,overlay"]
    assert call(command) == 0
    found = tree(tmp_path / "out")
    assert len(found) == 2 + 2 + 2 + 1
    assert call([*command, "--skip-existing"]) == 0
    assert tree(tmp_path / "out") == found


@pytest.mark.parametrize("length", [1, 119, 120, 121, 200, 250, 255])
def test_temporary_names_fit_where_final_ones_do(tmp_path, length):
    for name in ("a" * length, "a" * max(0, length - 5) + ".json"[-length:]):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("x")
            assert temporary.suffix == Path(name).suffix or not Path(name).suffix
        assert [p.name for p in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_a_link_to_itself_is_named_and_left_out(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), scene(0, 64, 48)[0])
    (tmp_path / "in/loop.png").symlink_to("loop.png")
    (tmp_path / "in/sub").symlink_to(".")
    (tmp_path / "out").symlink_to("out")
    assert call(["predict", tmp_path / "in", "--ckpt", model, "--out", tmp_path / "fine", "--save", "labels"]) == 0
    assert call(["predict", tmp_path / "in/loop.png", "--ckpt", model, "--out", tmp_path / "fine"]) == 1
    assert call(["predict", tmp_path / "in/a.png", "--ckpt", model, "--out", tmp_path / "out"]) == 1
    prepare = ["prepare", "--images", tmp_path / "in", "--out", tmp_path / "data", "--name", "own", "--workers", 1]
    assert call(prepare) == 0
    said = capsys.readouterr().err
    assert "internal error" not in said
    assert "in/loop.png is a loop of links and is left out" in said


@pytest.mark.parametrize("name", ["a" * 250, "a" * 300, "é" * 130])
def test_a_set_name_that_is_too_long_is_one_line(tmp_path, capsys, name):
    assert call(["prepare", "--virtual", 1, "--look", "game", "--name", name, "--out", tmp_path]) == 1
    said = capsys.readouterr().err
    assert "too long" in said
    assert said.count("\n") == 1


def test_an_input_name_no_file_system_takes_is_one_line(model, tmp_path, capsys):
    assert call(["predict", "a" * 5000 + ".png", "--ckpt", model, "--out", tmp_path / "out"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "internal error" not in said
