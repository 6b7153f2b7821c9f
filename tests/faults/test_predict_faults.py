"""predict: nothing half-done has a final name, a killed run goes on, results never meet, nothing else is deleted."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import cv2
import pytest
from commands import call, count_operations, forked, forks, frames, hidden, moments, names, tree
from filelock import FileLock

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_model, make_video, scene

from iccld_cli.inference.inputs import collect

KINDS = "labels,overlay"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Five images of two sizes, one that is damaged, and two short videos."""
    folder = tmp_path_factory.mktemp("inputs") / "in"
    folder.mkdir()
    for number, size in enumerate([(64, 48)] * 3 + [(61, 45)] * 2):
        image(folder / f"{number}.png", number, size)
    (folder / "2b.png").write_bytes(b"no image")
    make_video(folder / "v.mp4", frames=7, size=(64, 48))
    make_video(folder / "w.mp4", frames=4, size=(64, 48))
    return folder


def image(path, number=0, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), scene(number, *size)[0][..., ::-1])
    return path


@pytest.fixture(scope="module")
def run(model):
    """A function: inputs, output folder and options -> the command's words."""

    def arguments(given, out, *options):
        return ["predict", *given, "--ckpt", model, "--out", out, "--save", KINDS, "--batch-size", 2, *options]

    return arguments


@pytest.fixture(scope="module")
def undisturbed(run, inputs, tmp_path_factory):
    """What the command leaves when nothing happens to it, and the number of file operations it takes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert forked(run([inputs], out)) == 1  # for the damaged image
    good = [path for path in inputs.iterdir() if path.name != "2b.png"]
    return tree(out), count_operations(run(sorted(good), out.with_name("counted")), out.with_name("counted"))


def whole(out, expected):
    """Every final name holds what it holds in the end."""
    found = {name: content for name, content in tree(out).items() if not name.startswith(".")}
    assert [name for name, content in found.items() if content != expected[name]] == []
    folders = {name.rpartition("/")[0] for name in found if name.count("/") == 2}
    for folder in folders:
        assert {n for n in found if n.startswith(folder)} == {n for n in expected if n.startswith(folder)}


@forks
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_any_moment_goes_on_to_equal_results(run, inputs, undisturbed, tmp_path, seed):
    expected, operations = undisturbed
    out = tmp_path / "out"
    for moment in moments(seed, operations, 3):
        status = forked(run([inputs], out), kill_at=moment, folder=out)
        assert status in (-signal.SIGKILL, 1)
        whole(out, expected)
        if status == 1:
            break
    else:
        assert forked(run([inputs], out)) == 1
    assert tree(out) == expected
    assert hidden(out) == []


@forks
def test_half_a_video_is_never_taken_for_finished(run, inputs, undisturbed, tmp_path):
    """Finding 4: --skip-existing took 21 of 60 frames for all of them after a kill and after an interrupt."""
    out = tmp_path / "out"
    video = {name: content for name, content in undisturbed[0].items() if "/v" in name}
    for sent in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        assert forked(run([inputs / "v.mp4"], out), kill_at=20, folder=out, sent=sent) != 0
        assert not (out / "labels/v").exists()
        assert not (out / "overlay/v.mp4").exists()
        assert call(run([inputs / "v.mp4"], out, "--skip-existing")) == 0
        assert tree(out) == video
        shutil.rmtree(out)


@forks
@pytest.mark.parametrize("seed", range(2))
def test_files_about_all_frames_are_the_same_after_a_kill(run, inputs, tmp_path, seed):
    options = ("--save", "frames,dataset,probabilities", "--threshold", 0.1, "--to-label", 4)
    assert forked(run([inputs], tmp_path / "whole", *options)) == 1  # for the damaged image
    expected, out = tree(tmp_path / "whole"), tmp_path / "out"
    assert {"frames.jsonl", "to_label.jsonl", "dataset/index.jsonl", "dataset/dataset.json"} <= set(expected)
    for moment in moments(seed, 150, 3):
        if forked(run([inputs], out, *options), kill_at=moment, folder=out) == 1:
            break
    else:
        assert forked(run([inputs], out, *options)) == 1
    expected["dataset/dataset.json"] = expected["dataset/dataset.json"].replace(b'"name": "whole"', b'"name": "out"')
    assert tree(out) == expected
    assert hidden(out) == []


@forks
def test_what_an_interrupt_leaves_says_so_and_goes_when_the_video_is_done(run, inputs, undisturbed, tmp_path):
    out = tmp_path / "out"
    assert forked(run([inputs / "v.mp4"], out), kill_at=20, folder=out, sent=signal.SIGINT) == 130
    left = names(out)
    assert "overlay/v.partial.mp4" in left
    assert {name.split("/")[1] for name in left} == {"v.partial", "v.partial.mp4"}
    assert 0 < len(frames(out / "overlay/v.partial.mp4")) == len(left) - 1 <= 7
    assert call(run([inputs / "v.mp4"], out)) == 0
    assert tree(out) == {name: content for name, content in undisturbed[0].items() if "/v" in name}


@forks
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", 1), "seed was 0, now 1"),
        (("--steps", 0), "steps was 1, now 0"),
        (("--height", 32), "height was 0, now 32"),
        (("--flip",), "flip was False, now True"),
        (("--average",), "average was False, now True"),
        (("--no-legend",), "legend was True, now False"),
        (("--limit", 3), "limit was None, now 3"),
        (("--overwrite", "--alpha", 0.25), "alpha was 0.5, now 0.25"),
    ],
)
def test_an_unfinished_run_refuses_other_options(run, inputs, tmp_path, capfd, options, words):
    out = tmp_path / "out"
    assert forked(run([inputs], out), kill_at=40, folder=out) == -signal.SIGKILL
    before = {name: content for name, content in tree(out).items() if not name.startswith(".predict/work")}
    capfd.readouterr()
    assert call(run([inputs], out, *options)) == 1
    *notes, said = capfd.readouterr().err.splitlines()
    assert all("converting the model" in note or "change no result here" in note for note in notes)
    assert words in said
    after = tree(out)
    after.pop(".predict/lock", None)
    before.pop(".predict/lock", None)
    assert {n: c for n, c in after.items() if not n.startswith(".predict/work")} == before


@forks
def test_an_unfinished_run_refuses_another_model(run, inputs, tmp_path, capfd):
    out = tmp_path / "out"
    assert forked(run([inputs], out), kill_at=40, folder=out) == -signal.SIGKILL
    other = make_model(tmp_path / "other.safetensors", seed=1)
    assert call([*run([inputs], out), "--ckpt", other]) == 1
    assert "unfinished run with other settings (model was" in capfd.readouterr().err


@forks
def test_an_input_that_changed_in_between_is_predicted_again(run, inputs, tmp_path):
    own, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(inputs, own)
    (own / "2b.png").unlink()
    assert forked(run([own], out), kill_at=60, folder=out) == -signal.SIGKILL
    assert names(out)
    image(own / "0.png", 5)
    assert call(run([own], out)) == 0
    assert call(run([own], tmp_path / "fresh")) == 0
    assert tree(out) == tree(tmp_path / "fresh")


@forks
def test_what_was_wrong_with_a_video_is_told_again_after_a_crash(run, inputs, tmp_path, capfd):
    assert call(run([make_video(tmp_path / "long.mp4", 30)], tmp_path / "made")) == 0
    whole_file = (tmp_path / "made/overlay/long.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole_file[: len(whole_file) * 9 // 10])
    shutil.copy(inputs / "v.mp4", tmp_path / "b.mp4")
    out, given = tmp_path / "out", [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    first = count_operations(run(given[:1], tmp_path / "count"), tmp_path / "count", expected=1)
    assert forked(run(given, out), kill_at=first + 4, folder=out) == -signal.SIGKILL
    assert names(out / "overlay") == ["a.mp4"]
    capfd.readouterr()
    assert call(run(given, out)) == 1
    assert "a.mp4 is damaged or cut off" in capfd.readouterr().err
    assert (out / "overlay/b.mp4").exists()


def test_two_runs_never_work_in_one_folder(run, inputs, tmp_path, capfd):
    (tmp_path / "out/.predict").mkdir(parents=True)
    with FileLock(tmp_path / "out/.predict/lock"):
        assert call(run([inputs / "0.png"], tmp_path / "out")) == 1
    assert "another run is writing to" in capfd.readouterr().err
    assert call(run([inputs / "0.png"], tmp_path / "out")) == 0
    assert hidden(tmp_path / "out") == []


def test_a_video_beside_a_folder_of_its_name(run, inputs, tmp_path):
    """Finding 5: both images' labels were gone."""
    given = tmp_path / "in"
    image(given / "x/000000.png", 1)
    image(given / "x/000077.png", 2)
    shutil.copy(inputs / "w.mp4", given / "x.mp4")
    assert call(run([given], tmp_path / "out")) == 0
    for number, name in ((1, "000000"), (2, "000077")):
        assert call(run([image(tmp_path / f"{number}.png", number)], tmp_path / "alone")) == 0
        alone = (tmp_path / f"alone/labels/{number}.png").read_bytes()
        assert (tmp_path / f"out/labels/x/{name}.png").read_bytes() == alone
    assert names(tmp_path / "out/labels/x.mp4") == [f"{i:06d}.png" for i in range(4)]
    assert len(frames(tmp_path / "out/overlay/x.mp4.mp4")) == 4


@pytest.mark.parametrize(
    "files",
    [
        ("a/x.png", "b/x.png"),
        ("x.jpg", "x.png"),
        ("x.jpg", "X.png", "x.bmp"),
        ("a/x.png", "A/x.png"),
        ("x.mp4", "X.mp4", "x/1.png"),
        ("x.mp4", "x.mp4.d/1.png", "x/1.png", "x.mp4/1.png"),
        ("x.mp4", "x.mkv", "x.png", "x.mp4.png"),
        ("x.mp4", "x.partial.mp4", "x.partial/1.png"),
        ("x.png", "x.png.png", "x.png.jpg", "x.jpg"),
        ("x.png/1.png", "x.bmp"),
        ("e\u0301.png", "\u00e9.png"),
        ("stra\u00dfe.png", "STRASSE.png"),
    ],
)
def test_results_of_inputs_of_like_names_never_meet(run, inputs, tmp_path, files):
    given = []
    for number, name in enumerate(files):
        path = tmp_path / "in" / name.replace("x.mp4/", "x.mp4~/")
        path = tmp_path / "other" / name if path.exists() or "x.mp4/" in name else path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".mp4", ".mkv"):
            shutil.copy(inputs / "w.mp4", path)
        else:
            image(path, number)
        given.append(path)
    out = tmp_path / "out"
    assert call(run([tmp_path / "in", *([tmp_path / "other"] if (tmp_path / "other").exists() else [])], out)) == 0
    videos = sum(path.suffix in (".mp4", ".mkv") for path in given)
    overlays, labels = names(out / "overlay"), names(out / "labels")
    assert len(overlays) == len(given)
    assert len(labels) == len(given) - videos + 4 * videos
    for found in (overlays, labels):
        assert len({name.casefold() for name in found}) == len(found)
    results = {path.casefold() for path in (*overlays, *labels)}
    assert not any(str(parent).casefold() in results for name in overlays for parent in Path(name).parents)


def test_names_do_not_depend_on_the_order_of_the_inputs(tmp_path):
    given = [image(tmp_path / name) for name in ("x.png", "X.png", "a/x.png", "x.bmp")]
    forward = {item.path: item.name for item in collect(given, tmp_path / "out")}
    assert forward == {item.path: item.name for item in collect(given[::-1], tmp_path / "out")}
    assert len(set(forward.values())) == 4


def test_overwriting_a_sequence_leaves_no_old_frame_and_deletes_nothing_else(run, inputs, tmp_path, capfd):
    out = tmp_path / "out"
    assert call(run([inputs / "v.mp4"], out)) == 0
    shutil.copy(inputs / "w.mp4", tmp_path / "v.mp4")
    assert call(run([tmp_path / "v.mp4"], out, "--overwrite")) == 0
    assert names(out / "labels/v") == [f"{i:06d}.png" for i in range(4)]
    (out / "labels/v/notes.txt").write_text("mine")
    before = tree(out)
    capfd.readouterr()
    assert call(run([inputs / "v.mp4"], out, "--overwrite")) == 1
    assert "holds other files than the frames of a video" in capfd.readouterr().err
    assert tree(out) == before


def test_what_stands_in_the_way_is_told_before_the_work(run, inputs, tmp_path, capfd):
    for obstacle in ("labels", "overlay/0.png/x", "labels/v"):
        out = tmp_path / obstacle.replace("/", "-")
        (out / obstacle).parent.mkdir(parents=True)
        (out / obstacle).write_text("mine")
        before = tree(out)
        assert call(run([inputs / "v.mp4", inputs / "0.png"], out, "--overwrite")) == 1
        assert capfd.readouterr().err.count("\n") == 1
        assert tree(out) == before


def test_no_result_replaces_another_input(run, tmp_path, capfd):
    image(tmp_path / "overlay/a.png")
    image(tmp_path / "a.png", 1)
    before = tree(tmp_path)
    assert call(run([tmp_path / "a.png", tmp_path / "overlay/a.png"], tmp_path / "overlay/..", "--overwrite")) in (0, 1)
    assert tree(tmp_path)["overlay/a.png"] == before["overlay/a.png"]
    assert tree(tmp_path)["a.png"] == before["a.png"]


def test_a_damaged_journal_is_one_line_and_leads_nowhere_else(run, inputs, tmp_path, capfd):
    out, victim = tmp_path / "out", tmp_path / "victim.txt"
    victim.write_text("mine")
    assert call(run([inputs / "0.png"], out)) == 0
    (out / ".predict").mkdir()
    for text in ("", "{", "[]\n", "\x00\xff", "[" * 100_000, '{"format": 1}', '{"format": 99, "settings": {}}'):
        (out / ".predict/journal.jsonl").write_text(text, encoding="latin-1")
        assert call(run([inputs / "0.png"], out, "--overwrite")) == 1
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "internal error" not in said
    assert victim.read_text() == "mine"


@forks
def test_a_journal_that_was_tampered_with_removes_nothing_outside(run, inputs, tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim.txt"
    victim.write_text("mine")
    assert forked(run([inputs / "v.mp4"], out), kill_at=20, folder=out, sent=signal.SIGINT) == 130
    journal = out / ".predict/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for path in ("../victim.txt", str(victim), "labels/../../victim.txt"):
        lines[-1]["partial"] = [path]
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert call(run([inputs / "v.mp4"], out, "--overwrite")) == 0
        assert victim.read_text() == "mine"
        (out / ".predict").mkdir(exist_ok=True)
    assert os.listdir(tmp_path).count("victim.txt") == 1
