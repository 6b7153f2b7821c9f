"""`iccld prepare --virtual`: drives show what was asked for, and all is looked at before anything is rendered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest

TOWN = ("prepare", "--size", "64x32", "--workers", "1")


def held(folder: Path) -> dict[str, str]:
    """All files below a folder with digests of their content; what SQLite rewrites when it is opened left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and "sqlite" not in path.name)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(answer: tuple[int, str, str]) -> str:
    """The one line of an error that a user can act on."""
    status, _, error = answer
    assert (status, error.count("\n")) == (1, 1), error
    return error


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def brightness(path: Path) -> float:
    return float(np.mean(frames(path)))


def test_a_drive_shows_the_road_the_light_and_the_weather_that_were_asked_for(iccld, tmp_path):
    command = (*TOWN, "--virtual", 1, "--look", "camera", "--virtual-drive", 0.12)
    for name, asked in {"town": (), "motorway": ("--kinds", "motorway", "--light", "night", "--rain", 1)}.items():
        status, said, error = iccld(*command, *asked, "--out", tmp_path / name)
        assert status == 0, error
    assert f"{tmp_path}/motorway/virtual-camera/drive.mp4: 0.12 s, motorway, night, rain\n" in said
    town, motorway = (tmp_path / name / "virtual-camera" for name in ("town", "motorway"))
    facts = json.loads((motorway / "drive.json").read_text())
    assert (facts["kind"], facts["hour"], facts["rain"], facts["seconds"]) == ("motorway", "night", True, 0.12)
    assert len(frames(motorway / "drive.mp4")) == 3
    assert brightness(motorway / "drive.mp4") < brightness(town / "drive.mp4") - 30


def test_the_same_drive_is_left_and_another_one_refused(iccld, tmp_path):
    out = tmp_path / "out"
    command = (*TOWN, "--virtual", 1, "--look", "game", "--out", out, "--virtual-drive")
    assert iccld(*command, 0.12)[0] == 0
    before = held(out)
    assert "drive.mp4: already there" in iccld(*command, 0.12)[1]
    assert held(out) == before
    longer = tuple(2 if word == 1 else word for word in command)
    error = refused(iccld(*longer, 0.2))
    assert f"{out}/virtual-game/drive.mp4 is another drive (seconds was 0.12, now 0.2): --force replaces it" in error
    assert "drive.mp4 is another drive" in iccld(*longer, 0.2, "--check")[2]
    assert held(out) == before, "the set has not grown either"
    assert iccld(*longer, 0.2, "--force")[0] == 0
    assert len(frames(out / "virtual-game/drive.mp4")) == 5
    (out / "virtual-game/drive.json").unlink()  # as an earlier version left it
    assert "no drive.json says what it shows" in refused(iccld(*longer, 0.2))


def test_a_drive_that_was_killed_goes_on_with_the_same_command(iccld, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = (*TOWN, "--virtual", 1, "--look", "game", "--out", out)
    assert iccld(*command, "--virtual-drive", 0.2)[0] == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("iccld_cli.prepare.drive.write_drive", killed)
        assert iccld(*command, "--virtual-drive", 0.12, "--force")[0] == 130
    assert "seconds was 0.12, now 0.2" in refused(iccld(*command, "--virtual-drive", 0.2))
    assert iccld(*command, "--virtual-drive", 0.12)[0] == 0
    assert len(frames(out / "virtual-game/drive.mp4")) == 3


def test_a_drive_lies_beside_its_set_by_another_name_and_in_parts(iccld, tmp_path):
    command = (*TOWN, "--virtual", 2, "--look", "game", "--name", "mine", "--virtual-drive", 0.12)
    assert iccld(*command, "--out", tmp_path / "one")[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["mine"]
    other = tmp_path / "other"
    for how in (("--part", "1/2"), ("--part", "2/2"), ("--merge",)):
        status, _, error = iccld(*command, "--out", other, *how)
        assert status == 0, error
    assert held(other) == held(tmp_path / "one")


def test_a_drive_that_no_video_can_hold_is_refused_before_the_set_is_rendered(iccld, tmp_path):
    command = ("prepare", "--virtual", 1, "--look", "game", "--out", tmp_path / "out", "--virtual-drive", 0.12)
    assert "a video cannot be 63x32" in refused(iccld(*command, "--size", "63x32"))
    assert "no negative seed" in refused(iccld(*command, "--size", "64x32", "--seed", -1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [(), ("--part", "1/2")])
def test_all_looks_are_looked_at_before_the_first_is_rendered(iccld, tmp_path, how):
    """Rain changes nothing in the game, whose set would continue, and is refused by the camera's."""
    out, looks = tmp_path / "out", ("--look", "game", "--look", "camera", "--out", tmp_path / "out")
    for look, *wanted in (("game", "--virtual", 1), ("camera", "--virtual", 2)):
        assert iccld(*TOWN, *wanted, "--look", look, "--out", out)[0] == 0
    before = held(out)
    error = refused(iccld(*TOWN, "--virtual", 2, *looks, "--rain", 0.5, *how))
    wanted = (
        "virtual-game exists and would grow" if how else "virtual-camera was prepared with other options (rain was None"
    )
    assert wanted in error
    assert held(out) == before


def test_parts_of_all_looks_are_looked_at_before_one_is_made(iccld, tmp_path):
    command = (*TOWN, "--virtual", 2, "--out", tmp_path)
    assert iccld(*command, "--look", "camera", "--part", "1/2")[0] == 0
    before = held(tmp_path)
    error = refused(iccld(*command, "--look", "game", "--look", "camera", "--rain", 0.5, "--part", "2/2"))
    assert "is a part of another set (rain was None, now 0.5)" in error
    assert held(tmp_path) == before
