"""A rendered set that is wanted larger keeps its frames, and nothing is rendered over."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.virtual import SPLIT_SPAN, VirtualTown
from iccld_cli.prepare.prepare import PrepareOptions, check_output, prepare
from iccld_cli.prepare.rehearsal import rehearse
from iccld_cli.prepare.with_bar import prepare_shown
from iccld_cli.town import Mix

SIZE = (48, 24)


class Counted(VirtualTown):
    """The town, which notes what it renders."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.rendered: list[str] = []

    def load(self, frame):
        self.rendered.append(f"{frame.split}/{frame.key}")
        return super().load(frame)


def run(town: VirtualTown, out: Path, **options) -> PreparedDataset:
    return prepare(town, out, "town", PrepareOptions(workers=1, **options))[0]


class Killed(Exception):
    """Stands for a signal that nothing catches."""


def leave_unfinished(town: VirtualTown, out: Path, done: int, **options) -> None:
    """Prepare until some frames are done."""

    def progress(number, total):
        if number == done:
            raise Killed

    with pytest.raises(Killed):
        prepare(town, out, "town", PrepareOptions(workers=1, **options), progress)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_larger_set_keeps_what_is_there_and_equals_one_made_at_once(tmp_path):
    run(Counted("game", 3, SIZE, 1), tmp_path)
    (tmp_path / "town/drive.mp4").write_bytes(b"video")
    before = contents(tmp_path / "town")
    town = Counted("game", 5, SIZE, 1)
    data = run(town, tmp_path)
    assert town.rendered == ["train/game_000003", "train/game_000004"]
    assert data.info.splits == {"train": 5}
    after = contents(tmp_path / "town")
    assert all(after[path] == data for path, data in before.items() if path.startswith(("images", "labels", "drive")))
    whole = run(Counted("game", 5, SIZE, 1), tmp_path / "whole")
    other = contents(whole.root)
    assert after.pop("drive.mp4") == b"video"
    assert after["index.jsonl"] == other["index.jsonl"]
    assert {p: d for p, d in after.items() if p[:6] in ("images", "labels")} == {
        p: d for p, d in other.items() if p[:6] in ("images", "labels")
    }
    # What is measured of frames taken over is measured on the stored JPEG, here of a few pixels.
    assert data.info.extra["mean"] == pytest.approx(whole.info.extra["mean"], abs=1e-2)
    assert data.info.extra["std"] == pytest.approx(whole.info.extra["std"], abs=1e-2)


def test_held_back_scenes_stay_held_back_in_a_larger_set():
    def scenes(frames: int) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for frame in VirtualTown("camera", frames, SIZE, 0).scan():
            found.setdefault(frame.split, set()).add(int(frame.image))
        return found

    small, large = scenes(40), scenes(4000)
    assert all(small[split] < large[split] for split in ("train", "val", "test"))
    assert not small["val"] & large["train"]
    assert not small["test"] & (large["train"] | large["val"])
    assert max(large["train"]) < SPLIT_SPAN <= min(large["val"])


def test_a_damaged_frame_is_rendered_again(tmp_path):
    run(Counted("game", 3, SIZE, 1), tmp_path)
    path = tmp_path / "town/images/train/game_000001.jpg"
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"damaged!!")
    town = Counted("game", 4, SIZE, 1)
    run(town, tmp_path)
    assert town.rendered == ["train/game_000001", "train/game_000003"]
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("town", "says"),
    [
        (Counted("game", 2, SIZE, 1), "frames was 3, now 2"),
        (Counted("game", 5, SIZE, 2), "seed was 1, now 2"),
        (Counted("game", 5, SIZE, 1, Mix(kinds=(("country", 1.0),))), "kinds was"),
        (Counted("camera", 5, SIZE, 1), "look was 'game', now 'camera'"),
        (Counted("game", 5, (64, 24), 1), r"size was \[48, 24\], now \[64, 24\]"),
    ],
)
def test_other_settings_render_nothing_over_what_is_there(tmp_path, town, says):
    run(VirtualTown("game", 3, SIZE, 1), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(IccldError, match=says):
        run(town, tmp_path)
    assert contents(tmp_path) == before
    assert not town.rendered


def test_a_set_with_a_held_out_share_is_not_continued(tmp_path):
    run(VirtualTown("game", 4, SIZE, 1), tmp_path, hold_out=0.25)
    with pytest.raises(IccldError, match="frames was 4, now 8"):
        run(VirtualTown("game", 8, SIZE, 1), tmp_path, hold_out=0.25)


def test_a_rehearsal_knows_that_a_set_can_be_continued(tmp_path):
    run(VirtualTown("game", 3, SIZE, 1), tmp_path)
    assert not rehearse(VirtualTown("game", 5, SIZE, 1), tmp_path, "town", PrepareOptions(workers=1)).problems
    assert rehearse(VirtualTown("game", 2, SIZE, 1), tmp_path, "town", PrepareOptions(workers=1)).problems


def test_a_refusal_names_each_hindrance_once_and_no_other(tmp_path):
    """The town records its size twice, and more frames alone would continue the set."""
    run(VirtualTown("game", 2, SIZE, 1), tmp_path, size=SIZE)
    options = PrepareOptions(workers=1, size=(64, 32))
    wanted = re.escape("(seed was 1, now 2; size was [48, 24], now [64, 32])")
    with pytest.raises(IccldError, match=wanted):
        prepare(VirtualTown("game", 4, (64, 32), 2), tmp_path, "town", options)
    (problem,) = rehearse(VirtualTown("game", 4, (64, 32), 2), tmp_path, "town", options).problems
    assert re.search(wanted, problem)


@pytest.mark.parametrize(
    ("town", "says"),
    [
        (Counted("game", 5, SIZE, 2), "(seed was 1, now 2)"),
        (Counted("game", 3, SIZE, 1), "(frames was 5, now 3)"),
        (
            Counted("game", 9, SIZE, 1, Mix(kinds=(("country", 1.0),))),
            "(kinds was {'urban': 1.0}, now {'country': 1.0})",
        ),
    ],
)
def test_an_unfinished_set_of_other_settings_is_kept_until_it_is_given_up(tmp_path, town, says):
    leave_unfinished(VirtualTown("game", 5, SIZE, 1), tmp_path, 2)
    before = contents(tmp_path)
    words = re.escape(f"{tmp_path}/.town.partial holds 2 frames of an unfinished set with other options {says}: ")
    for stopped in (run, lambda town, out: check_output(town, out, "town", PrepareOptions())):
        with pytest.raises(IccldError, match=f"{words}.*--force"):
            stopped(town, tmp_path)
    assert re.search(words, rehearse(town, tmp_path, "town", PrepareOptions(workers=1)).problems[0])
    assert {p for p in contents(tmp_path) if "data/" in p} == {p for p in before if "data/" in p}
    town.rendered.clear()
    again = Counted("game", 5, SIZE, 1)
    assert run(again, tmp_path).info.splits == {"train": 5}
    assert again.rendered == [f"train/game_{number:06d}" for number in (2, 3, 4)]
    leave_unfinished(VirtualTown("game", 5, SIZE, 3), tmp_path, 1, force=True)
    assert run(town, tmp_path, force=True).info.splits == {"train": town.frames}
    assert len(town.rendered) == town.frames
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


def test_an_unfinished_set_goes_on_with_more_frames(tmp_path):
    leave_unfinished(VirtualTown("game", 3, SIZE, 1), tmp_path, 2)
    town = Counted("game", 5, SIZE, 1)
    run(town, tmp_path)
    assert town.rendered == [f"train/game_{number:06d}" for number in (2, 3, 4)]
    run(VirtualTown("game", 5, SIZE, 1), tmp_path / "whole")
    assert contents(tmp_path / "town") == contents(tmp_path / "whole/town")


def test_nothing_is_asked_where_nothing_is_done(tmp_path):
    leave_unfinished(VirtualTown("game", 5, SIZE, 1), tmp_path, 0)
    assert run(VirtualTown("game", 2, SIZE, 2), tmp_path).info.splits == {"train": 2}


def test_a_finished_set_is_found_beside_the_beginning_of_another(tmp_path):
    run(VirtualTown("game", 2, SIZE, 1), tmp_path)
    leave_unfinished(VirtualTown("game", 2, SIZE, 7), tmp_path, 1, force=True)
    before = contents(tmp_path)
    again = Counted("game", 2, SIZE, 1)
    assert prepare(again, tmp_path, "town", PrepareOptions(workers=1))[1] is False
    with pytest.raises(IccldError, match=r"town was prepared with other options \(seed was 1, now 7\)"):
        run(Counted("game", 2, SIZE, 7), tmp_path)  # with --force it would go on
    with pytest.raises(IccldError, match=r"town was prepared with other options \(seed was 1, now 8\)"):
        run(Counted("game", 2, SIZE, 8), tmp_path)
    with pytest.raises(IccldError, match=r"partial holds 1 frame of .* \(seed was 7, now 1\)"):
        run(Counted("game", 3, SIZE, 1), tmp_path)
    assert not again.rendered
    after = contents(tmp_path)
    assert {p for p in after if "sqlite" not in p} == {p for p in before if "sqlite" not in p}
    town = Counted("game", 2, SIZE, 7)
    run(town, tmp_path, force=True)
    assert town.rendered == ["train/game_000001"]


def test_what_another_version_left_unfinished_is_told(tmp_path):
    leave_unfinished(VirtualTown("game", 3, SIZE, 1), tmp_path, 2)
    marker = tmp_path / ".town.partial/run.json"
    version, origin = json.loads(marker.read_text())
    marker.write_text(json.dumps(["0.0.1", origin]))
    with pytest.raises(IccldError, match=rf"2 frames .* \(version was 0\.0\.1, now {re.escape(version)}\)"):
        run(VirtualTown("game", 3, SIZE, 1), tmp_path)
    said = io.StringIO()
    town = Counted("game", 3, SIZE, 1)
    prepare_shown(town, tmp_path, "town", PrepareOptions(workers=1), Console(file=said, width=300))
    assert len(town.rendered) == 3
    assert sum("version was 0.0.1" in line and "is begun anew" in line for line in said.getvalue().splitlines()) == 1
