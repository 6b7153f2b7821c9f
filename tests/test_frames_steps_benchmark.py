"""`benchmarks/frames_steps.py`: which cells it sets beside each other, and what a doubling is worth."""

import json
import sys
from pathlib import Path

import cv2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import frames_steps

from iccld_cli.compare.spec import read_comparison

CELLS = {
    (100, 1200): (50, 52),
    (400, 300): (46, 47),
    (400, 1200): (54, 55),
    (1600, 1200): (55, 57),
    (1600, 2400): (57, 56),
}


@pytest.fixture
def results(tmp_path):
    rows = [
        {"name": f"frames-{n}-steps-{steps}", "columns": {"val": {"seeds": [0, 1], "mious": list(mious)}}}
        for (n, steps), mious in reversed(CELLS.items())
    ]
    rows += [
        {"name": "oracle", "columns": {"val": {"seeds": [0], "mious": [70]}}},
        {"name": "frames-9-steps-9", "columns": {}},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": rows}))
    return path


def test_a_doubling_is_worth_what_lies_between_neighbours_that_share_the_other_number(results):
    cells = frames_steps.read_cells(json.loads(results.read_text()))
    found = {what: (count, gains["val"]) for what, count, gains in frames_steps.doublings(cells)}
    assert found == {
        "400 frames, 300 to 1,200 steps": (2, [8, 8]),
        "1,600 frames, 1,200 to 2,400 steps": (1, [2, -1]),
        "1,200 steps, 100 to 400 frames": (2, [4, 3]),
        "1,200 steps, 400 to 1,600 frames": (2, [1, 2]),
    }
    assert "| 1,200 steps, 400 to 1,600 frames | 2 | +0.8 (+0.5, +1.0) |" in frames_steps.doublings_table(cells)


def test_a_seed_that_one_of_two_lacks_is_left_out_of_their_gain(results):
    found = json.loads(results.read_text())
    next(row for row in found["rows"] if row["name"] == "frames-100-steps-1200")["columns"]["val"] = {
        "seeds": [1],
        "mious": [52],
    }
    gains = {what: gains["val"] for what, _, gains in frames_steps.doublings(frames_steps.read_cells(found))}
    assert gains["1,200 steps, 100 to 400 frames"] == [3]


def test_the_command_draws_a_picture_and_tells_in_a_line_what_it_cannot_read(results, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "frames.png"
    monkeypatch.setattr(sys, "argv", ["frames_steps.py", str(tmp_path), str(picture)])
    frames_steps.main()
    assert cv2.imread(str(picture)) is not None and capsys.readouterr().out.count("\n") == 6
    results.write_text("{")
    with pytest.raises(SystemExit, match=r"results\.json: "):
        frames_steps.main()
    results.write_text('{"rows": []}')
    with pytest.raises(SystemExit, match="no row named"):
        frames_steps.main()


def test_the_rows_of_the_comparison_are_cells_and_their_names_say_what_they_train_on():
    comparison = read_comparison(Path(frames_steps.__file__).with_name("frames-steps.toml"))
    rows = [(frames_steps.ROW.fullmatch(row.name), row) for row in comparison.row]
    assert len(rows) == 5
    for match, row in rows:
        assert {f"camera-{match[1]}", f"game-{match[1]}"} < set(row.seg.source)
        assert (row.seg.iterations or comparison.training.seg.iterations) == int(match[2])
