"""`--part I/N` and `--merge` through the commands themselves: what they say, and what they refuse."""

import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.inference.scoreparts import PIECE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and a folder with an image and a video."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in").mkdir()
    cv2.imwrite(str(folder / "in/photo.png"), scene(0, 48, 32)[0])
    make_video(folder / "in/drive.mp4", frames=4, size=(48, 32))
    return make_model(folder / "m.safetensors"), folder / "in"


def test_predict_in_parts(iccld, made, tmp_path):
    model, footage = made
    out = tmp_path / "out"
    command = ("predict", footage, "--ckpt", model, "--backend", "torch", "--out", out, "--save", "labels")
    status, said, _ = iccld(*command, "--part", "1/2")
    assert status == 0
    assert f"part 1/2 is done: 1 image -> {out}/parts/1-of-2" in said
    status, _, error = iccld(*command, "--merge")
    assert (status, len(error.strip().splitlines())) == (1, 1)
    assert "part 2 of 2 is missing" in error and "drive.mp4" in error and "--part 2/2" in error
    status, said, _ = iccld(*command, "--part", "2/2")
    assert (status, "4 video frames" in said) == (0, True)
    status, said, _ = iccld(*command, "--part", "2/2")
    assert "that an earlier run had finished" in said
    (footage / "late.png").write_bytes((footage / "photo.png").read_bytes())
    status, _, error = iccld(*command, "--merge")
    (footage / "late.png").unlink()
    assert (status, "late is in no part" in error) == (1, True)
    assert not (out / "labels").exists()
    status, said, _ = iccld(*command, "--merge")
    assert (status, "2 parts joined" in said) == (0, True)
    assert sorted(p.name for p in out.rglob("*.png")) == [
        "000000.png",
        "000001.png",
        "000002.png",
        "000003.png",
        "photo.png",
    ]
    assert not (out / "parts").exists()


def test_parts_in_folders_of_their_own(iccld, made, tmp_path):
    model, footage = made
    for number in (1, 2):
        arguments = ("--ckpt", model, "--backend", "torch", "--out", tmp_path / str(number), "--part", f"{number}/2")
        assert iccld("predict", footage, *arguments)[0] == 0
    status, _, error = iccld("predict", "--merge", tmp_path / "1", "--out", tmp_path / "out")
    assert (status, "part 2 of 2 is missing" in error) == (1, True)
    assert iccld("predict", "--merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/overlay/drive.mp4").is_file() and (tmp_path / "1/parts").exists()


def test_a_part_with_a_bad_input_is_done_and_the_joined_result_says_so(iccld, made, tmp_path):
    model, footage = made
    shutil.copytree(footage, tmp_path / "in")
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    command = ("predict", tmp_path / "in", "--ckpt", model, "--backend", "torch", "--out", tmp_path / "out")
    status, said, error = iccld(*command, "--part", "1/1")
    assert (status, "bad.png" in error, "part 1/1 is done" in said) == (0, True, True)
    status, said, error = iccld(*command, "--merge")
    assert (status, "bad.png" in error) == (1, True)
    assert (tmp_path / "out/overlay/drive.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("photo.png", "--part", "0/4"), 2, "there is no part 0/4"),
        (("photo.png", "--part", "5/4"), 2, "there is no part 5/4"),
        (("photo.png", "--part", "a/b"), 2, "'a/b' is no part"),
        (("photo.png", "--part", "1/2", "--merge"), 2, "leave --part out"),
        (("-", "--part", "1/2"), 2, "standard input cannot be cut"),
        (("rtsp://localhost/s", "--part", "1/2"), 1, "--part cannot go with streams"),
        (("0", "--part", "1/2"), 1, "--part cannot go with streams"),
        (("--merge",), 1, "no part lies in"),
        ((), 2, "name at least one"),
    ],
)
def test_wrong_use_of_parts_is_one_line(iccld, made, tmp_path, monkeypatch, arguments, status, words):
    model, footage = made
    monkeypatch.chdir(footage)
    found, _, error = iccld("predict", *arguments, "--ckpt", model, "--backend", "torch", "--out", tmp_path / "out")
    assert found == status
    assert words in " ".join(error.replace("│", "").split())
    assert not (tmp_path / "out").exists()


def test_scores_of_joined_parts_are_those_of_one_run(iccld, made, tmp_path):
    model, _ = made
    frames = 2 * PIECE + 5
    data = make_dataset(tmp_path / "camvid", counts=(("val", frames),), sizes=((48, 32), (40, 32)))
    command = ("evaluate", "--ckpt", model, "--data", data, "--steps", "0,1", "--by", "size")
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    pages = tmp_path / "one.html", tmp_path / "other.html"
    assert iccld(*command, "--json", one, "--report", pages[0])[0] == 0
    for number in (3, 1):
        status, said, error = iccld(*command, "--json", other, "--part", f"{number}/3")
        assert (status, f"part {number}/3 is done" in said) == (0, True), error
    status, _, error = iccld(*command, "--json", other, "--merge")
    assert (status, f"part 2 of 3 is missing, {PIECE} of {frames} frames" in error) == (1, True)
    assert not other.exists()
    status, _, error = iccld(*command, "--json", other, "--part", "2/3", "--limit", "9")
    assert (status, "is a part of other scores (limit none, not 9)" in error) == (1, True)
    status, _, error = iccld(*command, "--json", other, "--part", "2/2")
    assert (status, "parts 3, not 2" in error) == (1, True)
    assert iccld(*command, "--json", other, "--part", "2/3")[0] == 0
    path = tmp_path / "other.json.parts/1-of-3.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])  # killed while it wrote
    assert "part 1 of 3 is not finished" in iccld(*command, "--json", other, "--merge")[2]
    assert iccld(*command, "--json", other, "--part", "1/3")[0] == 0
    assert path.read_text().splitlines()[:-1] == [line.rstrip("\n") for line in lines[:-1]]  # only what was lost
    assert iccld(*command, "--json", other, "--report", pages[1], "--merge")[0] == 0
    found = [json.loads(file.read_text()) for file in (one, other)]
    for raw in found:
        for run in (raw, *raw["runs"]):
            assert run.pop("seconds_per_image") > 0
    assert found[0] == found[1]
    pictures = [re.findall(r"data:image/[^\"]+", page.read_text()) for page in pages]  # the rest holds seconds
    assert pictures[0] == pictures[1] and pictures[0]
    assert not path.parent.exists()


def test_scores_of_parts_from_another_kind_of_machine_are_joined_here(iccld, made, tmp_path):
    model, _ = made
    data = make_dataset(tmp_path / "camvid", counts=(("val", PIECE + 1),), sizes=((48, 32),))
    command = ("evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / "e.json")
    for number in (1, 2):
        assert iccld(*command, "--part", f"{number}/2")[0] == 0
    files = sorted((tmp_path / "e.json.parts").glob("*.jsonl"))
    for file in files:  # as a GPU writes it
        first, *rest = file.read_text().splitlines(keepends=True)
        head = json.loads(first)
        head["device"], head["backend"] = ["cuda"], ["compiled"]
        head["runs"][0][-1] = "float16"
        file.write_text(json.dumps(head) + "\n" + "".join(rest))
    whole = files[1].read_text()
    files[1].write_text(whole.replace("cuda", "cpu"))
    status, _, error = iccld(*command, "--merge")
    assert (status, "is a part of other scores (device" in error) == (1, True)
    files[1].write_text(whole)
    status, _, error = iccld(*command, "--merge", "--device", "cuda", "--backend", "compiled")
    assert status == 0, error
    raw = json.loads((tmp_path / "e.json").read_text())
    assert (raw["backend"], raw["precision"], raw["images"]) == ("compiled", "float16", PIECE + 1)


def test_more_parts_of_scores_than_pieces(iccld, made, tmp_path):
    model, _ = made
    data = make_dataset(tmp_path / "camvid")
    command = ("evaluate", "--ckpt", model, "--data", data, "--json", tmp_path / "e.json")
    said = [iccld(*command, "--part", f"{number}/2")[1] for number in (1, 2)]
    assert sorted("nothing to do" in text for text in said) == [False, True]
    assert iccld(*command, "--merge")[0] == 0
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--part", "0/2", "--json", "e.json"), "there is no part 0/2"),
        (("--part", "1/2"), "--json FILE"),
        (("--merge",), "--json FILE"),
        (("--part", "1/2", "--no-labels", "--json", "e.json"), "cannot go with --no-labels"),
    ],
)
def test_wrong_use_of_parts_of_scores(iccld, made, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    status, _, error = iccld("evaluate", "--ckpt", made[0], "--data", tmp_path, *options)
    assert (status, words in " ".join(error.replace("│", "").split())) == (2, True)


def bytes_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["images", "video", "virtual"])
def test_a_set_prepared_in_parts_is_that_of_one_run(iccld, tmp_path, kind):
    sources = {
        "images": ("--images", tmp_path / "in", "--ignore-mask", "auto", "--hold-out", "0.2"),
        "video": ("--video", tmp_path / "drive.mp4", "--fps", "10"),
        "virtual": ("--virtual", "5", "--look", "game", "--size", "64x32"),
    }
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):  # a black bar below what moves
        image = np.zeros((48, 64, 3), np.uint8)
        image[:36] = cv2.resize(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8), (64, 36))
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), image)
    make_video(tmp_path / "drive.mp4", frames=60, size=(48, 32))
    command = ("prepare", *sources[kind], "--name", "set", "--workers", "1")
    one, other = tmp_path / "one", tmp_path / "other"
    status, _, error = iccld(*command, "--out", one)
    assert status == 0, error
    for number in (3, 1):
        status, said, error = iccld(*command, "--out", other, "--part", f"{number}/3")
        assert (status, f"part {number}/3 of set is done" in said) == (0, True), error
    status, _, error = iccld(*command, "--out", other, "--merge")
    assert (status, "part 2 of 3 is missing" in error, len(error.strip().splitlines())) == (1, True, 1)
    assert sorted(p.name for p in other.iterdir()) == ["set.parts"]
    status, _, error = iccld(*command, "--out", other, "--part", "2/4")
    assert (status, "one of 3 parts, not of 4" in error) == (1, True)
    status, _, error = iccld(*command, "--out", other, "--part", "2/3", "--size", "96x64")
    assert (status, "is a part of another set (size was" in error) == (1, True)
    assert iccld(*command, "--out", other, "--part", "2/3")[0] == 0
    assert "was done already" in iccld(*command, "--out", other, "--part", "2/3")[1]
    status, said, error = iccld(*command, "--out", other, "--merge")
    assert (status, "3 parts joined" in said) == (0, True), error
    assert sorted(p.name for p in other.iterdir()) == ["set"]
    assert bytes_of(other / "set") == bytes_of(one / "set")
    assert "already" in iccld(*command, "--out", other)[1]


def test_a_part_of_a_set_that_lost_a_file_is_mended_by_the_same_command(iccld, tmp_path):
    command = ("prepare", "--virtual", "4", "--look", "game", "--size", "64x32", "--workers", "1", "--name", "set")
    assert iccld(*command, "--out", tmp_path / "one")[0] == 0
    out = tmp_path / "out"
    for number in (1, 2):
        assert iccld(*command, "--out", out, "--part", f"{number}/2")[0] == 0
    next((out / "set.parts/2-of-2/data").rglob("*.png")).unlink()
    status, _, error = iccld(*command, "--out", out, "--merge")
    assert (status, "run the parts again" in error) == (1, True)
    said = [iccld(*command, "--out", out, "--part", f"{number}/2")[1] for number in (1, 2)]
    assert ["was done already" in text for text in said] == [True, False]
    assert iccld(*command, "--out", out, "--merge")[0] == 0
    assert bytes_of(out / "set") == bytes_of(tmp_path / "one/set")


def test_bad_files_stop_their_part_until_they_are_mended_or_skipped(iccld, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), scene(i, 48, 32)[0])
    (tmp_path / "in/3.png").write_bytes(b"no image")
    command = ("prepare", "--images", tmp_path / "in", "--name", "set", "--workers", "1", "--out", tmp_path / "out")
    assert iccld(*command, "--part", "1/2")[0] == 0
    status, _, error = iccld(*command, "--part", "2/2")
    assert (status, "3.png" in error) == (1, True)
    assert "part 2 of 2 is not finished, 2 of 4 frames" in iccld(*command, "--merge")[2]
    assert iccld(*command, "--part", "2/2", "--skip-bad")[0] == 0
    assert iccld(*command, "--merge", "--skip-bad")[0] == 0
    told = json.loads((tmp_path / "out/set/dataset.json").read_text())
    assert (told["splits"], len(told["skipped"])) == ({"train": 3}, 1)


def test_more_parts_of_a_set_than_frames(iccld, tmp_path):
    command = ("prepare", "--virtual", "1", "--look", "game", "--size", "64x32", "--out", tmp_path / "out")
    assert "nothing to do" in iccld(*command, "--part", "1/3")[1]
    assert "is done: 1 frames" in iccld(*command, "--part", "3/3")[1]
    assert iccld(*command, "--merge")[0] == 0
